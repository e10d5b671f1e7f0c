//! Runs the conformance battery on a fresh two-node cluster of the binary.

use anyhow::Result;

use crate::{
    dist,
    shell::{root, run},
};

/// Builds the binary and runs the rows whose titles contain one of the words.
/// A run of all rows writes `docs/conformance.md`.
pub fn conformance(profile: dist::Profile, words: &[String]) -> Result<()> {
    dist::dist(profile)?;
    battery(words)
}

/// The battery alone, on the binary that is there.
pub fn battery(words: &[String]) -> Result<()> {
    let page = root().join("docs/conformance.md").display().to_string();
    let mut arguments = vec!["test", "--package", "skiff-tests", "--test", "conformance", "--"];
    arguments.extend(words.iter().map(String::as_str));
    if words.iter().all(|word| word.starts_with("--")) {
        arguments.extend(["--report", &page]);
    }
    run("cargo", &arguments)
}
