//! The conformance list: area, name and tags of every row.

use anyhow::{Context as _, Result};

/// A row of the list.
#[derive(Clone, Debug)]
pub struct Row {
    pub area: &'static str,
    pub name: &'static str,
    pub tags: &'static str,
}

impl Row {
    /// Must not run beside others.
    pub fn is_serial(&self) -> bool {
        self.tags.contains("Serial")
    }
}

/// All 462 rows.
pub fn all() -> Result<Vec<Row>> {
    include_str!("rows.tsv").lines().map(parse).collect()
}

fn parse(line: &'static str) -> Result<Row> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let area = next().context("area")?;
    let name = next().with_context(|| format!("name in {line:?}"))?;
    Ok(Row { area, name, tags: next().unwrap_or_default() })
}

/// The row of that name; a test that names none is a mistake.
pub fn find<'a>(rows: &'a [Row], name: &str) -> Result<&'a Row> {
    rows.iter().find(|row| row.name == name).with_context(|| format!("no row is named {name:?}"))
}
