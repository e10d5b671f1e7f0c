//! Parsing that notices duplicate keys.
//!
//! A seed builds a `Value` from any serde format and records the path of
//! every key that appears twice in one map. The last value wins, as in Go.
//! Whole numbers written as floats (`1.0`) become integers, as Go prints them.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

use super::tree::{self, Read};
use crate::limits::DUPLICATE_FIELDS_MAX;

/// A place in a document, kept on the stack and printed only when needed.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// A field of a structure.
    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// A key of a map, which Go's type errors leave out.
    pub(crate) fn key(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(name) }
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// Names of structure fields only, as in Go's type errors: no indexes, no map keys.
    pub(crate) fn fields(&self) -> String {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(path) = at {
            if let Step::Field(name) = path.step {
                names.push(name);
            }
            at = path.parent;
        }
        names.reverse();
        names.join(".")
    }
}

/// `spec.containers[0].image`
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        if let Some(parent) = self.parent {
            fmt::Display::fmt(parent, f)?;
            first = matches!(parent.step, Step::Root);
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) | Step::Key(name) if first => f.write_str(name),
            Step::Field(name) | Step::Key(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// Parses JSON; returns the value and the paths of duplicate keys.
pub fn parse_json(body: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    if let Some(Read { mut value, repeated: false, floats }) = tree::read(body) {
        if floats {
            settle_floats(&mut value);
        }
        return Ok((value, Vec::new()));
    }
    let duplicates = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Tree { path: &Path::ROOT, duplicates: &duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, duplicates.into_inner()))
}

/// Seed that builds a `Value` and records duplicate keys.
pub(crate) struct Tree<'a> {
    pub(crate) path: &'a Path<'a>,
    pub(crate) duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = self.path.index(items.len());
            match seq.next_element_seed(Tree { path: &path, duplicates: self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = self.path.key(&key);
            let value = map.next_value_seed(Tree { path: &path, duplicates: self.duplicates })?;
            match fields.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(mut entry) => {
                    let mut duplicates = self.duplicates.borrow_mut();
                    let text = self.path.key(entry.key()).to_string();
                    if duplicates.len() < DUPLICATE_FIELDS_MAX && !duplicates.contains(&text) {
                        duplicates.push(text);
                    }
                    entry.insert(value);
                }
            }
        }
        Ok(Value::Object(fields))
    }
}

/// Does to every float of a value what [`float`] does.
fn settle_floats(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => *value = number.as_f64().map_or(Value::Null, float),
        Value::Array(items) => items.iter_mut().for_each(settle_floats),
        Value::Object(fields) => fields.values_mut().for_each(settle_floats),
        _ => {}
    }
}

/// Whole numbers in the range of `i64` become integers; others stay floats.
pub(crate) fn float(value: f64) -> Value {
    // Exactly representable bounds; the upper one is exclusive.
    if value.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_named_by_path_and_the_last_value_wins() {
        let (value, duplicates) = parse_json(br#"{"a":1,"b":{"c":[{"d":1,"d":2,"d":3}]},"a":{"x":1}}"#).unwrap();
        assert_eq!(value, json!({"a": {"x": 1}, "b": {"c": [{"d": 3}]}}));
        assert_eq!(duplicates, ["b.c[0].d", "a"]);
    }

    #[test]
    fn numbers_keep_their_integers() {
        let (value, _) = parse_json(b"[1, 1.0, 1e2, 1.5, 18446744073709551615, -9223372036854775808]").unwrap();
        assert_eq!(value, json!([1, 1, 100, 1.5, 18446744073709551615_u64, -9223372036854775808_i64]));
    }

    #[test]
    fn broken_and_endless_documents_are_refused() {
        assert!(parse_json(b"").is_err());
        assert!(parse_json(b"{} x").is_err());
        assert!(parse_json(b"{\"a\":}").is_err());
        let deep = "[".repeat(100_000);
        assert!(parse_json(deep.as_bytes()).is_err());
    }
}
