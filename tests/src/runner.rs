//! Runs the tests of a suite one after another on one fixture and prints them
//! the way cargo's own harness does. A filter on the command line selects tests
//! whose names contain it; `--list` shows the names.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, anyhow};

/// A named test on a fixture.
pub struct Test<F> {
    /// A claim: what is true when the test passes.
    pub name: &'static str,
    pub run: fn(&mut F) -> Result<()>,
}

/// Names a function as a test by its own name.
#[macro_export]
macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$($crate::runner::Test { name: concat!(stringify!($module), "::", stringify!($name)), run: $module::$name }),*]
    };
}

/// Builds the fixture, runs the selected tests in order, and says how it went.
pub fn main<F>(tests: &[Test<F>], fixture: impl FnOnce() -> Result<F>) -> ExitCode {
    main_with(tests, fixture, |_| String::new())
}

/// Like [`main`]; after a failure prints what `diagnose` knows.
pub fn main_with<F>(
    tests: &[Test<F>],
    fixture: impl FnOnce() -> Result<F>,
    diagnose: impl Fn(&F) -> String,
) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let selected: Vec<&Test<F>> = tests
        .iter()
        .filter(|test| filters.is_empty() || filters.iter().any(|filter| test.name.contains(filter.as_str())))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for test in selected {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    if selected.is_empty() {
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {} filtered out", tests.len());
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    let mut fixture = match fixture() {
        Ok(fixture) => fixture,
        Err(error) => {
            println!("the fixture could not be built: {error:#}");
            println!(
                "\ntest result: FAILED. 0 passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
                selected.len()
            );
            return ExitCode::FAILURE;
        }
    };
    let mut failures = Vec::new();
    for test in &selected {
        let started = Instant::now();
        let (outcome, attempts) = attempt(test, &mut fixture);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) if attempts > 1 => println!("test {} ... ok at attempt {attempts} ({seconds:.1}s)", test.name),
            Ok(()) => println!("test {} ... ok ({seconds:.1}s)", test.name),
            Err(error) => {
                println!("test {} ... FAILED ({seconds:.1}s)", test.name);
                println!("    {}", format!("{error:#}").replace('\n', "\n    "));
                for line in diagnose(&fixture).lines() {
                    println!("    | {line}");
                }
                failures.push(test.name);
            }
        }
    }
    drop(fixture);
    let passed = selected.len() - failures.len();
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.1}s",
        failures.len(),
        tests.len() - selected.len(),
        begun.elapsed().as_secs_f64()
    );
    for name in &failures {
        println!("failed: {name}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a test, and once more when it fails: on a busy machine a deadline may
/// pass for no fault of the product. The first failure is always printed.
fn attempt<F>(test: &Test<F>, fixture: &mut F) -> (Result<()>, u32) {
    let mut once = || {
        catch_unwind(AssertUnwindSafe(|| (test.run)(fixture)))
            .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(&*panic))))
    };
    match once() {
        Ok(()) => (Ok(()), 1),
        Err(error) => {
            println!("    {}: first attempt: {}", test.name, format!("{error:#}").replace('\n', "\n    "));
            (once(), 2)
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
