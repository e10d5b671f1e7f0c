//! Structural schemas: types stand in one place, and what alternatives
//! (`allOf`, `anyOf`, `oneOf`, `not`) say only narrows values.

use serde_json::{Value, json};

use super::DEPTH_MAX;
use crate::registry::validation::{Errors, Path};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Reports everything that is not structural.
pub fn check(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    invariants(errors, path, schema, Level::Root, 0);
    completeness(errors, path, schema, 0);
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

fn text<'s>(schema: &'s Value, name: &str) -> &'s str {
    schema[name].as_str().unwrap_or_default()
}

fn objects<'s>(schema: &'s Value, name: &str) -> impl Iterator<Item = (&'s String, &'s Value)> {
    schema[name].as_object().into_iter().flatten()
}

fn list<'s>(schema: &'s Value, name: &str) -> &'s [Value] {
    schema[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn int_or_string_pattern(alternatives: &[Value]) -> bool {
    alternatives == [json!({"type": "integer"}), json!({"type": "string"})]
}

fn invariants(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level, depth: usize) {
    if depth > DEPTH_MAX {
        errors.forbidden(path, "schema is nested too deeply");
        return;
    }
    if text(schema, "type") == "array" && !schema["items"].is_object() {
        errors.required(&path.child("items"), "must be specified");
    }
    if schema["items"].is_object() {
        invariants(errors, &path.child("items"), &schema["items"], Level::Item, depth + 1);
    }
    let properties = path.child("properties");
    for (name, property) in objects(schema, "properties") {
        invariants(errors, &properties.key(name), property, Level::Field, depth + 1);
    }
    let additional = path.child("additionalProperties");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    if !schema["additionalProperties"].is_null() {
        if level == Level::Root {
            errors.forbidden(&additional, "must not be used at the root");
        }
        if schema["additionalProperties"].is_object() {
            invariants(errors, &additional, &schema["additionalProperties"], Level::Field, depth + 1);
        }
        if embedded {
            errors.forbidden(&additional, "must not be used if x-kubernetes-embedded-resource is set");
        }
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if flag(schema, name) {
                errors.invalid(&path.child(name), true, "must be false if x-kubernetes-int-or-string is true");
            }
        }
    }
    types(errors, path, schema, level);
    metadata(errors, path, schema, level);
    values(errors, path, schema, level, depth);
}

