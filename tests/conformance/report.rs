//! What was covered and what passed, per area.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use crate::rows::Row;

/// How one row went.
pub struct Outcome<'a> {
    pub row: &'a Row,
    pub error: Option<String>,
    pub took: Duration,
}

impl Outcome<'_> {
    pub fn print(&self) {
        let seconds = self.took.as_secs_f64();
        match &self.error {
            None => println!("test {} ... ok ({seconds:.1}s)", self.row.title()),
            Some(error) => println!("test {} ... FAILED ({seconds:.1}s)\n    {error}", self.row.title()),
        }
    }
}

/// Results of a run.
pub struct Report<'a> {
    rows: &'a [Row],
    /// Title -> reason of rows that need not pass.
    known: BTreeMap<String, &'static str>,
    outcomes: Vec<Outcome<'a>>,
}

impl<'a> Report<'a> {
    pub fn new(rows: &'a [Row], known: BTreeMap<String, &'static str>) -> Report<'a> {
        Report { rows, known, outcomes: Vec::new() }
    }

    pub fn add(&mut self, outcome: Outcome<'a>) {
        self.outcomes.push(outcome);
    }

    /// Everything went as the list of failing rows says.
    pub fn is_clean(&self) -> bool {
        self.surprises().next().is_none()
    }

    fn surprises(&self) -> impl Iterator<Item = &Outcome<'a>> {
        self.outcomes.iter().filter(|outcome| outcome.error.is_some() != self.known.contains_key(&outcome.row.title()))
    }

    fn passed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.error.is_none()).count()
    }

    /// Area -> (total, covered, passed).
    fn areas(&self) -> BTreeMap<&str, (usize, usize, usize)> {
        let mut areas: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
        for row in self.rows {
            areas.entry(row.area).or_default().0 += 1;
        }
        for outcome in &self.outcomes {
            let area = areas.entry(outcome.row.area).or_default();
            area.1 += 1;
            area.2 += usize::from(outcome.error.is_none());
        }
        areas
    }

    /// The closing lines, in the form of cargo's own harness.
    pub fn print(&self, took: Duration) {
        println!();
        for (area, (total, covered, passed)) in self.areas() {
            println!("{area:16} covered {covered:3}  passed {passed:3}  of {total:3}");
        }
        for outcome in self.surprises() {
            match outcome.error {
                Some(_) => println!("failed: {}", outcome.row.title()),
                None => println!("passes, remove it from failing.txt: {}", outcome.row.title()),
            }
        }
        let (passed, failed) = (self.passed(), self.outcomes.len() - self.passed());
        let verdict = if self.is_clean() { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.1}s",
            took.as_secs_f64()
        );
    }

    /// The page `docs/conformance.md`.
    pub fn markdown(&self) -> String {
        let mut page = String::from(
            "# Conformance\n\nRows of the v1.37 conformance list that our own battery (`tests/conformance`) covers, and how the last\n\
             full run on a two-node cluster went. Each row is our own test of what its name claims; some are shorter than upstream's, and none was compared line by line.\n\
             Rows written since that run appear with the next one. \
             Written by `cargo xtask conformance`; do not edit.\n\n| area | rows | covered | passed |\n|---|---|---|---|\n",
        );
        let mut sum = (0, 0, 0);
        for (area, (total, covered, passed)) in self.areas() {
            let _ = writeln!(page, "| {area} | {total} | {covered} | {passed} |");
            sum = (sum.0 + total, sum.1 + covered, sum.2 + passed);
        }
        let _ = writeln!(page, "| **all** | **{}** | **{}** | **{}** |", sum.0, sum.1, sum.2);
        let mut rows: Vec<&Outcome> = self.outcomes.iter().collect();
        rows.sort_by_key(|outcome| (outcome.row.area, outcome.row.group, outcome.row.name));
        let (mut area, mut group) = ("", "");
        for outcome in rows {
            if outcome.row.area != area {
                (area, group) = (outcome.row.area, "");
                let _ = writeln!(page, "\n## {area}");
            }
            if outcome.row.group != group {
                group = outcome.row.group;
                let _ = writeln!(page, "\n{group}\n");
            }
            let reason = self.known.get(&outcome.row.title()).copied().unwrap_or("not expected");
            match outcome.error {
                None => _ = writeln!(page, "- passed: {}", outcome.row.name),
                Some(_) => _ = writeln!(page, "- **failed**: {} ({reason})", outcome.row.name),
            }
        }
        page
    }
}
