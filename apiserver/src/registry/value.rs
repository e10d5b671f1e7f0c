//! Small accessors over `serde_json::Value`, with the reading rule of the API:
//! a missing field, `null` and (for text that is not a pointer upstream) the
//! empty string are the same thing.
//!
//! Objects stay dynamic from the wire to the store, because a typed round trip
//! drops fields that this build does not know. Nothing here panics on a value
//! of an unexpected type: decoding has checked types already, and a wrong one
//! reads as absent.

use serde_json::Value;

/// A JSON object.
pub type Map = serde_json::Map<String, Value>;

static NULL: Value = Value::Null;

/// The value at a path of field names, or `null`.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, field| value.get(field).unwrap_or(&NULL))
}

/// A field that is present and not `null`.
pub fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|value| !value.is_null())
}

/// Text of a field; empty when absent.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

/// Text at a path; empty when absent.
pub fn text_at<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).as_str().unwrap_or("")
}

/// Integer of a field.
pub fn int(value: &Value, name: &str) -> Option<i64> {
    value.get(name).and_then(Value::as_i64)
}

/// Boolean of a field; false when absent.
pub fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// Items of a list field; empty when absent.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Items of a list at a path; empty when absent.
pub fn list_at<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// Entries of a map field; empty when absent.
pub fn entries<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    value.get(name).and_then(Value::as_object).into_iter().flatten()
}

/// Whether two fields are equal, absent and `null` being the same.
pub fn same(new: &Value, old: &Value, name: &str) -> bool {
    field(new, name) == field(old, name)
}

/// The map inside `value`; anything else is replaced by an empty map first.
pub fn map(value: &mut Value) -> &mut Map {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // The assignment above made it an object.
        _ => unreachable!("value is an object"),
    }
}

/// The map of a field, made empty when absent.
pub fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    let child = map(value).entry(name).or_insert(Value::Null);
    map(child);
    child
}

/// The map at a field that is already there.
pub fn existing<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    value.get_mut(name).filter(|value| value.is_object())
}

/// Items of a list that is already there, for editing.
pub fn items<'a>(value: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The list of a field, made empty when absent.
pub fn items_mut<'a>(value: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    let list = map(value).entry(name).or_insert(Value::Null);
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    match list {
        Value::Array(items) => items,
        _ => unreachable!("value is an array"),
    }
}

/// Sets a field that is absent or `null`.
pub fn default(value: &mut Value, name: &str, default: impl Into<Value>) {
    let slot = map(value).entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = default.into();
    }
}

/// Sets a text field that is absent or empty.
pub fn default_text(value: &mut Value, name: &str, default: &str) {
    if text(value, name).is_empty() {
        set(value, name, default);
    }
}

/// Sets an integer field that is absent or zero (for fields that are not pointers upstream).
pub fn default_nonzero(value: &mut Value, name: &str, default: i64) {
    if int(value, name).unwrap_or(0) == 0 {
        set(value, name, default);
    }
}

/// Sets a field to an empty map when absent.
pub fn default_map(value: &mut Value, name: &str) {
    default(value, name, Value::Object(Map::new()));
}

pub fn set(value: &mut Value, name: &str, new: impl Into<Value>) {
    map(value).insert(name.to_owned(), new.into());
}

pub fn remove(value: &mut Value, name: &str) -> Option<Value> {
    value.as_object_mut().and_then(|map| map.remove(name))
}

/// Makes a field equal to that of another object, absent included.
pub fn copy_field(to: &mut Value, from: &Value, name: &str) {
    match field(from, name) {
        Some(value) => set(to, name, value.clone()),
        None => drop(remove(to, name)),
    }
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text_at(object, &["metadata", "name"])
}

/// `metadata.namespace`.
pub fn namespace(object: &Value) -> &str {
    text_at(object, &["metadata", "namespace"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_and_missing_read_alike_and_are_defaulted() {
        let mut value = json!({"a": null, "b": "", "c": 1});
        assert_eq!(field(&value, "a"), None);
        default(&mut value, "a", 5);
        default(&mut value, "b", "x");
        default_text(&mut value, "d", "y");
        assert_eq!(value, json!({"a": 5, "b": "", "c": 1, "d": "y"}));
        assert!(same(&json!({"x": null}), &json!({}), "x"));
    }
}
