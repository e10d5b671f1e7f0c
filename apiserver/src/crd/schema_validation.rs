//! Checks a custom resource against the OpenAPI schema of its definition.
//!
//! The parts of JSON Schema that structural schemas may use, with upstream's
//! messages. What did not change since the object was stored is not checked
//! again, where old and new can be told to be the same (ratcheting): fields, map
//! entries, and elements of lists with keys. Validation rules are evaluated by
//! [`super::rules`].

use std::collections::HashSet;

use serde_json::Value;
use skiff_api::Cause;

/// Levels of nesting; deeper values are not looked at.
const DEPTH_MAX: usize = 100;
/// Errors reported for one object; more are not searched for.
const ERRORS_MAX: usize = 100;

/// The field errors of a value.
pub fn validate(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut errors = Vec::new();
    Checker { errors: &mut errors }.check(schema, value, old, "", 0);
    errors
}

struct Checker<'e> {
    errors: &'e mut Vec<Cause>,
}

impl Checker<'_> {
    fn fail(&mut self, reason: &str, path: &str, message: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(Cause { reason: reason.to_owned(), message, field: path.to_owned() });
        }
    }

    /// `<path> in body <what>`, as upstream's validator says it.
    fn invalid(&mut self, path: &str, value: &Value, what: &str) {
        let field = if path.is_empty() { "<nil>" } else { path };
        self.fail("FieldValueInvalid", path, format!("Invalid value: {}: {field} in body {what}", shown(value)));
    }

    fn check(&mut self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, depth: usize) {
        if depth > DEPTH_MAX || old == Some(value) {
            return;
        }
        if value.is_null() {
            if schema["nullable"] != true && !path.is_empty() && schema["type"].is_string() {
                self.type_error(schema, value, path);
            }
            return;
        }
        if !self.check_type(schema, value, path) {
            return;
        }
        self.check_enum(schema, value, path);
        self.check_number(schema, value, path);
        self.check_text(schema, value, path);
        self.check_list(schema, value, old, path, depth);
        self.check_object(schema, value, old, path, depth);
        self.check_combinations(schema, value, path, depth);
    }

    fn type_error(&mut self, schema: &Value, value: &Value, path: &str) {
        let wanted = schema["type"].as_str().unwrap_or_default();
        let message = format!(
            "Invalid value: {}: {path} in body must be of type {wanted}: \"{}\"",
            type_name_or_value(value),
            type_name(value)
        );
        self.fail("FieldValueTypeInvalid", path, message);
    }

    fn check_type(&mut self, schema: &Value, value: &Value, path: &str) -> bool {
        if schema["x-kubernetes-int-or-string"] == true {
            let good = value.is_i64() || value.is_u64() || value.is_string();
            if !good {
                self.invalid(path, value, "must be of type integer or string");
            }
            return good;
        }
        let good = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("number") => value.is_number(),
            Some("integer") => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            _ => true,
        };
        if !good {
            self.type_error(schema, value, path);
        }
        good
    }

    fn check_enum(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(allowed) = schema["enum"].as_array() else { return };
        if !allowed.contains(value) {
            let list: Vec<String> = allowed.iter().map(shown).collect();
            self.fail(
                "FieldValueNotSupported",
                path,
                format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", ")),
            );
        }
    }

    fn check_number(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(number) = value.as_f64().filter(|_| value.is_number()) else { return };
        if let Some(minimum) = schema["minimum"].as_f64() {
            if schema["exclusiveMinimum"] == true && number <= minimum {
                self.invalid(path, value, &format!("should be greater than {}", schema["minimum"]));
            } else if number < minimum {
                self.invalid(path, value, &format!("should be greater than or equal to {}", schema["minimum"]));
            }
        }
        if let Some(maximum) = schema["maximum"].as_f64() {
            if schema["exclusiveMaximum"] == true && number >= maximum {
                self.invalid(path, value, &format!("should be less than {}", schema["maximum"]));
            } else if number > maximum {
                self.invalid(path, value, &format!("should be less than or equal to {}", schema["maximum"]));
            }
        }
        if let Some(factor) = schema["multipleOf"].as_f64().filter(|factor| *factor > 0.0)
            && (number / factor).fract() != 0.0
        {
            self.invalid(path, value, &format!("should be a multiple of {}", schema["multipleOf"]));
        }
    }

    fn check_text(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(text) = value.as_str() else { return };
        let len = text.chars().count() as u64;
        if let Some(min) = whole(schema, "minLength").filter(|min| len < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(max) = whole(schema, "maxLength").filter(|max| len > *max) {
            self.fail("FieldValueTooLong", path, format!("Too long: may not be more than {max} bytes"));
        }
        if let Some(pattern) = schema["pattern"].as_str() {
            // A pattern that does not compile was refused with the definition.
            let matches = super::patterns::is_match(pattern, text);
            if !matches {
                self.invalid(path, value, &format!("should match '{pattern}'"));
            }
        }
        if let Some(format) = schema["format"].as_str()
            && !super::formats::fits(format, text)
        {
            self.invalid(path, value, &format!("must be of type {format}: {text:?}"));
        }
    }

    fn check_list(&mut self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, depth: usize) {
        let Some(items) = value.as_array() else { return };
        let len = items.len() as u64;
        if let Some(min) = whole(schema, "minItems").filter(|min| len < *min) {
            self.invalid(path, value, &format!("should have at least {min} items"));
        }
        if let Some(max) = whole(schema, "maxItems").filter(|max| len > *max) {
            self.fail("FieldValueTooMany", path, format!("Too many: {len}: must have at most {max} items"));
        }
        let keys = list_keys(schema);
        let unique = schema["uniqueItems"] == true || schema["x-kubernetes-list-type"] == "set";
        let before = old.and_then(Value::as_array).filter(|_| !keys.is_empty());
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let at = format!("{path}[{index}]");
            let identity = if keys.is_empty() { item.clone() } else { key_of(schema, item, &keys) };
            if (unique || !keys.is_empty()) && !seen.insert(identity.to_string()) {
                self.fail("FieldValueDuplicate", &at, format!("Duplicate value: {}", shown(&identity)));
            }
            let old = before.and_then(|before| super::rules::same_key(before, item, &keys));
            self.check(&schema["items"], item, old, &at, depth + 1);
        }
    }

    fn check_object(&mut self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, depth: usize) {
        let Some(fields) = value.as_object() else { return };
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.fail("FieldValueRequired", &join(name), "Required value".to_owned());
            }
        }
        let len = fields.len() as u64;
        if let Some(min) = whole(schema, "minProperties").filter(|min| len < *min) {
            self.invalid(path, value, &format!("should have at least {min} properties"));
        }
        if let Some(max) = whole(schema, "maxProperties").filter(|max| len > *max) {
            self.fail("FieldValueTooMany", path, format!("Too many: {len}: must have at most {max} items"));
        }
        let embedded = schema["x-kubernetes-embedded-resource"] == true;
        if embedded {
            self.check_embedded(value, path);
        }
        for (name, field) in fields {
            // The machinery checks what belongs to every object.
            if (path.is_empty() || embedded) && matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
                continue;
            }
            let old = old.and_then(|old| old.get(name));
            if let Some(property) = schema["properties"].get(name) {
                self.check(property, field, old, &join(name), depth + 1);
            } else if schema["additionalProperties"].is_object() {
                self.check(&schema["additionalProperties"], field, old, &join(name), depth + 1);
            }
        }
    }

    /// A resource inside of a resource has a type and metadata that could stand alone.
    fn check_embedded(&mut self, value: &Value, path: &str) {
        for name in ["apiVersion", "kind"] {
            let text = value[name].as_str().unwrap_or_default();
            if text.is_empty() {
                self.fail(
                    "FieldValueRequired",
                    &format!("{path}.{name}"),
                    "Required value: must not be empty".to_owned(),
                );
            } else if name == "apiVersion" && text.matches('/').count() > 1 {
                let message = format!("Invalid value: {text:?}: unexpected GroupVersion string: {text}");
                self.fail("FieldValueInvalid", &format!("{path}.{name}"), message);
            }
        }
        for field in ["labels", "annotations"] {
            for (name, text) in value["metadata"][field].as_object().into_iter().flatten() {
                if !text.is_string() {
                    let message = format!("Invalid value: {}: must be a string", shown(text));
                    self.fail("FieldValueInvalid", &format!("{path}.metadata.{field}[{name}]"), message);
                }
            }
        }
    }

    fn check_combinations(&mut self, schema: &Value, value: &Value, path: &str, depth: usize) {
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.check(part, value, None, path, depth + 1);
        }
        let fits = |part: &Value| {
            let mut errors = Vec::new();
            Checker { errors: &mut errors }.check(part, value, None, path, depth + 1);
            errors.is_empty()
        };
        if let Some(parts) = schema["anyOf"].as_array()
            && !parts.iter().any(fits)
        {
            self.invalid(path, value, "must validate at least one schema (anyOf)");
        }
        if let Some(parts) = schema["oneOf"].as_array() {
            let count = parts.iter().filter(|part| fits(part)).count();
            if count != 1 {
                let found = if count == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {count} valid alternatives")
                };
                self.invalid(path, value, &format!("must validate one and only one schema (oneOf). {found}"));
            }
        }
        if schema["not"].is_object() && fits(&schema["not"]) {
            self.invalid(path, value, "must not validate the schema (not)");
        }
    }
}

