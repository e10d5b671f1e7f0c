//! The conformance battery: black-box tests against any cluster, one per row of
//! the v1.37 conformance list that is covered so far, named after the row and
//! asserting what the upstream test asserts.
//!
//! `KUBECONFIG` names the cluster; without it the battery starts one of two
//! nodes. Words on the command line select rows whose title contains them;
//! `--report FILE` writes the result per area, `--slow` includes rows that take
//! minutes, `--serve` only starts a cluster. Rows marked Serial run alone.
//!
//! Every covered row must pass, except those that `failing.txt` lists with a
//! reason; a listed row that passes is an error too, so the list cannot rot.

mod api;
mod api_machinery;
mod apps;
mod auth;
mod bring;
mod cli;
mod context;
mod failing;
mod instrumentation;
mod network;
mod node;
mod operations;
mod pods;
mod report;
mod rows;
mod scheduling;
mod storage;

use std::{process::ExitCode, time::Duration, time::Instant};

use anyhow::Result;
use context::Context;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use report::{Outcome, Report};
use rows::Row;

/// Rows that run at the same time; more would make two cores the bottleneck of timing tests.
const PARALLEL: usize = 8;
/// No row may take longer.
const ROW_LIMIT: Duration = Duration::from_secs(600);

/// One covered row.
pub struct Test {
    pub area: &'static str,
    pub group: &'static str,
    /// Exactly as in the list.
    pub name: &'static str,
    pub run: fn(Context) -> BoxFuture<'static, Result<()>>,
}

/// Declares the tests of a file: area, groups, row names and functions.
#[macro_export]
macro_rules! rows {
    ($area:literal; $($group:literal { $($name:literal => $function:expr),* $(,)? })*) => {
        pub fn tests() -> Vec<$crate::Test> {
            vec![$($($crate::Test {
                area: $area, group: $group, name: $name,
                run: |context: $crate::context::Context| Box::pin(($function)(context)),
            }),*),*]
        }
    };
}

fn covered() -> Vec<Test> {
    [
        api_machinery::tests(),
        apps::tests(),
        auth::tests(),
        cli::tests(),
        instrumentation::tests(),
        network::tests(),
        node::tests(),
        scheduling::tests(),
        storage::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = if words.iter().any(|word| word == "--list") {
        list()
    } else if std::env::var_os("KUBECONFIG").is_none() {
        bring::run_inside(&words)
    } else {
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(run(words)))
    };
    result.unwrap_or_else(|error| {
        eprintln!("conformance: {error:#}");
        ExitCode::FAILURE
    })
}

/// Shows what is covered, without a cluster.
fn list() -> Result<ExitCode> {
    let rows = rows::all()?;
    for test in covered() {
        println!("{}: test", rows::find(&rows, test.area, test.group, test.name)?.title());
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(words: Vec<String>) -> Result<ExitCode> {
    let report_path = words.iter().position(|word| word == "--report").and_then(|at| words.get(at + 1).cloned());
    let filters: Vec<&String> =
        words.iter().filter(|word| !word.starts_with("--") && Some(*word) != report_path.as_ref()).collect();
    let list = rows::all()?;
    let known = failing::all(&list)?;
    let mut selected: Vec<(&Row, Test)> = Vec::new();
    for test in covered() {
        let row = rows::find(&list, test.area, test.group, test.name)?;
        if filters.is_empty() || filters.iter().any(|filter| row.title().contains(filter.as_str())) {
            selected.push((row, test));
        }
    }
    let context = Context::from_environment().await?;
    println!("\nrunning {} tests", selected.len());
    let begun = Instant::now();
    let (serial, parallel): (Vec<_>, Vec<_>) = selected.into_iter().partition(|(row, _)| row.is_serial());
    let mut report = Report::new(&list, known);
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

/// Runs a row, and once more when it fails: on a busy machine a deadline may
/// pass for no fault of the product. The first failure is always printed.
async fn one<'a>(context: &Context, row: &'a Row, test: Test) -> Outcome<'a> {
    let started = Instant::now();
    let mut error = attempt(context, &test).await;
    if let Some(first) = &error {
        println!("    {}: first attempt: {first}", row.name);
        error = attempt(context, &test).await;
    }
    let outcome = Outcome { row, error, took: started.elapsed() };
    outcome.print();
    outcome
}

/// One run of a row in namespaces of its own; `None` when it passed.
async fn attempt(context: &Context, test: &Test) -> Option<String> {
    let own = context.for_test();
    let work = tokio::time::timeout(ROW_LIMIT, (test.run)(own.clone()));
    let result = match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(anyhow::anyhow!("not done within {} s", ROW_LIMIT.as_secs())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(anyhow::anyhow!("panicked: {}", text.unwrap_or_default()))
        }
    };
    own.clean_up().await;
    result.err().map(|error| format!("{error:#}"))
}
