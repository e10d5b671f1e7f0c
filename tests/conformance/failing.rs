//! Covered rows that are known not to pass yet, each with its reason.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::rows::Row;

/// Title -> reason. Lines are `title <TAB> reason`; `#` begins a comment.
pub fn all(rows: &[Row]) -> Result<BTreeMap<String, &'static str>> {
    let lines = include_str!("failing.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| parse(rows, line)).collect()
}

fn parse(rows: &[Row], line: &'static str) -> Result<(String, &'static str)> {
    let (title, reason) = line.split_once('\t').with_context(|| format!("failing.txt: no reason in {line:?}"))?;
    ensure!(rows.iter().any(|row| row.title() == title), "failing.txt: no row is titled {title:?}");
    ensure!(!reason.trim().is_empty(), "failing.txt: {title} has no reason");
    Ok((title.to_owned(), reason))
}
