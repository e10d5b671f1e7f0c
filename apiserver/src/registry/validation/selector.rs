//! `LabelSelector`: validation and matching on dynamic values.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Errors, Path, formats};
use crate::registry::value::{entries, list, text};

/// Checks a selector at `path`.
pub fn label_selector(errors: &mut Errors, path: &Path<'_>, selector: &Value) {
    let match_labels = path.child("matchLabels");
    for (key, label) in entries(selector, "matchLabels") {
        errors.invalid_all(&match_labels, key, formats::qualified_name(key));
        let label = label.as_str().unwrap_or_default();
        errors.invalid_all(&match_labels.key(key), label, formats::label_value(label));
    }
    let expressions = path.child("matchExpressions");
    for (i, expression) in list(selector, "matchExpressions").iter().enumerate() {
        requirement(errors, &expressions.index(i), expression);
    }
}

fn requirement(errors: &mut Errors, path: &Path<'_>, expression: &Value) {
    if !values_fit_operator(errors, path, expression) {
        errors.invalid(&path.child("operator"), text(expression, "operator"), "not a valid selector operator");
    }
    key_and_values(errors, path, expression);
}

/// Checks that values are given exactly where the operator takes some; false for an operator that is not known.
pub fn values_fit_operator(errors: &mut Errors, path: &Path<'_>, expression: &Value) -> bool {
    let values = list(expression, "values");
    match text(expression, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => return false,
    }
    true
}

/// Checks the forms of the label and of its values.
pub fn key_and_values(errors: &mut Errors, path: &Path<'_>, expression: &Value) {
    let key = text(expression, "key");
    errors.invalid_all(&path.child("key"), key, formats::qualified_name(key));
    let values_path = path.child("values");
    for (i, label) in list(expression, "values").iter().filter_map(Value::as_str).enumerate() {
        errors.invalid_all(&values_path.index(i), label, formats::label_value(label));
    }
}

/// Whether a selector selects these labels. An absent selector selects
/// nothing, an empty one everything.
pub fn matches(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    matches_by(selector, |key| labels.get(key).map(String::as_str))
}

/// Whether a selector selects the labels of a dynamic object's map.
pub fn matches_value(selector: &Value, labels: &Value) -> bool {
    matches_by(selector, |key| labels.get(key).and_then(Value::as_str))
}

fn matches_by<'a>(selector: &Value, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    if selector.is_null() {
        return false;
    }
    entries(selector, "matchLabels").all(|(key, want)| label(key) == want.as_str())
        && list(selector, "matchExpressions").iter().all(|expression| {
            let have = label(text(expression, "key"));
            let among = || have.is_some_and(|have| list(expression, "values").iter().any(|value| value == have));
            match text(expression, "operator") {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => have.is_some(),
                "DoesNotExist" => have.is_none(),
                _ => false,
            }
        })
}

/// Whether a plain map selector (of a Service or ReplicationController) selects the labels; empty selects nothing.
pub fn map_matches(selector: &Value, labels: &Value) -> bool {
    let Some(wanted) = selector.as_object() else { return false };
    !wanted.is_empty() && wanted.iter().all(|(key, want)| labels.get(key) == Some(want))
}

#[cfg(test)]
mod tests {
    use super::{super::lines, *};
    use serde_json::json;

    #[test]
    fn selectors_match_as_upstream() {
        let labels = json!({"app": "web", "tier": "front"});
        let table = [
            (json!(null), false),
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        ];
        for (selector, want) in table {
            assert_eq!(matches_value(&selector, &labels), want, "{selector}");
        }
        assert!(!map_matches(&json!({}), &labels));
        assert!(map_matches(&json!({"app": "web"}), &labels));
    }

    #[test]
    fn wrong_selectors_name_the_field() {
        let mut errors = Errors::new();
        let selector = json!({"matchLabels": {"a/b/c": "x"}, "matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["v"]}, {"key": "a", "operator": "X"}]});
        label_selector(&mut errors, &Path::new("s"), &selector);
        let lines = lines(errors.into_causes());
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("s.matchExpressions[0].values: Required value"));
        assert_eq!(lines[3], "s.matchExpressions[2].operator: Invalid value: \"X\": not a valid selector operator");
    }
}
