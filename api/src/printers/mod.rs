//! Columns of `kubectl get`: what the server puts into a `Table`.
//!
//! Headers, order, priorities and the `<none>`, `<unset>`, `<unknown>` cells
//! are upstream's. Simple columns are data (a JSON pointer), the others small
//! functions of object and time in one file per group of kinds.
//!
//! ```
//! use skiff_api::{ResourceRegistry, printers};
//! let pods = ResourceRegistry::builtin().lookup("", "v1", "pods").unwrap();
//! let pod = serde_json::json!({"metadata": {"name": "a"}, "spec": {"containers": [{}]}, "status": {"phase": "Pending"}});
//! let cells = printers::cells(&pods, &pod, jiff::Timestamp::UNIX_EPOCH);
//! assert_eq!(cells[..4], ["a", "0/1", "Pending", "0"]);
//! ```

pub(crate) mod access;
pub(crate) mod cluster;
#[cfg(test)]
mod golden_tests;
pub(crate) mod network;
pub(crate) mod pods;
pub(crate) mod storage;
pub(crate) mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    resource::{Column, ColumnSource, Resource},
    timestamp,
};

/// Columns of a resource that declares none: name and age.
fn columns_of(resource: &Resource) -> std::borrow::Cow<'_, [Column]> {
    match resource.columns.as_slice() {
        [] => vec![name(), created_at()].into(),
        columns => columns.into(),
    }
}

/// `columnDefinitions` of a table of this resource.
pub fn column_definitions(resource: &Resource) -> Vec<Value> {
    let define = |column: &Column| {
        json!({"name": column.name, "type": column.column_type, "format": column.format,
            "description": column.description, "priority": column.priority})
    };
    columns_of(resource).iter().map(define).collect()
}

/// The cells of one object, in the order of [`column_definitions`].
pub fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    columns_of(resource).iter().map(|column| cell(column, object, now)).collect()
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let found = match &column.source {
        ColumnSource::Name => object.pointer("/metadata/name").cloned(),
        ColumnSource::Age(pointer) => {
            let time = object.pointer(pointer).and_then(Value::as_str);
            time.map(|time| Value::from(timestamp::age(Some(time), now)))
        }
        ColumnSource::Pointer(pointer) => object.pointer(pointer).cloned(),
        ColumnSource::Path(path) => path.first(object).map(|value| custom_cell(column, value, now)),
        ColumnSource::Computed(compute) => Some(compute(object, now)),
    };
    match found {
        Some(Value::Null) | None => column.absent.clone(),
        Some(Value::String(text)) if text.is_empty() => column.absent.clone(),
        Some(value) => value,
    }
}

/// Cells of custom resources follow the declared column type.
fn custom_cell(column: &Column, value: &Value, now: Timestamp) -> Value {
    match (column.column_type.as_ref(), value) {
        ("date", Value::String(time)) => Value::from(timestamp::age(Some(time), now)),
        ("string", Value::Object(_) | Value::Array(_) | Value::Number(_) | Value::Bool(_)) => {
            Value::from(value.to_string())
        }
        ("integer", Value::Number(number)) if number.is_f64() => {
            number.as_f64().map_or(Value::Null, |number| Value::from(number as i64))
        }
        ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => {
            value.clone()
        }
        _ => Value::Null,
    }
}

fn column(name: &'static str, column_type: &'static str, source: ColumnSource, absent: Value) -> Column {
    Column {
        name: name.into(),
        column_type: column_type.into(),
        format: "".into(),
        description: "".into(),
        priority: 0,
        source,
        absent,
    }
}

/// The NAME column.
pub(crate) fn name() -> Column {
    Column {
        format: "name".into(),
        description: "Name must be unique within a namespace.".into(),
        ..column("Name", "string", ColumnSource::Name, Value::Null)
    }
}

/// The AGE column.
pub(crate) fn age() -> Column {
    column("Age", "string", ColumnSource::Age("/metadata/creationTimestamp".into()), Value::from("<unknown>"))
        .about("Time since the object was created.")
}

/// The CREATED AT column of kinds without further columns.
pub(crate) fn created_at() -> Column {
    column("Created At", "date", ColumnSource::Pointer("/metadata/creationTimestamp".into()), Value::from("<unknown>"))
        .about("Time at which the object was created.")
}

/// Text at a pointer; empty when absent.
pub(crate) fn text(name: &'static str, pointer: &'static str) -> Column {
    column(name, "string", ColumnSource::Pointer(pointer.into()), Value::from(""))
}

/// A number at a pointer; zero when absent.
pub(crate) fn integer(name: &'static str, pointer: &'static str) -> Column {
    column(name, "integer", ColumnSource::Pointer(pointer.into()), Value::from(0))
}

