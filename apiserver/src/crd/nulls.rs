//! Nulls that a schema does not allow, and has no default for, are dropped.

use serde_json::Value;

/// Levels of nesting that are looked at.
const DEPTH_MAX: usize = 100;

/// Removes such nulls everywhere in an object.
pub fn prune(schema: &Value, value: &mut Value) {
    walk(schema, value, 0);
}

fn walk(schema: &Value, value: &mut Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Object(fields) => {
            let properties = &schema["properties"];
            let others = &schema["additionalProperties"];
            fields.retain(|name, value| {
                let property = properties.get(name).unwrap_or(others);
                let dropped = value.is_null() && property.is_object() && property["nullable"] != true;
                !(dropped && property["default"].is_null())
            });
            for (name, value) in fields {
                let property = properties.get(name).unwrap_or(others);
                if property.is_object() {
                    walk(property, value, depth + 1);
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            for item in items {
                walk(&schema["items"], item, depth + 1);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_nulls_that_mean_nothing_go() {
        let schema = json!({"properties": {"a": {"type": "string"}, "b": {"type": "string", "nullable": true},
            "c": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "string"}}}},
            "free": {"x-kubernetes-preserve-unknown-fields": true}}});
        let mut value = json!({"a": null, "b": null, "c": [{"d": null}], "free": {"e": null}, "unknown": null});
        prune(&schema, &mut value);
        assert_eq!(value, json!({"b": null, "c": [{}], "free": {"e": null}, "unknown": null}));
    }
}
