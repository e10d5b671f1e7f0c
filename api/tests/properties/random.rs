//! Random objects of any kind, out of the schema table.

use rand::{Rng, rngs::StdRng};
use serde_json::{Map, Value, json};
use skiff_api::schema::{Kind, MessageId, Root, Scalar, Schema};

/// An object with about half of its fields set, in canonical form.
pub fn object(rng: &mut StdRng, root: &Root, api_version: &str, kind: &str) -> Value {
    let mut fields = message(rng, &root.schema, root.id, 0);
    fields.insert("apiVersion".to_owned(), json!(api_version));
    fields.insert("kind".to_owned(), json!(kind));
    Value::Object(fields)
}

fn message(rng: &mut StdRng, schema: &Schema, id: MessageId, depth: usize) -> Map<String, Value> {
    let mut fields = Map::new();
    for field in schema.fields(id) {
        if rng.random_bool(if depth > 4 { 0.1 } else { 0.5 }) {
            fields.insert(field.json.to_string(), value(rng, schema, &field.kind, depth));
        }
    }
    fields
}

fn value(rng: &mut StdRng, schema: &Schema, kind: &Kind, depth: usize) -> Value {
    let count = rng.random_range(1..3);
    match kind {
        Kind::Message(id) if depth > 8 => {
            let _ = id;
            json!({})
        }
        Kind::Message(id) => Value::Object(message(rng, schema, *id, depth + 1)),
        Kind::List { element, .. } => {
            Value::Array((0..count).map(|_| value(rng, schema, element, depth + 1)).collect())
        }
        Kind::Map { value: element, .. } => {
            let entry = |at| format!("key{at}");
            Value::Object((0..count).map(|at| (entry(at), value(rng, schema, element, depth + 1))).collect())
        }
        Kind::Scalar(kind) => scalar(rng, *kind),
    }
}

fn scalar(rng: &mut StdRng, kind: Scalar) -> Value {
    let number = rng.random_range(-1000..1000_i64);
    match kind {
        Scalar::String => json!(format!("text{number}")),
        Scalar::Bool => json!(number > 0),
        Scalar::Int32 | Scalar::Int64 => json!(number),
        Scalar::Double => json!(0.5),
        Scalar::Bytes => json!("aGVsbG8="),
        Scalar::Quantity => json!(skiff_api::Quantity::from_millis(number * 7 + 1).to_string()),
        Scalar::Time => json!("2024-05-06T07:08:09Z"),
        Scalar::MicroTime => json!("1969-12-31T23:59:58.123456Z"),
        Scalar::IntOrString if number > 0 => json!(number),
        Scalar::IntOrString => json!("50%"),
        Scalar::Duration => json!("1m30s"),
        Scalar::RawExtension | Scalar::FieldsV1 => json!({"f:x": {"a": [1, null]}}),
        Scalar::Json | Scalar::Any => json!([{"a": 1.5}]),
        Scalar::SchemaOrBool if number > 0 => json!(true),
        Scalar::SchemaOrArray if number > 0 => json!([{"type": "string"}]),
        Scalar::SchemaOrStringArray if number > 0 => json!(["a"]),
        Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStringArray => json!({"type": "string"}),
    }
}
