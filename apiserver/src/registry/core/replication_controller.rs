//! ReplicationControllers: replica sets with a plain map as selector.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::pod::{defaults, validation};
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, numbers, selector},
    value::{child, default, entries, set, text},
};

pub struct ReplicationControllerStrategy;

impl Strategy for ReplicationControllerStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
            if entries(&object["spec"], "selector").next().is_none() {
                set(child(object, "spec"), "selector", labels.clone());
            }
            if entries(&object["metadata"], "labels").next().is_none() {
                set(child(object, "metadata"), "labels", labels);
            }
        }
        let spec = child(object, "spec");
        default(spec, "replicas", 1);
        if let Some(template) = crate::registry::value::existing(spec, "template") {
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
        if matches!(op, Operation::Status { .. }) {
            return Vec::new();
        }
        let path = Path::new("spec");
        let spec = &object["spec"];
        numbers::non_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
        numbers::non_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
        let wanted = &spec["selector"];
        if entries(spec, "selector").next().is_none() {
            errors.required(&path.child("selector"), "");
        }
        let template_path = path.child("template");
        let template = &spec["template"];
        if template.is_null() {
            errors.required(&template_path, "");
            return errors.into_causes();
        }
        let labels = &template["metadata"]["labels"];
        if !selector::map_matches(wanted, labels) {
            errors.invalid(
                &template_path.child("metadata").child("labels"),
                labels,
                "`selector` does not match template `labels`",
            );
        }
        validation::template(&mut errors, &template_path, template);
        workload_template(&mut errors, &template_path, template, "ReplicationController");
        errors.into_causes()
    }
}

/// What templates of endlessly running workloads may not say.
pub fn workload_template(errors: &mut Errors, path: &Path<'_>, template: &Value, kind: &str) {
    let spec_path = path.child("spec");
    let spec = &template["spec"];
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        errors.not_supported(&spec_path.child("restartPolicy"), policy, &["Always"]);
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        errors.forbidden(
            &spec_path.child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong};

    fn controller() -> Value {
        json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn labels_of_the_template_are_selector_and_labels() {
        let object = made(&ReplicationControllerStrategy, controller());
        assert_eq!(object["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!((&object["spec"]["replicas"], &object["status"]), (&json!(1), &json!({"replicas": 0})));
        assert!(wrong(&ReplicationControllerStrategy, controller()).is_empty());
    }

    #[test]
    fn the_selector_must_match() {
        let mut object = controller();
        object["spec"]["selector"] = json!({"a": "c"});
        object["spec"]["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
        assert_eq!(
            wrong(&ReplicationControllerStrategy, object),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported"
            ]
        );
    }
}
