//! Everything that must hold, cheapest first.

use std::time::Instant;

use anyhow::Result;

use crate::{dist, shell::run, tidy};

/// Runs all checks and tests; stops at the first stage that fails.
pub fn test() -> Result<()> {
    stage("format", || run("cargo", &["fmt", "--all", "--check"]))?;
    stage("tidy", tidy::run)?;
    stage("clippy", || {
        run("cargo", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"])
    })?;
    stage("unit and integration tests", || {
        let arguments = ["test", "--quiet", "--workspace", "--exclude", "skiff-tests", "--no-fail-fast"];
        // Real kernels, databases and clocks take part: one more attempt, in the open, as the suites give.
        run("cargo", &arguments).or_else(|error| {
            println!("==> the first attempt failed ({error}): a second one decides");
            run("cargo", &arguments)
        })
    })?;
    stage("release binary with payload", || dist::dist(dist::Profile::Release))?;
    // The conformance battery is a run of its own: `cargo xtask conformance`.
    stage("cluster tests", || {
        run("cargo", &["test", "--package", "skiff-tests", "--lib", "--test", "clients", "--test", "cluster"])
    })
}

fn stage(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("==> {name}");
    let begun = Instant::now();
    work()?;
    println!("==> {name}: passed in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}
