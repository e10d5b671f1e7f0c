//! What is wrong with an expression, shown the way clients know it.

use std::fmt;

/// One finding: a place in the source and a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Byte offset.
    pub at: usize,
    pub message: String,
}

impl Issue {
    pub fn new(at: usize, message: impl Into<String>) -> Issue {
        Issue { at, message: message.into() }
    }
}

/// All findings of one expression; displays with source lines and carets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Issues {
    text: String,
    list: Vec<Issue>,
}

impl Issues {
    pub fn new(source: &str, list: Vec<Issue>) -> Issues {
        Issues { text: source.to_owned(), list }
    }

    /// The findings in the order of the text.
    pub fn list(&self) -> &[Issue] {
        &self.list
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, issue) in self.list.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            let at = (0..=issue.at.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at));
            let before = &self.text[..at.unwrap_or(0)];
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            let line = self.text[line_start..].split('\n').next().unwrap_or_default();
            let column = before[line_start..].chars().count();
            let row = before.matches('\n').count() + 1;
            write!(f, "ERROR: <input>:{row}:{}: {}\n | {line}\n | {}^", column + 1, issue.message, ".".repeat(column))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_points_at_the_place() {
        let issues = Issues::new("a &&\nsélf.foo", vec![Issue::new(10, "undefined field 'foo'")]);
        assert_eq!(issues.to_string(), "ERROR: <input>:2:5: undefined field 'foo'\n | sélf.foo\n | ....^");
    }
}
