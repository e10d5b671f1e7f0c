//! The conformance list: area, group, name and tags of every row.

use anyhow::{Context as _, Result};

/// A row of the list; group and name together are unique within an area.
#[derive(Clone, Debug)]
pub struct Row {
    pub area: &'static str,
    pub group: &'static str,
    pub name: &'static str,
    pub tags: &'static str,
}

impl Row {
    /// Must not run beside others.
    pub fn is_serial(&self) -> bool {
        self.tags.contains("Serial")
    }

    /// `[area] group name`, which is what filters look at.
    pub fn title(&self) -> String {
        format!("[{}] {} {}", self.area, self.group, self.name)
    }
}

/// All 462 rows.
pub fn all() -> Result<Vec<Row>> {
    include_str!("rows.tsv").lines().map(parse).collect()
}

fn parse(line: &'static str) -> Result<Row> {
    let mut fields = line.split('\t');
    let mut next = || fields.next().with_context(|| format!("too few fields in {line:?}"));
    Ok(Row { area: next()?, group: next()?, name: next()?, tags: next()? })
}

/// The row of that name; a test that names none is a mistake.
pub fn find<'a>(rows: &'a [Row], area: &str, group: &str, name: &str) -> Result<&'a Row> {
    rows.iter()
        .find(|row| row.area == area && row.group == group && row.name == name)
        .with_context(|| format!("no row is named [{area}] {group} {name}"))
}
