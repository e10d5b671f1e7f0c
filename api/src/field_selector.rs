//! Field selectors: the text of `fieldSelector=`.
//!
//! `spec.nodeName=a,status.phase!=Failed`; commas, equal signs and backslashes
//! in values are escaped with a backslash. Which fields may be named is a fact
//! of the [`Resource`].

use std::{fmt, str::FromStr};

use serde_json::Value;

use crate::Resource;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub path: String,
    pub value: String,
    /// `=` or `==` when true, `!=` otherwise.
    pub equal: bool,
}

/// A conjunction of requirements; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRequirement>);

/// Why text is not a field selector for a resource; answered with code 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Syntax { selector: String, part: String },
    #[error("invalid field selector: invalid escape sequence: '{0}'")]
    Escape(String),
    #[error("field label not supported: {0}")]
    Unsupported(String),
}

impl FieldSelector {
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.0
    }

    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the requirement that a field has a value.
    pub fn and(mut self, path: impl Into<String>, value: impl Into<String>) -> FieldSelector {
        self.0.push(FieldRequirement { path: path.into(), value: value.into(), equal: true });
        self
    }

    /// The value that `path` must have, if the selector demands one.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|requirement| requirement.equal && requirement.path == path)
            .map(|found| found.value.as_str())
    }

    /// Refuses fields that the resource does not let select.
    pub fn check(&self, resource: &Resource) -> Result<(), FieldSelectorError> {
        let known = |path: &str| {
            path == "metadata.name" || path == "metadata.namespace" || resource.selectable_field(path).is_some()
        };
        match self.0.iter().find(|requirement| !known(&requirement.path)) {
            Some(unknown) => Err(FieldSelectorError::Unsupported(unknown.path.clone())),
            None => Ok(()),
        }
    }

    /// Matches an object of a resource; a field it lacks has the empty value.
    pub fn matches(&self, resource: &Resource, object: &Value) -> bool {
        self.matches_with(|path| resource.field_value(object, path).unwrap_or_default())
    }

    /// Matches fields looked up by a function.
    pub fn matches_with(&self, field: impl Fn(&str) -> String) -> bool {
        self.0.iter().all(|requirement| (field(&requirement.path) == requirement.value) == requirement.equal)
    }
}

impl From<Vec<FieldRequirement>> for FieldSelector {
    fn from(requirements: Vec<FieldRequirement>) -> FieldSelector {
        FieldSelector(requirements)
    }
}

impl FromStr for FieldSelector {
    type Err = FieldSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut requirements = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let fail = || FieldSelectorError::Syntax { selector: text.to_owned(), part: part.to_owned() };
            let (path, operator, value) = split_operator(part).ok_or_else(fail)?;
            let value = unescape(value).ok_or_else(|| FieldSelectorError::Escape(value.to_owned()))?;
            requirements.push(FieldRequirement { path: path.to_owned(), value, equal: operator != "!=" });
        }
        Ok(FieldSelector(requirements))
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, requirement) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            let operator = if requirement.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", requirement.path, escape(&requirement.value))?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_operator(part: &str) -> Option<(&str, &str, &str)> {
    (0..part.len()).filter(|at| part.is_char_boundary(*at)).find_map(|at| {
        let rest = &part[at..];
        let operator = ["!=", "==", "="].into_iter().find(|operator| rest.starts_with(operator))?;
        Some((&part[..at], operator, &rest[operator.len()..]))
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|next| "\\,=".contains(*next))?),
            // These must have been escaped.
            ',' | '=' => return None,
            _ => plain.push(c),
        }
    }
    Some(plain)
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if "\\,=".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ResourceRegistry;
    use serde_json::json;

    #[test]
    fn selects_by_equality_and_inequality() {
        let pods = ResourceRegistry::builtin().lookup("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x"}, "status": {"phase": "Running"}});
        for (text, want) in [
            ("", true),
            ("spec.nodeName=x", true),
            ("spec.nodeName==x,status.phase!=Failed", true),
            ("spec.nodeName!=x", false),
            ("metadata.name=a,metadata.namespace=n", true),
            ("spec.nodeName=", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
        ] {
            let selector: FieldSelector = text.parse().unwrap();
            selector.check(&pods).unwrap();
            assert_eq!(selector.matches(&pods, &pod), want, "{text}");
        }
    }

    #[test]
    fn escapes_survive_printing() {
        let selector = FieldSelector::default().and("a", "x,y=z\\");
        assert_eq!(selector.to_string(), r"a=x\,y\=z\\");
        assert_eq!(selector.to_string().parse::<FieldSelector>().unwrap(), selector);
    }

    #[test]
    fn malformed_and_unknown_fields_are_refused() {
        let pods = ResourceRegistry::builtin().lookup("", "v1", "pods").unwrap();
        assert!("abc".parse::<FieldSelector>().is_err());
        assert!("a=b=c".parse::<FieldSelector>().is_err());
        let unknown: FieldSelector = "spec.foo=1".parse().unwrap();
        assert_eq!(unknown.check(&pods), Err(FieldSelectorError::Unsupported("spec.foo".to_owned())));
    }
}
