//! Workloads of group `apps`.

pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod scale;
pub mod stateful_set;

use serde_json::Value;

use super::{
    core::{pod::validation as pod, replication_controller::workload_template},
    validation::{Errors, Path, meta, selector},
};

/// Checks `spec.selector` and `spec.template` of an endlessly running
/// workload: the selector must select something, and the template's pods.
fn selector_and_template(errors: &mut Errors, spec: &Value, kind: &str) {
    let path = Path::new("spec");
    let wanted = &spec["selector"];
    let selector_path = path.child("selector");
    if wanted.is_null() {
        errors.required(&selector_path, "");
    } else {
        selector::label_selector(errors, &selector_path, wanted);
        if meta::selects_everything(wanted) {
            errors.invalid(&selector_path, wanted, format!("empty selector is invalid for {kind}"));
        }
    }
    let template = &spec["template"];
    let template_path = path.child("template");
    if template.is_null() {
        errors.required(&template_path, "");
        return;
    }
    let labels = &template["metadata"]["labels"];
    if !wanted.is_null() && !meta::selects_everything(wanted) && !selector::matches_value(wanted, labels) {
        errors.invalid(
            &template_path.child("metadata").child("labels"),
            labels,
            "`selector` does not match template `labels`",
        );
    }
    if kind == "statefulset" {
        // Volumes of its claims are not in the template, so upstream looks no further.
        meta::template_metadata(errors, &template_path, &template["metadata"]);
    } else {
        pod::template(errors, &template_path, template);
    }
    workload_template(errors, &template_path, template, owner_name(kind));
}

/// The name upstream's message about deadlines uses.
fn owner_name(kind: &str) -> &'static str {
    match kind {
        "daemonset" => "DaemonSet",
        "statefulset" => "StatefulSet",
        _ => "ReplicaSet",
    }
}

/// A selector never changes in apps/v1.
fn selector_is_immutable(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("spec");
    errors.immutable(&path.child("selector"), &new["spec"]["selector"], &old["spec"]["selector"]);
}
