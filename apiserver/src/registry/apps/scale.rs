//! `scale`: a workload seen as nothing but a number of replicas.

use serde_json::{Value, json};
use skiff_api::Status;

use crate::registry::{
    endpoint::View,
    validation::{Errors, Path},
    value::{child, entries, field, int, list, name, set, text},
};

/// The view of a kind whose replicas lie at `spec.replicas`.
pub struct ScaleView;

impl View for ScaleView {
    fn show(&self, object: &Value) -> Result<Value, Status> {
        let metadata = &object["metadata"];
        let mut shown = json!({});
        for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = field(metadata, name) {
                shown[name] = value.clone();
            }
        }
        let mut status = json!({"replicas": int(&object["status"], "replicas").unwrap_or(0)});
        let selector = selector_text(&object["spec"]["selector"]);
        if !selector.is_empty() {
            status["selector"] = selector.into();
        }
        Ok(json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": shown,
            "spec": {"replicas": int(&object["spec"], "replicas").unwrap_or(0)}, "status": status,
        }))
    }

    fn replicas_path(&self) -> Vec<&str> {
        vec!["spec", "replicas"]
    }

    fn edit(&self, view: &Value, object: &mut Value) -> Result<(), Status> {
        let replicas = int(&view["spec"], "replicas").unwrap_or(0);
        if replicas < 0 {
            let mut errors = Errors::new();
            let spec = Path::new("spec");
            errors.invalid(&spec.child("replicas"), replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", name(view), errors.into_causes()));
        }
        set(child(object, "spec"), "replicas", replicas);
        Ok(())
    }
}

/// A selector in the text form of list options; a plain map is a map of equalities.
fn selector_text(selector: &Value) -> String {
    let plain = selector
        .as_object()
        .is_some_and(|map| !map.contains_key("matchLabels") && !map.contains_key("matchExpressions"));
    let equal = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    let mut parts: Vec<String> = if plain {
        selector.as_object().into_iter().flatten().map(equal).collect()
    } else {
        entries(selector, "matchLabels").map(equal).collect()
    };
    for expression in list(selector, "matchExpressions") {
        let values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
        let (key, values) = (text(expression, "key"), values.join(","));
        parts.push(match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_seen_and_scaled() {
        let mut object = json!({"metadata": {"name": "d", "namespace": "n", "uid": "u", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}},
            "status": {"replicas": 1}});
        let view = ScaleView.show(&object).unwrap();
        assert_eq!(
            view,
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "n", "uid": "u"},
                "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "a=b,c in (d,e)"}})
        );
        ScaleView.edit(&json!({"spec": {"replicas": 5}}), &mut object).unwrap();
        assert_eq!(object["spec"]["replicas"], 5);
        assert!(ScaleView.edit(&json!({"spec": {"replicas": -1}}), &mut object).is_err());
    }
}
