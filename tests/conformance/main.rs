//! The conformance battery: black-box tests against any cluster, one per row of
//! the v1.37 conformance list that is covered so far, named after the row and
//! asserting what the upstream test asserts.
//!
//! `KUBECONFIG` names the cluster, `CONFORMANCE_IMAGE` an image with busybox
//! that its nodes have. Words on the command line select rows that contain them;
//! `--report FILE` writes the result per area. Rows marked Serial run alone.

mod api_machinery;
mod context;
mod report;
mod rows;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use context::Context;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use report::{Outcome, Report};
use rows::Row;

/// Rows that run at the same time; more would make two cores the bottleneck of timing tests.
const PARALLEL: usize = 6;

/// One covered row.
pub struct Test {
    /// Exactly as in the list.
    pub name: &'static str,
    pub run: fn(Context) -> BoxFuture<'static, Result<()>>,
}

/// Declares the tests of a file: row name and function.
#[macro_export]
macro_rules! rows {
    ($($name:literal => $function:path),* $(,)?) => {
        pub fn tests() -> Vec<$crate::Test> {
            vec![$($crate::Test { name: $name, run: |context| Box::pin($function(context)) }),*]
        }
    };
}

fn covered() -> Vec<Test> {
    [api_machinery::tests()].into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(run()) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("conformance: {error:#}");
    ExitCode::FAILURE
}

async fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let report_path = arguments.iter().position(|argument| argument == "--report").map(|at| arguments[at + 1].clone());
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--") && Some(*argument) != report_path.as_ref())
        .collect();
    let list = rows::all()?;
    let tests = covered();
    let selected: Vec<(&Row, Test)> = tests
        .into_iter()
        .map(|test| Ok((rows::find(&list, test.name)?, test)))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|(row, _)| filters.is_empty() || filters.iter().any(|filter| row.name.contains(filter.as_str())))
        .collect();
    let Some(context) = Context::from_environment().await? else {
        // Without a cluster there is nothing to run against: `cargo xtask conformance` brings one.
        println!("\nno KUBECONFIG: {} rows covered of {}", selected.len(), list.len());
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {} filtered out", selected.len());
        return Ok(ExitCode::SUCCESS);
    };
    println!("\nrunning {} tests", selected.len());
    let begun = Instant::now();
    let (serial, parallel): (Vec<_>, Vec<_>) = selected.into_iter().partition(|(row, _)| row.is_serial());
    let mut report = Report::new(&list);
    let mut outcomes =
        stream::iter(parallel.into_iter().map(|(row, test)| one(&context, row, test))).buffer_unordered(PARALLEL);
    while let Some(outcome) = outcomes.next().await {
        report.add(outcome);
    }
    for (row, test) in serial {
        report.add(one(&context, row, test).await);
    }
    report.print(begun.elapsed());
    if let Some(path) = report_path {
        std::fs::write(path, report.markdown())?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn one<'a>(context: &Context, row: &'a Row, test: Test) -> Outcome<'a> {
    let started = Instant::now();
    let own = context.for_test();
    let result = std::panic::AssertUnwindSafe((test.run)(own.clone())).catch_unwind().await;
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow::anyhow!("panicked: {}", text.unwrap_or_default()))
    });
    own.clean_up().await;
    let outcome = Outcome { row, error: result.err().map(|error| format!("{error:#}")), took: started.elapsed() };
    outcome.print();
    outcome
}
