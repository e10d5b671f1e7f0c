//! DaemonSets.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{deployment::is_zero, selector_and_template, selector_is_immutable};
use crate::registry::{
    core::pod::defaults,
    strategy::{Operation, RequestContext, Strategy},
    validation::{
        Errors, Path,
        numbers::{int_or_percent, non_negative, not_more_than_100_percent},
    },
    value::{child, default, default_text, existing, field, set, text},
};

pub struct DaemonSetStrategy;

impl Strategy for DaemonSetStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "revisionHistoryLimit", 10);
        let update = child(spec, "updateStrategy");
        default_text(update, "type", "RollingUpdate");
        if text(update, "type") == "RollingUpdate" {
            let rolling = child(update, "rollingUpdate");
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
        if let Some(template) = existing(spec, "template") {
            defaults::template(template);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(
                object,
                "status",
                json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}),
            );
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
    for name in ["minReadySeconds", "revisionHistoryLimit"] {
        non_negative(errors, &path.child(name), &spec[name]);
    }
    selector_and_template(errors, spec, "daemonset");
    let update = &spec["updateStrategy"];
    let update_path = path.child("updateStrategy");
    match text(update, "type") {
        "OnDelete" => {}
        "RollingUpdate" => match field(update, "rollingUpdate") {
            Some(rolling) => rolling_update(errors, &update_path.child("rollingUpdate"), rolling),
            None => errors.required(&update_path.child("rollingUpdate"), ""),
        },
        other => errors.not_supported(&update_path.child("type"), other, &["OnDelete", "RollingUpdate"]),
    }
}

fn rolling_update(errors: &mut Errors, path: &Path<'_>, rolling: &Value) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    for name in ["maxUnavailable", "maxSurge"] {
        int_or_percent(errors, &path.child(name), &rolling[name]);
        not_more_than_100_percent(errors, &path.child(name), &rolling[name]);
    }
    match (is_zero(unavailable), is_zero(surge)) {
        (true, true) => errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        (false, false) => {
            errors.invalid(&path.child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero")
        }
        _ => {}
    }
}

fn status(errors: &mut Errors, status: &Value) {
    let path = Path::new("status");
    for name in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
    ] {
        non_negative(errors, &path.child(name), &status[name]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong};

    fn daemons(update: Value) -> Value {
        json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": update, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn one_pod_at_a_time_is_replaced_by_default() {
        let object = made(&DaemonSetStrategy, daemons(json!(null)));
        assert_eq!(
            object["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(object["status"]["numberReady"], 0);
    }

    #[test]
    fn surge_and_unavailability_exclude_each_other() {
        let rolling = |unavailable: Value, surge: Value| json!({"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}});
        assert!(wrong(&DaemonSetStrategy, daemons(rolling(json!(0), json!("10%")))).is_empty());
        assert_eq!(
            wrong(&DaemonSetStrategy, daemons(rolling(json!(1), json!(1)))),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
            ]
        );
        assert_eq!(
            wrong(&DaemonSetStrategy, daemons(rolling(json!(0), json!(0)))),
            ["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]
        );
        assert_eq!(wrong(&DaemonSetStrategy, daemons(json!({"type": "X"}))).len(), 1);
    }
}
