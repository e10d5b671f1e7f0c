//! Validation in upstream's words: field paths and one constructor per kind of
//! field error.
//!
//! A [`Path`] is a linked list on the stack and costs nothing until an error
//! is written, so that a valid object (the common case) allocates nothing.
//! Clients show these texts and some match on them, hence the fixed wording.

pub mod formats;
pub mod meta;
pub mod numbers;
pub mod selector;

use std::fmt::{self, Write as _};

use serde_json::Value;
use skiff_api::Cause;

#[derive(Clone, Copy)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

/// Where in an object a value lies, such as `spec.containers[0].ports[1].name`.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

impl<'a> Path<'a> {
    pub const fn new(field: &'a str) -> Path<'a> {
        Path { parent: None, segment: Segment::Field(field) }
    }

    pub const fn child<'b>(&'b self, field: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Field(field) }
    }

    pub const fn index<'b>(&'b self, index: usize) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// An entry of a map: `path[key]`.
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            Segment::Field(field) => f.write_str(field),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Collects field errors.
#[derive(Debug, Default)]
pub struct Errors(Vec<Cause>);

impl Errors {
    pub fn new() -> Errors {
        Errors::default()
    }

    pub fn into_causes(self) -> Vec<Cause> {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn extend(&mut self, causes: Vec<Cause>) {
        self.0.extend(causes);
    }

    fn push(&mut self, reason: &str, path: &Path<'_>, message: String) {
        self.0.push(Cause { reason: reason.to_owned(), message, field: path.to_string() });
    }

    /// A value that must be given; `detail` may be empty.
    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push("FieldValueRequired", path, with_detail("Required value".to_owned(), detail));
    }

    pub fn invalid<'v>(&mut self, path: &Path<'_>, value: impl Into<Shown<'v>>, detail: impl AsRef<str>) {
        let message = with_detail(format!("Invalid value: {}", value.into()), detail.as_ref());
        self.push("FieldValueInvalid", path, message);
    }

    pub fn duplicate<'v>(&mut self, path: &Path<'_>, value: impl Into<Shown<'v>>) {
        self.push("FieldValueDuplicate", path, format!("Duplicate value: {}", value.into()));
    }

    pub fn not_found<'v>(&mut self, path: &Path<'_>, value: impl Into<Shown<'v>>) {
        self.push("FieldValueNotFound", path, format!("Not found: {}", value.into()));
    }

    pub fn not_supported<'v>(&mut self, path: &Path<'_>, value: impl Into<Shown<'v>>, supported: &[&str]) {
        let mut message = format!("Unsupported value: {}", value.into());
        for (index, value) in supported.iter().enumerate() {
            let lead = if index == 0 { ": supported values: " } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(message, "{lead}\"{value}\"");
        }
        self.push("FieldValueNotSupported", path, message);
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl AsRef<str>) {
        self.push("FieldValueForbidden", path, with_detail("Forbidden".to_owned(), detail.as_ref()));
    }

    pub fn too_long(&mut self, path: &Path<'_>, bytes_max: usize) {
        self.push("FieldValueTooLong", path, format!("Too long: may not be more than {bytes_max} bytes"));
    }

    pub fn too_many(&mut self, path: &Path<'_>, have: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        self.push("FieldValueTooMany", path, format!("Too many: {have}: must have at most {max} {items}"));
    }

    /// One `invalid` per message of a format check.
    pub fn invalid_all(&mut self, path: &Path<'_>, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, message);
        }
    }

    /// Checks text against a closed set; `required` when empty.
    pub fn one_of(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else if !supported.contains(&value) {
            self.not_supported(path, value, supported);
        }
    }

    /// The usual answer to a change of a fixed field.
    pub fn immutable(&mut self, path: &Path<'_>, new: &Value, old: &Value) {
        let absent = |value: &Value| value.is_null();
        if new != old && !(absent(new) && absent(old)) {
            self.invalid(path, new, "field is immutable");
        }
    }
}

fn with_detail(mut message: String, detail: &str) -> String {
    if !detail.is_empty() {
        message.push_str(": ");
        message.push_str(detail);
    }
    message
}

/// A rejected value as an error shows it: text quoted, numbers plain, the rest as JSON.
pub enum Shown<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
    Json(&'a Value),
    /// A structure as upstream's internal types print: its own names, in their order.
    Structure(&'a [(&'a str, &'a Value)]),
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Text(text) => write!(f, "{}", Quoted(text)),
            Shown::Int(number) => write!(f, "{number}"),
            Shown::Bool(flag) => write!(f, "{flag}"),
            Shown::Json(Value::String(text)) => write!(f, "{}", Quoted(text)),
            Shown::Json(value) => write!(f, "{value}"),
            Shown::Structure(fields) => {
                for (i, (name, value)) in fields.iter().enumerate() {
                    let lead = if i == 0 { '{' } else { ',' };
                    write!(f, "{lead}\"{name}\":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Text in double quotes with the escapes that upstream's `%q` writes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

impl<'a> From<&'a str> for Shown<'a> {
    fn from(text: &'a str) -> Self {
        Shown::Text(text)
    }
}

impl<'a> From<&'a String> for Shown<'a> {
    fn from(text: &'a String) -> Self {
        Shown::Text(text)
    }
}

impl From<i64> for Shown<'_> {
    fn from(number: i64) -> Self {
        Shown::Int(number)
    }
}

impl From<bool> for Shown<'_> {
    fn from(flag: bool) -> Self {
        Shown::Bool(flag)
    }
}

impl<'a> From<&'a Value> for Shown<'a> {
    fn from(value: &'a Value) -> Self {
        Shown::Json(value)
    }
}

/// `field: message` lines, for tests of validators.
#[cfg(test)]
pub fn lines(causes: Vec<Cause>) -> Vec<String> {
    causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstream_writes_them() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        let labels = first.child("labels");
        let mut errors = Errors::new();
        errors.required(&first.child("name"), "");
        errors.required(&spec, "pick one");
        errors.invalid(&first.child("port"), 0, "must be between 1 and 65535, inclusive");
        errors.not_supported(&spec.child("type"), "X", &["A", "B"]);
        errors.forbidden(&spec, "no");
        errors.too_long(&labels.key("a/b"), 63);
        errors.too_many(&containers, 3, 1);
        errors.duplicate(&first.child("name"), "a\"b");
        assert_eq!(
            lines(errors.into_causes()),
            [
                "spec.containers[0].name: Required value",
                "spec: Required value: pick one",
                "spec.containers[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.type: Unsupported value: \"X\": supported values: \"A\", \"B\"",
                "spec: Forbidden: no",
                "spec.containers[0].labels[a/b]: Too long: may not be more than 63 bytes",
                "spec.containers: Too many: 3: must have at most 1 item",
                "spec.containers[0].name: Duplicate value: \"a\\\"b\"",
            ]
        );
    }
}
