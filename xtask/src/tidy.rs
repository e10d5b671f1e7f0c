//! What rustfmt and clippy cannot check.
//!
//! - crates use each other only along the edges of the architecture;
//! - every source file says at its top what it is;
//! - no file grows past the limit (tables and tests excepted);
//! - `unsafe` stands only in `host`;
//! - nothing is left unfinished in the open (`todo!`, `#[ignore]`).

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Result, bail};
use cargo_metadata::MetadataCommand;

use crate::shell::{output, root};

/// Crate -> crates of ours it may use. Tests, xtask and cmd may use all.
const EDGES: &[(&str, &[&str])] = &[
    ("skiff-api", &[]),
    ("skiff-cel", &[]),
    ("skiff-kine", &[]),
    ("skiff-tunnel", &[]),
    ("skiff-host", &[]),
    ("skiff-bundled-manifests", &[]),
    ("skiff-client", &["skiff-api"]),
    ("skiff-apiserver", &["skiff-api", "skiff-cel", "skiff-client"]),
    ("skiff-controllers", &["skiff-api", "skiff-client"]),
    ("skiff-scheduler", &["skiff-api", "skiff-client"]),
    ("skiff-agent", &["skiff-api", "skiff-client", "skiff-host"]),
    ("skiff-network", &["skiff-api", "skiff-client", "skiff-host"]),
];
const FREE: &[&str] = &["skiff", "skiff-tests", "xtask"];
const LINES_MAX: usize = 1000;

/// Prints every finding; fails when there is one.
pub fn run() -> Result<()> {
    let mut findings = edges()?;
    for file in output("git", &["ls-files", "*.rs"])?.lines() {
        let path = root().join(file);
        // Deleted but not yet committed.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        findings.extend(file_findings(file, &text).into_iter().map(|finding| format!("{file}: {finding}")));
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("tidy: nothing found");
    Ok(())
}

fn edges() -> Result<Vec<String>> {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec()?;
    let allowed: HashMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        if FREE.contains(&name) {
            continue;
        }
        let Some(allowed) = allowed.get(name) else {
            findings.push(format!("{name}: not in the table of crate edges"));
            continue;
        };
        for dependency in &package.dependencies {
            let used = dependency.name.as_str();
            if used.starts_with("skiff-") && !allowed.contains(&used) {
                findings.push(format!("{name} must not use {used}"));
            }
        }
    }
    Ok(findings)
}

fn file_findings(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let is_test = file.split('/').any(|part| part == "tests" || part.ends_with("tests.rs"));
    let is_table = is_table(file);
    let own_lines = text.split("#[cfg(test)]").next().unwrap_or(text).lines().count();
    if own_lines > LINES_MAX && !is_test && !is_table {
        findings.push(format!("{own_lines} lines; the limit is {LINES_MAX}"));
    }
    if !text.starts_with("//!") && !text.starts_with("#!") {
        findings.push("does not begin with a module doc (//!)".to_owned());
    }
    if text.starts_with("//! placeholder") {
        findings.push("is a placeholder".to_owned());
    }
    if file.starts_with("xtask/") {
        return findings;
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let bad = [("todo!(", "unfinished"), ("unimplemented!(", "unfinished"), ("#[ignore", "ignored test")];
        for (pattern, what) in bad {
            if code.contains(pattern) {
                findings.push(format!("line {}: {what}", number + 1));
            }
        }
        if !file.starts_with("host/") && (code.contains("unsafe {") || code.contains("unsafe fn")) {
            findings.push(format!("line {}: unsafe outside host", number + 1));
        }
    }
    findings
}

/// Tables may be long: their rows are data.
fn is_table(file: &str) -> bool {
    let name = Path::new(file).file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.contains("table") || file.contains("/resources/")
}
