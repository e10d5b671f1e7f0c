//! The subset of JSONPath that printer columns of custom resources use.
//!
//! Field names by dot or bracket, indexes, `[*]`, `..name`, and filters such as
//! `.status.conditions[?(@.type=="Ready")].status`. Anything else is an error
//! at parse time, so a column either works or is refused with its definition.

use serde_json::Value;

use crate::limits::JSON_PATH_LEN_MAX;

/// Why a path was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSONPath {path:?}: {reason}")]
pub struct JsonPathError {
    path: String,
    reason: &'static str,
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Recursive(String),
    Filter { path: Vec<Step>, test: Option<(Comparison, Value)> },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl JsonPath {
    /// Parses a path with or without surrounding braces.
    pub fn parse(path: &str) -> Result<JsonPath, JsonPathError> {
        let fail = |reason| JsonPathError { path: path.to_owned(), reason };
        if path.len() > JSON_PATH_LEN_MAX {
            return Err(fail("too long"));
        }
        let text = path.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(path);
        let text = text.strip_prefix('$').unwrap_or(text);
        let mut parser = Parser { rest: text };
        let steps = parser.steps().map_err(fail)?;
        if parser.rest.is_empty() { Ok(JsonPath(steps)) } else { Err(fail("unexpected text")) }
    }

    /// All values the path selects, in document order.
    pub fn select<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        select(&self.0, value)
    }

    /// The first value, as printer columns show it.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.select(value).into_iter().next()
    }
}

fn select<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut current = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in current {
            apply(step, value, &mut next);
        }
        current = next;
    }
    current
}

fn apply<'a>(step: &Step, value: &'a Value, out: &mut Vec<&'a Value>) {
    match step {
        Step::Field(name) => out.extend(value.get(name.as_str())),
        Step::Index(index) => {
            if let Value::Array(items) = value {
                let at = if *index < 0 { items.len() as i64 + index } else { *index };
                out.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
            }
        }
        Step::All => match value {
            Value::Array(items) => out.extend(items),
            Value::Object(fields) => out.extend(fields.values()),
            _ => {}
        },
        Step::Recursive(name) => recurse(name, value, out),
        Step::Filter { path, test } => {
            if let Value::Array(items) = value {
                out.extend(items.iter().filter(|item| holds(path, test.as_ref(), item)));
            }
        }
    }
}

fn recurse<'a>(name: &str, value: &'a Value, out: &mut Vec<&'a Value>) {
    out.extend(value.get(name));
    match value {
        Value::Array(items) => items.iter().for_each(|item| recurse(name, item, out)),
        Value::Object(fields) => fields.values().for_each(|item| recurse(name, item, out)),
        _ => {}
    }
}

fn holds(path: &[Step], test: Option<&(Comparison, Value)>, item: &Value) -> bool {
    let found = select(path, item);
    let Some((comparison, wanted)) = test else { return !found.is_empty() };
    let Some(have) = found.first() else { return false };
    let order = match (have, wanted) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match comparison {
        Comparison::Equal => order.is_some_and(|order| order.is_eq()),
        Comparison::NotEqual => order.is_none_or(|order| order.is_ne()),
        Comparison::Less => order.is_some_and(|order| order.is_lt()),
        Comparison::LessEqual => order.is_some_and(|order| order.is_le()),
        Comparison::Greater => order.is_some_and(|order| order.is_gt()),
        Comparison::GreaterEqual => order.is_some_and(|order| order.is_ge()),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn take(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn steps(&mut self) -> Result<Vec<Step>, &'static str> {
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Recursive(self.name()?));
            } else if self.take(".") {
                if self.rest.is_empty() && steps.is_empty() {
                    break;
                }
                if self.take("*") {
                    steps.push(Step::All);
                } else if !self.rest.starts_with('[') {
                    steps.push(Step::Field(self.name()?));
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                break;
            }
        }
        Ok(steps)
    }

    fn name(&mut self) -> Result<String, &'static str> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                // A backslash makes a dot part of the name: `.metadata.labels.app\.kubernetes\.io/name`.
                '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
                '.' | '[' | ']' | ')' | '=' | '!' | '<' | '>' | ' ' => {
                    end = at;
                    break;
                }
                _ => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() { Err("empty field name") } else { Ok(name) }
    }

    fn bracket(&mut self) -> Result<Step, &'static str> {
        let step = if self.take("*") {
            Step::All
        } else if self.take("?(") {
            self.filter()?
        } else if self.rest.starts_with(['\'', '"']) {
            Step::Field(self.quoted()?)
        } else {
            let end = self.rest.find(']').ok_or("missing ]")?;
            let index = self.rest[..end].trim().parse().map_err(|_| "index is not a number")?;
            self.rest = &self.rest[end..];
            Step::Index(index)
        };
        if self.take("]") { Ok(step) } else { Err("missing ]") }
    }

    fn quoted(&mut self) -> Result<String, &'static str> {
        let quote = self.rest.chars().next().ok_or("missing quote")?;
        let body = &self.rest[1..];
        let end = body.find(quote).ok_or("missing closing quote")?;
        self.rest = &body[end + 1..];
        Ok(body[..end].to_owned())
    }

    fn filter(&mut self) -> Result<Step, &'static str> {
        self.rest = self.rest.trim_start();
        if !self.take("@") {
            return Err("filter must start with @");
        }
        let path = self.steps()?;
        self.rest = self.rest.trim_start();
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessEqual),
            (">=", Comparison::GreaterEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let mut test = None;
        for (text, comparison) in operators {
            if self.take(text) {
                self.rest = self.rest.trim_start();
                test = Some((comparison, self.literal()?));
                break;
            }
        }
        self.rest = self.rest.trim_start();
        if self.take(")") { Ok(Step::Filter { path, test }) } else { Err("missing )") }
    }

    fn literal(&mut self) -> Result<Value, &'static str> {
        if self.rest.starts_with(['\'', '"']) {
            return Ok(Value::String(self.quoted()?));
        }
        let end = self.rest.find([')', ' ']).ok_or("missing )")?;
        let value = serde_json::from_str(&self.rest[..end]).map_err(|_| "literal is not a value")?;
        self.rest = &self.rest[end..];
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn all(path: &str, value: &Value) -> Vec<Value> {
        JsonPath::parse(path).unwrap().select(value).into_iter().cloned().collect()
    }

    #[test]
    fn paths_of_printer_columns_select_what_they_name() {
        let object = json!({"spec": {"a": [1, 2, {"b": true}]},
            "metadata": {"labels": {"x.y/z": "dotted"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"}]}});
        assert_eq!(all(".spec.a[0]", &object), [json!(1)]);
        assert_eq!(all(".spec.a[-1].b", &object), [json!(true)]);
        assert_eq!(all(r#".status.conditions[?(@.type=="Synced")].status"#, &object), [json!("False")]);
        assert_eq!(all(".status.conditions[?(@.type == 'Ready')].status", &object), [json!("True")]);
        assert_eq!(all(".status.conditions[*].type", &object), [json!("Ready"), json!("Synced")]);
        assert_eq!(all(r".metadata.labels.x\.y/z", &object), [json!("dotted")]);
        assert_eq!(all(".metadata.labels['x.y/z']", &object), [json!("dotted")]);
        assert_eq!(all("..b", &object), [json!(true)]);
        assert!(all(".spec.missing", &object).is_empty());
    }

    #[test]
    fn malformed_paths_are_refused() {
        let nested = ".a[?(@".repeat(1000);
        for path in [nested.as_str(), ".a[", ".a[x]", ".a[?(b)]", ".a b", ".a..", "a"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
