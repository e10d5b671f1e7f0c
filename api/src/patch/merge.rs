//! JSON merge patch (RFC 7386): null deletes, objects merge, the rest replaces.

use serde_json::{Map, Value};

/// Applies a merge patch.
pub fn apply(target: Value, patch: Value) -> Value {
    let Value::Object(changes) = patch else { return patch };
    let mut fields = match target {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(&name);
        } else {
            let old = fields.remove(&name).unwrap_or(Value::Null);
            fields.insert(name, apply(old, change));
        }
    }
    Value::Object(fields)
}

/// The smallest merge patch that turns `from` into `to`; `None` when they are
/// equal. A null inside `to` cannot be expressed and counts as absent.
pub fn diff(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        (Value::Object(old), Value::Object(new)) => {
            let mut changes = Map::new();
            for name in old.keys().filter(|name| new.get(*name).is_none_or(Value::is_null)) {
                if !old[name].is_null() {
                    changes.insert(name.clone(), Value::Null);
                }
            }
            for (name, value) in new.iter().filter(|(_, value)| !value.is_null()) {
                let change = match old.get(name) {
                    Some(old) => diff(old, value),
                    None => Some(value.clone()),
                };
                if let Some(change) = change {
                    changes.insert(name.clone(), change);
                }
            }
            (!changes.is_empty()).then_some(Value::Object(changes))
        }
        (from, to) => (from != to).then(|| to.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (target, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(apply(target, patch), want);
        }
    }

    #[test]
    fn a_diff_applied_gives_the_new_value() {
        let from = json!({"a": 1, "b": {"c": [1], "d": 2}, "e": "x"});
        let to = json!({"a": 1, "b": {"c": [1, 2]}, "f": {"g": true}});
        let patch = diff(&from, &to).unwrap();
        assert_eq!(patch, json!({"b": {"c": [1, 2], "d": null}, "e": null, "f": {"g": true}}));
        assert_eq!(apply(from, patch), to);
        assert_eq!(diff(&to, &to), None);
    }
}
