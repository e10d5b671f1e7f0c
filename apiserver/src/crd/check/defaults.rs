//! Defaults of a schema must be valid under it and hold nothing that would be pruned.

use serde_json::{Value, json};

use super::DEPTH_MAX;
use crate::{
    crd::schema_validation,
    registry::validation::{Errors, Path},
};

/// Checks every default below a schema.
pub fn check(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    walk(errors, path, schema, 0);
}

fn walk(errors: &mut Errors, path: &Path<'_>, schema: &Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        one(errors, &path.child("default"), schema, default);
    }
    let properties = path.child("properties");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(errors, &properties.key(name), property, depth + 1);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            walk(errors, &path.child(name), &schema[name], depth + 1);
        }
    }
}

fn one(errors: &mut Errors, path: &Path<'_>, schema: &Value, default: &Value) {
    // The default stands where a field of this schema would.
    let holder = json!({"type": "object", "properties": {"value": schema}});
    let mut held = json!({"value": default});
    if let Ok(root) = skiff_api::schema::structural::compile("", "", &holder) {
        match skiff_api::codec::json::conform(&root, &mut held) {
            Ok(unknown) if !unknown.is_empty() => {
                errors.invalid(path, default, "must not have unknown fields");
                return;
            }
            _ => {}
        }
        skiff_api::schema::defaults::apply(&root, &mut held);
    }
    for mut cause in schema_validation::validate(schema, &held["value"], None) {
        let below = cause.field.clone();
        cause.field = match below.as_str() {
            "" => path.to_string(),
            below if below.starts_with('[') => format!("{path}{below}"),
            below => format!("{path}.{below}"),
        };
        errors.extend(vec![cause]);
    }
}