fn types(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level) {
    let at = path.child("type");
    let name = text(schema, "type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    if embedded && name != "object" {
        const TEXT: &str = "must be object if x-kubernetes-embedded-resource is true";
        if name.is_empty() { errors.required(&at, TEXT) } else { errors.invalid(&at, name, TEXT) }
    } else if name.is_empty() && !flag(schema, "x-kubernetes-int-or-string") && !preserve {
        errors.required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if level == Level::Root && !name.is_empty() && name != "object" {
        errors.invalid(&at, name, "must be object at the root");
    }
    if embedded && !preserve && objects(schema, "properties").next().is_none() {
        errors.required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

/// What a resource has anyway may hardly be described.
fn metadata(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level) {
    let resource = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let properties = path.child("properties");
    for name in ["kind", "apiVersion"] {
        let property = &schema["properties"][name];
        if resource && !property.is_null() && property["type"] != "string" {
            errors.invalid(&properties.key(name).child("type"), text(property, "type"), "must be string");
        }
    }
    let property = &schema["properties"]["metadata"];
    if property.is_null() {
        return;
    }
    let at = properties.key("metadata");
    if resource && property["type"] != "object" {
        errors.invalid(&at.child("type"), text(property, "type"), "must be object");
    }
    if level == Level::Root {
        let names = objects(property, "properties").all(|(name, _)| name == "name" || name == "generateName");
        let others = property.as_object().into_iter().flatten().any(|(name, value)| {
            let said =
                !(value.is_null() || *value == json!({}) || *value == json!([]) || *value == false || *value == "");
            said && !matches!(
                name.as_str(),
                "type" | "properties" | "description" | "title" | "default" | "externalDocs" | "example"
            )
        });
        if !names || others {
            errors.forbidden(
                &at,
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            );
        }
    }
}

fn values(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level, depth: usize) {
    let skip_any = int_or_string_pattern(list(schema, "anyOf"));
    let skip_all = list(schema, "allOf").first().is_some_and(|first| int_or_string_pattern(list(first, "anyOf")));
    alternatives(errors, path, schema, level, skip_any, skip_all, depth);
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(error) = regex::Regex::new(pattern)
    {
        errors.invalid(
            &path.child("pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {error}"),
        );
    }
}

fn alternatives(
    errors: &mut Errors,
    path: &Path<'_>,
    schema: &Value,
    level: Level,
    skip_any: bool,
    skip_all: bool,
    depth: usize,
) {
    for name in ["anyOf", "allOf", "oneOf"] {
        if name == "anyOf" && skip_any {
            continue;
        }
        let at = path.child(name);
        for (index, part) in list(schema, name).iter().enumerate() {
            let skip = name == "allOf" && skip_all && index == 0;
            nested(errors, &at.index(index), part, level, skip, depth + 1);
        }
    }
    if schema["not"].is_object() {
        nested(errors, &path.child("not"), &schema["not"], level, false, depth + 1);
    }
}

/// A schema that may only narrow values.
fn nested(errors: &mut Errors, path: &Path<'_>, schema: &Value, level: Level, skip_any: bool, depth: usize) {
    if depth > DEPTH_MAX {
        errors.forbidden(path, "schema is nested too deeply");
        return;
    }
    alternatives(errors, path, schema, level, skip_any, false, depth);
    if schema["items"].is_object() {
        nested(errors, &path.child("items"), &schema["items"], level, false, depth + 1);
    }
    let properties = path.child("properties");
    for (name, property) in objects(schema, "properties") {
        nested(errors, &properties.key(name), property, Level::Field, false, depth + 1);
        if name == "metadata" {
            errors.forbidden(&properties.key(name), "must not be specified in a nested context");
        }
    }
    for (name, what) in [
        ("type", "must be empty to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
    ] {
        let value = &schema[name];
        let empty = value.is_null() || *value == false || *value == "" || *value == json!([]);
        if !empty {
            errors.forbidden(&path.child(name), what);
        }
    }
}

/// Every field that alternatives speak of must exist outside of them.
fn completeness(errors: &mut Errors, path: &Path<'_>, schema: &Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    for name in ["anyOf", "allOf", "oneOf"] {
        let at = path.child(name);
        for (index, part) in list(schema, name).iter().enumerate() {
            present(errors, &at.index(index), part, path, schema, depth + 1);
        }
    }
    if schema["not"].is_object() {
        present(errors, &path.child("not"), &schema["not"], path, schema, depth + 1);
    }
    if schema["items"].is_object() {
        completeness(errors, &path.child("items"), &schema["items"], depth + 1);
    }
    let properties = path.child("properties");
    for (name, property) in objects(schema, "properties") {
        completeness(errors, &properties.key(name), property, depth + 1);
    }
    if schema["additionalProperties"].is_object() {
        completeness(errors, &path.child("additionalProperties"), &schema["additionalProperties"], depth + 1);
    }
}

fn present(errors: &mut Errors, at: &Path<'_>, part: &Value, path: &Path<'_>, schema: &Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    if part["items"].is_object() {
        if schema["items"].is_object() {
            present(errors, &at.child("items"), &part["items"], &path.child("items"), &schema["items"], depth + 1);
        } else {
            errors.required(&path.child("items"), &format!("because it is defined in {}", at.child("items")));
        }
    }
    let (at_properties, properties) = (at.child("properties"), path.child("properties"));
    for (name, property) in objects(part, "properties") {
        let (at, path) = (at_properties.key(name), properties.key(name));
        match schema["properties"].get(name) {
            Some(whole) => present(errors, &at, property, &path, whole, depth + 1),
            None => errors.required(&path, &format!("because it is defined in {at}")),
        }
    }
    for name in ["anyOf", "allOf", "oneOf"] {
        let at = at.child(name);
        for (index, inner) in list(part, name).iter().enumerate() {
            present(errors, &at.index(index), inner, path, schema, depth + 1);
        }
    }
    if part["not"].is_object() {
        present(errors, &at.child("not"), &part["not"], path, schema, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    fn found(schema: Value) -> Vec<String> {
        let mut errors = Errors::new();
        check(&mut errors, &Path::new("s"), &schema);
        lines(errors.into_causes())
    }

    #[test]
    fn types_stand_in_one_place() {
        assert!(found(json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}]}}, "anyOf": [{"required": ["a"]}, {"properties": {"a": {"pattern": "x"}}}]})).is_empty());
        assert_eq!(found(json!({})), ["s.type: Required value: must not be empty at the root"]);
        assert_eq!(
            found(
                json!({"type": "object", "properties": {"a": {}}, "anyOf": [{"type": "object", "properties": {"b": {"minLength": 1}}}]})
            ),
            [
                "s.properties[a].type: Required value: must not be empty for specified object fields",
                "s.anyOf[0].type: Forbidden: must be empty to be structural",
                "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
            ]
        );
        assert_eq!(
            found(
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}, "l": {"type": "array"}}})
            ),
            [
                "s.properties[l].items: Required value: must be specified",
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ]
        );
    }
}
