//! How an object that is already there is brought up to date.

use serde_json::Value;

use crate::registry::value::{child, entries, items_mut, list, set, text, text_at};

/// Annotation by which an owner opts a default role or binding out.
pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What to write, given what exists and what is wanted; `None` when nothing is missing.
pub type Merge = fn(&Value, &Value) -> Option<Value>;

/// Leaves the existing object alone.
pub fn keep(_existing: &Value, _wanted: &Value) -> Option<Value> {
    None
}

/// Sets the wanted keys of `data`.
pub fn data(existing: &Value, wanted: &Value) -> Option<Value> {
    let mut merged = existing.clone();
    for (key, value) in entries(wanted, "data") {
        set(child(&mut merged, "data"), key, value.clone());
    }
    (merged != *existing).then_some(merged)
}

/// Default roles regain rules, labels and aggregation; additions stay.
pub fn role(existing: &Value, wanted: &Value) -> Option<Value> {
    if opted_out(existing) {
        return None;
    }
    let mut merged = with_metadata(existing, wanted);
    add_missing(&mut merged, wanted, "rules");
    for selector in list(&wanted["aggregationRule"], "clusterRoleSelectors") {
        let selectors = items_mut(child(&mut merged, "aggregationRule"), "clusterRoleSelectors");
        if !selectors.contains(selector) {
            selectors.push(selector.clone());
        }
    }
    (merged != *existing).then_some(merged)
}

/// Default bindings regain subjects; a changed role stays the owner's decision, as it cannot be updated.
pub fn binding(existing: &Value, wanted: &Value) -> Option<Value> {
    if opted_out(existing) || text(&existing["roleRef"], "name") != text(&wanted["roleRef"], "name") {
        return None;
    }
    let mut merged = with_metadata(existing, wanted);
    add_missing(&mut merged, wanted, "subjects");
    (merged != *existing).then_some(merged)
}

fn opted_out(existing: &Value) -> bool {
    text_at(existing, &["metadata", "annotations", AUTO_UPDATE]) == "false"
}

fn with_metadata(existing: &Value, wanted: &Value) -> Value {
    let mut merged = existing.clone();
    for kind in ["labels", "annotations"] {
        for (key, value) in entries(&wanted["metadata"], kind) {
            set(child(child(&mut merged, "metadata"), kind), key, value.clone());
        }
    }
    merged
}

fn add_missing(merged: &mut Value, wanted: &Value, field: &str) {
    for item in list(wanted, field) {
        if !list(merged, field).contains(item) {
            items_mut(merged, field).push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lost_rules_come_back_and_additions_stay() {
        let wanted = json!({"metadata": {"labels": {"a": "b"}}, "rules": [{"verbs": ["get"]}, {"verbs": ["list"]}]});
        let existing = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["own"]}, {"verbs": ["get"]}]});
        let merged = role(&existing, &wanted).unwrap();
        assert_eq!(merged["rules"], json!([{"verbs": ["own"]}, {"verbs": ["get"]}, {"verbs": ["list"]}]));
        assert_eq!(merged["metadata"], json!({"name": "r", "labels": {"a": "b"}}));
        assert_eq!(role(&merged, &wanted), None, "a second run has nothing to do");
    }

    #[test]
    fn an_owner_can_opt_out() {
        let existing = json!({"metadata": {"annotations": {AUTO_UPDATE: "false"}}});
        assert_eq!(role(&existing, &json!({"rules": [{"verbs": ["get"]}]})), None);
        assert_eq!(binding(&existing, &json!({"subjects": [{"name": "x"}]})), None);
    }
}
