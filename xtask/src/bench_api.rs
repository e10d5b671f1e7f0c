//! `cargo xtask bench api`: what requests cost the API server.

use anyhow::{Result, bail};

use crate::shell::run;

const PARTS: [&str; 4] = ["requests", "list", "watch", "memory"];

/// Runs the load of `apiserver/examples/bench_api.rs` in an optimised build: all of it, or one part.
pub fn api(part: Option<&str>) -> Result<()> {
    let command = ["run", "--quiet", "--release", "--package", "skiff-apiserver", "--example", "bench_api"];
    match part {
        None => run("cargo", &command),
        Some(part) if PARTS.contains(&part) => run("cargo", &[&command[..], &["--", part]].concat()),
        Some(other) => bail!("no part {other:?}; there are {}", PARTS.join(", ")),
    }
}
