//! ReplicaSets.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{selector_and_template, selector_is_immutable};
use crate::registry::{
    core::pod::defaults,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, numbers::non_negative},
    value::{child, default, entries, existing, set},
};

pub struct ReplicaSetStrategy;

impl Strategy for ReplicaSetStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if entries(&object["metadata"], "labels").next().is_none()
            && labels.as_object().is_some_and(|labels| !labels.is_empty())
        {
            set(child(object, "metadata"), "labels", labels);
        }
        let spec = child(object, "spec");
        default(spec, "replicas", 1);
        if let Some(template) = existing(spec, "template") {
            defaults::template(template);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(object, "status", json!({"replicas": 0}));
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match op {
            Operation::Create => spec(&mut errors, &object["spec"]),
            Operation::Update { old } => {
                spec(&mut errors, &object["spec"]);
                selector_is_immutable(&mut errors, object, old);
            }
            Operation::Status { .. } => status(&mut errors, &object["status"]),
            _ => {}
        }
        errors.into_causes()
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    for name in ["replicas", "minReadySeconds"] {
        non_negative(errors, &path.child(name), &spec[name]);
    }
    selector_and_template(errors, spec, "replicaset");
}

fn status(errors: &mut Errors, status: &Value) {
    let path = Path::new("status");
    for name in ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"] {
        non_negative(errors, &path.child(name), &status[name]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};

    fn set_with(selector: &str) -> Value {
        json!({"spec": {"selector": {"matchLabels": {"a": selector}}, "template": {
            "metadata": {"labels": {"a": "b", "x": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn a_replica_set_is_completed() {
        let object = made(&ReplicaSetStrategy, set_with("b"));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b", "x": "b"}));
        assert_eq!((&object["spec"]["replicas"], &object["status"]), (&json!(1), &json!({"replicas": 0})));
        assert!(wrong(&ReplicaSetStrategy, set_with("b")).is_empty());
    }

    #[test]
    fn the_selector_matches_and_stays() {
        assert_eq!(wrong(&ReplicaSetStrategy, set_with("c")).len(), 1);
        let mut other = set_with("b");
        other["spec"]["selector"] = json!({"matchLabels": {"x": "b"}});
        assert_eq!(
            wrong_update(&ReplicaSetStrategy, other, set_with("b")),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"x\":\"b\"}}: field is immutable"]
        );
    }
}
