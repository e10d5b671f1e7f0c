//! Everything that must hold, cheapest first.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{
    dist,
    shell::{run, run_heard},
    tidy,
};

/// Runs all checks and tests; stops at the first stage that fails.
pub fn test() -> Result<()> {
    stage("format", || run("cargo", &["fmt", "--all", "--check"]))?;
    stage("tidy", tidy::run)?;
    stage("clippy", || {
        run("cargo", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"])
    })?;
    stage("unit and integration tests", unit_tests)?;
    stage("release binary with payload", || dist::dist(dist::Profile::Release))?;
    // The conformance battery is a run of its own: `cargo xtask conformance`.
    stage("cluster tests", || {
        run("cargo", &["test", "--package", "skiff-tests", "--lib", "--test", "clients", "--test", "cluster"])
    })
}

/// Real kernels, databases and clocks take part: a test program that fails has one more attempt, in the open, as the
/// suites give.
fn unit_tests() -> Result<()> {
    let (passed, heard) =
        run_heard("cargo", &["test", "--quiet", "--workspace", "--exclude", "skiff-tests", "--no-fail-fast"])?;
    if passed {
        return Ok(());
    }
    let failed = failed_programs(&heard);
    ensure!(!failed.is_empty(), "cargo test failed before a test ran");
    for arguments in failed {
        println!("==> {} failed at the first attempt: a second one decides", arguments.join(" "));
        run("cargo", &[&["test", "--quiet"], &arguments[..]].concat())?;
    }
    Ok(())
}

/// The arguments that run each failed program again, as cargo names them.
fn failed_programs(heard: &str) -> Vec<Vec<&str>> {
    let named = heard.lines().filter_map(|line| line.split_once("to rerun pass `")?.1.split_once('`'));
    named.map(|(arguments, _)| arguments.split(' ').collect()).collect()
}

fn stage(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("==> {name}");
    let begun = Instant::now();
    work()?;
    println!("==> {name}: passed in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_run_again_and_nothing_else() {
        let heard = "error: test failed, to rerun pass `-p skiff-agent --test node`\nnoise\n\
                     error: doctest failed, to rerun pass `-p skiff-api --doc`\n\
                     error: 2 targets failed:\n    `-p skiff-agent --test node`\n    `-p skiff-api --doc`\n";
        assert_eq!(
            failed_programs(heard),
            [vec!["-p", "skiff-agent", "--test", "node"], vec!["-p", "skiff-api", "--doc"]]
        );
        assert!(failed_programs("error: could not compile `skiff-api` (lib)").is_empty());
    }
}
