//! StatefulSets.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::selector_and_template;
use crate::registry::{
    core::{
        persistent_volume_claim,
        pod::{defaults, update::changes},
    },
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, numbers::non_negative},
    value::{child, copy_field, default, default_text, existing, field, items, set, text},
};

/// What an update may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
     'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

pub struct StatefulSetStrategy;

impl Strategy for StatefulSetStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default_text(spec, "podManagementPolicy", "OrderedReady");
        let update = child(spec, "updateStrategy");
        default_text(update, "type", "RollingUpdate");
        if text(update, "type") == "RollingUpdate" {
            default(child(update, "rollingUpdate"), "partition", 0);
        }
        let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
        default_text(retention, "whenDeleted", "Retain");
        default_text(retention, "whenScaled", "Retain");
        for claim in items(spec, "volumeClaimTemplates") {
            default_text(claim, "apiVersion", "v1");
            default_text(claim, "kind", "PersistentVolumeClaim");
            persistent_volume_claim::defaults(claim);
            default_text(child(claim, "status"), "phase", "Pending");
        }
        if let Some(template) = existing(spec, "template") {
            defaults::template(template);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(object, "status", json!({"availableReplicas": 0, "replicas": 0}));
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match op {
            Operation::Create => spec(&mut errors, &object["spec"]),
            Operation::Update { old } => {
                spec(&mut errors, &object["spec"]);
                update(&mut errors, &object["spec"], &old["spec"]);
            }
            _ => {}
        }
        errors.into_causes()
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    for name in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        non_negative(errors, &path.child(name), &spec[name]);
    }
    errors.one_of(&path.child("podManagementPolicy"), text(spec, "podManagementPolicy"), &["OrderedReady", "Parallel"]);
    let strategy = &spec["updateStrategy"];
    let strategy_path = path.child("updateStrategy");
    match text(strategy, "type") {
        "OnDelete" if field(strategy, "rollingUpdate").is_some() => {
            errors.invalid(
                &strategy_path.child("rollingUpdate"),
                &strategy["rollingUpdate"],
                "only allowed for updateStrategy 'RollingUpdate'",
            );
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            non_negative(
                errors,
                &strategy_path.child("rollingUpdate").child("partition"),
                &strategy["rollingUpdate"]["partition"],
            );
        }
        other => errors.invalid(&strategy_path, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let retention = path.child("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        errors.one_of(
            &retention.child(name),
            text(&spec["persistentVolumeClaimRetentionPolicy"], name),
            &["Delete", "Retain"],
        );
    }
    non_negative(errors, &path.child("ordinals").child("start"), &spec["ordinals"]["start"]);
    selector_and_template(errors, spec, "statefulset");
}

fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let mut allowed = new.clone();
    for name in MUTABLE {
        copy_field(&mut allowed, old, name);
    }
    if !changes(&allowed, old).is_empty() {
        errors.forbidden(&Path::new("spec"), FIXED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};

    fn stateful(extra: Value) -> Value {
        let mut spec = json!({"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"spec": spec})
    }

    #[test]
    fn a_stateful_set_is_completed() {
        let object = made(&StatefulSetStrategy, stateful(json!({})));
        let spec = &object["spec"];
        assert_eq!(
            (&spec["podManagementPolicy"], &spec["updateStrategy"]["rollingUpdate"]["partition"]),
            (&json!("OrderedReady"), &json!(0))
        );
        assert_eq!(spec["volumeClaimTemplates"][0]["kind"], "PersistentVolumeClaim");
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert!(wrong(&StatefulSetStrategy, stateful(json!({}))).is_empty());
    }

    #[test]
    fn a_claim_is_a_volume_of_its_pods() {
        let mounts = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
        assert_eq!(wrong(&StatefulSetStrategy, stateful(json!({"template": mounts}))), [""; 0]);
        let labelled = json!({"metadata": {"labels": {"a": "b", "c": "d e"}}, "spec": {"containers": []}});
        let lines = wrong(&StatefulSetStrategy, stateful(json!({"template": labelled})));
        assert!(lines.len() == 1 && lines[0].starts_with("spec.template.labels: Invalid value: \"d e\""), "{lines:?}");
    }

    #[test]
    fn little_of_it_changes() {
        let old = || stateful(json!({}));
        let allowed = json!({"replicas": 3, "minReadySeconds": 5, "updateStrategy": {"type": "OnDelete"}});
        assert!(wrong_update(&StatefulSetStrategy, stateful(allowed), old()).is_empty());
        let lines = wrong_update(&StatefulSetStrategy, stateful(json!({"serviceName": "t"})), old());
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with(
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals'"
            )
        );
    }
}