/// A bound; definitions may write it as `5.0`.
fn whole(schema: &Value, name: &str) -> Option<u64> {
    let bound = &schema[name];
    bound.as_u64().or_else(|| bound.as_f64().filter(|bound| *bound >= 0.0).map(|bound| bound as u64))
}

/// The keys of a `map` list.
fn list_keys(schema: &Value) -> Vec<String> {
    let keyed = schema["x-kubernetes-list-type"] == "map";
    let keys = schema["x-kubernetes-list-map-keys"].as_array().filter(|_| keyed).into_iter().flatten();
    keys.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What identifies an element of a `map` list; defaults count for absent keys.
fn key_of(schema: &Value, item: &Value, keys: &[String]) -> Value {
    let value = |key: &String| {
        let found = item.get(key).or_else(|| schema["items"]["properties"][key].get("default"));
        found.map(|value| (key.clone(), value.clone()))
    };
    Value::Object(keys.iter().filter_map(value).collect())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_name_or_value(value: &Value) -> String {
    format!("{:?}", type_name(value))
}

fn shown(value: &Value) -> String {
    value.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(schema: &Value, value: &Value) -> Vec<String> {
        validate(schema, value, None).into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn types_bounds_and_names_are_checked_with_upstreams_words() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 5},
                "color": {"type": "string", "enum": ["red", "blue"], "pattern": "^[a-z]+$"},
                "port": {"x-kubernetes-int-or-string": true},
                "tags": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "set", "items": {"type": "string"}}}}}});
        assert!(
            fields(&schema, &json!({"spec": {"size": 3, "color": "red", "port": "http", "tags": ["a"]}})).is_empty()
        );
        assert_eq!(fields(&schema, &json!({"metadata": {}})), ["spec: Required value"]);
        assert_eq!(
            fields(&schema, &json!({"spec": {"size": "x"}})),
            ["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""]
        );
        assert_eq!(
            fields(&schema, &json!({"spec": {"size": 9, "color": "green"}})),
            [
                "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
                "spec.size: Invalid value: 9: spec.size in body should be less than or equal to 5"
            ]
        );
        assert_eq!(fields(&schema, &json!({"spec": {"size": 1, "port": 1.5, "tags": ["a", "a", "b"]}})).len(), 3);
    }

    #[test]
    fn alternatives_are_counted() {
        let schema = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        assert!(fields(&schema, &json!({"a": 1})).is_empty());
        assert_eq!(fields(&schema, &json!({"a": 1, "b": 1})).len(), 1);
        assert_eq!(fields(&schema, &json!({})).len(), 1);
        let nullable = json!({"type": "object", "properties": {"a": {"type": "string", "nullable": true}, "b": {"type": "string"}}});
        assert!(fields(&nullable, &json!({"a": null})).is_empty());
        assert_eq!(fields(&nullable, &json!({"b": null})).len(), 1);
    }

    #[test]
    fn what_did_not_change_is_not_checked_again() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1}, "b": {"type": "string"},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
                "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 5}}}},
            "plain": {"type": "array", "items": {"type": "integer", "maximum": 5}}}});
        let old = json!({"a": "long", "b": "x", "keyed": [{"k": "1", "v": 9}], "plain": [9]});
        let check = |new: &Value| -> Vec<String> {
            validate(&schema, new, Some(&old)).into_iter().map(|cause| cause.field).collect()
        };
        assert!(
            check(&json!({"a": "long", "b": "y", "keyed": [{"k": "2", "v": 1}, {"k": "1", "v": 9}], "plain": [9]}))
                .is_empty()
        );
        assert_eq!(
            check(&json!({"a": "longer", "keyed": [{"k": "1", "v": 8}], "plain": [9, 1]})),
            ["a", "keyed[0].v", "plain[0]"]
        );
    }

    #[test]
    fn keys_are_unique_and_embedded_resources_complete() {
        let schema = json!({"type": "object", "properties": {
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "p"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "p": {"type": "string", "default": "TCP"}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}});
        assert_eq!(
            fields(&schema, &json!({"keyed": [{"k": "a"}, {"k": "a", "p": "TCP"}, {"k": "a", "p": "UDP"}]})),
            ["keyed[1]: Duplicate value: {\"k\":\"a\",\"p\":\"TCP\"}"]
        );
        assert_eq!(
            fields(&schema, &json!({"pod": {"kind": "Pod"}})),
            ["pod.apiVersion: Required value: must not be empty"]
        );
    }
}