/// A flag at a pointer; false when absent.
pub(crate) fn flag(name: &'static str, pointer: &'static str) -> Column {
    column(name, "boolean", ColumnSource::Pointer(pointer.into()), Value::from(false))
}

/// Text calculated from the object.
pub(crate) fn computed(name: &'static str, compute: fn(&Value, Timestamp) -> Value) -> Column {
    column(name, "string", ColumnSource::Computed(compute), Value::from(""))
}

/// A number calculated from the object.
pub(crate) fn count(name: &'static str, compute: fn(&Value, Timestamp) -> Value) -> Column {
    column(name, "integer", ColumnSource::Computed(compute), Value::from(0))
}

/// Refinements of a column.
pub(crate) trait Refine {
    /// Shown only with `-o wide`.
    fn wide(self) -> Column;
    /// The cell of an absent or empty value.
    fn or(self, absent: &'static str) -> Column;
    fn about(self, description: &'static str) -> Column;
}

impl Refine for Column {
    fn wide(mut self) -> Column {
        self.priority = 1;
        self
    }

    fn or(mut self, absent: &'static str) -> Column {
        self.absent = Value::from(absent);
        self
    }

    fn about(mut self, description: &'static str) -> Column {
        self.description = description.into();
        self
    }
}

/// Text at a pointer, or the empty string.
pub(crate) fn str_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a pointer, or zero.
pub(crate) fn int_at(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The elements at a pointer, or none.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The status of a condition, or the empty string.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let found = items(object, "/status/conditions").iter().find(|condition| str_at(condition, "/type") == kind);
    found.map_or("", |condition| str_at(condition, "/status"))
}

/// `a=b,c=d` of a map of labels, or `<none>`.
pub(crate) fn labels(map: Option<&Value>) -> String {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    let pairs: Vec<String> =
        entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// The text form of a `LabelSelector`, or `<none>`.
pub(crate) fn selector(selector: Option<&Value>) -> String {
    match crate::Selector::from_value(selector) {
        Ok(parsed) if parsed.requirements().is_empty() => "<none>".to_owned(),
        Ok(parsed) => parsed.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// At most `max` texts and how many more there are.
pub(crate) fn shortened(texts: &[String], max: usize, none: &str) -> String {
    match texts.len() {
        0 => none.to_owned(),
        count if count > max => format!("{} + {} more...", texts[..max].join(","), count - max),
        _ => texts.join(","),
    }
}

/// `True`, `False` or `<unset>`.
pub(crate) fn bool_text(value: Option<&Value>) -> &'static str {
    match value {
        Some(Value::Bool(true)) => "True",
        Some(Value::Bool(false)) => "False",
        _ => "<unset>",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Cells of an object of a built-in resource, one minute after 2024 began, as text.
    pub(crate) fn row(group: &str, version: &str, plural: &str, object: Value) -> Vec<String> {
        let resource = crate::ResourceRegistry::builtin().lookup(group, version, plural).unwrap();
        let now = timestamp::parse("2024-01-01T00:01:00Z").unwrap();
        let cells = cells(&resource, &object, now);
        assert_eq!(cells.len(), column_definitions(&resource).len());
        cells.into_iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
    }

    /// Metadata of a minute-old object.
    pub(crate) fn meta(name: &str) -> Value {
        json!({"name": name, "namespace": "default", "creationTimestamp": "2024-01-01T00:00:00Z"})
    }

    #[test]
    fn every_printer_copes_with_an_empty_object() {
        for resource in crate::builtin() {
            let cells = cells(resource, &json!({}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), column_definitions(resource).len());
            let hostile =
                json!({"metadata": [], "spec": {"containers": 5, "ports": "x"}, "status": {"conditions": {}}});
            super::cells(resource, &hostile, Timestamp::UNIX_EPOCH);
        }
    }

    #[test]
    fn custom_columns_follow_their_declared_type() {
        let path = |path| ColumnSource::Path(crate::json_path::JsonPath::parse(path).unwrap());
        let now = timestamp::parse("2024-01-01T00:01:00Z").unwrap();
        let object = json!({"spec": {"n": 3, "t": "2024-01-01T00:00:00Z", "o": {"a": 1}, "s": "x"}});
        let cell = |kind, at| super::cell(&column("X", kind, path(at), Value::Null), &object, now);
        assert_eq!(cell("integer", ".spec.n"), 3);
        assert_eq!(cell("date", ".spec.t"), "60s");
        assert_eq!(cell("string", ".spec.o"), "{\"a\":1}");
        assert_eq!(cell("string", ".spec.missing"), Value::Null);
        assert_eq!(cell("integer", ".spec.s"), Value::Null);
    }
}
