//! Checks a custom resource against the OpenAPI schema of its definition.
//!
//! The parts of JSON Schema that structural schemas may use, with upstream's
//! messages. Validation rules in CEL are not evaluated.

use serde_json::Value;
use skiff_api::Cause;

/// Levels of nesting; deeper values are not looked at.
const DEPTH_MAX: usize = 100;
/// Errors reported for one object; more are not searched for.
const ERRORS_MAX: usize = 100;

/// The field errors of a value.
pub fn validate(schema: &Value, value: &Value) -> Vec<Cause> {
    let mut errors = Vec::new();
    Checker { errors: &mut errors }.check(schema, value, "", 0);
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

    fn check(&mut self, schema: &Value, value: &Value, path: &str, depth: usize) {
        if depth > DEPTH_MAX {
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
        self.check_list(schema, value, path, depth);
        self.check_object(schema, value, path, depth);
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
        if let Some(min) = schema["minLength"].as_u64().filter(|min| len < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(max) = schema["maxLength"].as_u64().filter(|max| len > *max) {
            self.fail("FieldValueTooLong", path, format!("Too long: may not be more than {max} bytes"));
        }
        if let Some(pattern) = schema["pattern"].as_str() {
            // A pattern that does not compile was refused with the definition.
            let matches = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
            if !matches {
                self.invalid(path, value, &format!("should match '{pattern}'"));
            }
        }
        if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
            self.invalid(path, value, &format!("must be of type date-time: {text:?}"));
        }
    }

    fn check_list(&mut self, schema: &Value, value: &Value, path: &str, depth: usize) {
        let Some(items) = value.as_array() else { return };
        let len = items.len() as u64;
        if let Some(min) = schema["minItems"].as_u64().filter(|min| len < *min) {
            self.invalid(path, value, &format!("should have at least {min} items"));
        }
        if let Some(max) = schema["maxItems"].as_u64().filter(|max| len > *max) {
            self.fail("FieldValueTooMany", path, format!("Too many: {len}: must have at most {max} items"));
        }
        let unique = schema["uniqueItems"] == true || schema["x-kubernetes-list-type"] == "set";
        for (index, item) in items.iter().enumerate() {
            let at = format!("{path}[{index}]");
            if unique && items[..index].contains(item) {
                self.fail("FieldValueDuplicate", &at, format!("Duplicate value: {}", shown(item)));
            }
            self.check(&schema["items"], item, &at, depth + 1);
        }
    }

    fn check_object(&mut self, schema: &Value, value: &Value, path: &str, depth: usize) {
        let Some(fields) = value.as_object() else { return };
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.fail("FieldValueRequired", &join(name), "Required value".to_owned());
            }
        }
        let len = fields.len() as u64;
        if let Some(min) = schema["minProperties"].as_u64().filter(|min| len < *min) {
            self.invalid(path, value, &format!("should have at least {min} properties"));
        }
        if let Some(max) = schema["maxProperties"].as_u64().filter(|max| len > *max) {
            self.fail("FieldValueTooMany", path, format!("Too many: {len}: must have at most {max} items"));
        }
        for (name, field) in fields {
            // The machinery checks what belongs to every object.
            if path.is_empty() && matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
                continue;
            }
            if let Some(property) = schema["properties"].get(name) {
                self.check(property, field, &join(name), depth + 1);
            } else if schema["additionalProperties"].is_object() {
                self.check(&schema["additionalProperties"], field, &join(name), depth + 1);
            }
        }
    }

    fn check_combinations(&mut self, schema: &Value, value: &Value, path: &str, depth: usize) {
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.check(part, value, path, depth + 1);
        }
        let fits = |part: &Value| {
            let mut errors = Vec::new();
            Checker { errors: &mut errors }.check(part, value, path, depth + 1);
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
        validate(schema, value).into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
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
}
