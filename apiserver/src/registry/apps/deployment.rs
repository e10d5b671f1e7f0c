//! Deployments.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{selector_and_template, selector_is_immutable};
use crate::registry::{
    core::pod::{defaults, strategy},
    strategy::{Operation, RequestContext, Strategy},
    validation::{
        Errors, Path,
        numbers::{int_or_percent, non_negative, not_more_than_100_percent, percent},
    },
    value::{child, default, default_text, existing, field, int, remove, set, text},
};

pub struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        let strategy = child(spec, "strategy");
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            let rolling = child(strategy, "rollingUpdate");
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
        if let Some(template) = existing(spec, "template") {
            defaults::template(template);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(object, "status", json!({}));
        }
        // A patch that switches to Recreate with `rollingUpdate: null` leaves an empty field behind.
        if !matches!(op, Operation::Status { .. })
            && let Some(strategy) = existing(child(object, "spec"), "strategy")
            && field(strategy, "rollingUpdate").is_none()
        {
            remove(strategy, "rollingUpdate");
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

    fn warnings(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<String> {
        match op {
            Operation::Create | Operation::Update { .. } => {
                strategy::warnings(&object["spec"]["template"]["spec"], "spec.template.spec")
            }
            _ => Vec::new(),
        }
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    for name in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        non_negative(errors, &path.child(name), &spec[name]);
    }
    selector_and_template(errors, spec, "deployment");
    rollout(errors, &path.child("strategy"), &spec["strategy"]);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds") {
        non_negative(errors, &path.child("progressDeadlineSeconds"), &spec["progressDeadlineSeconds"]);
        if deadline <= int(spec, "minReadySeconds").unwrap_or(0) {
            errors.invalid(&path.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
        }
    }
}

fn rollout(errors: &mut Errors, path: &Path<'_>, strategy: &Value) {
    let rolling = field(strategy, "rollingUpdate");
    let rolling_path = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if rolling.is_some() => {
            errors.forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => match rolling {
            Some(rolling) => rolling_update(errors, &rolling_path, rolling),
            None => errors.required(&rolling_path, "this should be defaulted and never be nil"),
        },
        other => errors.not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(errors: &mut Errors, path: &Path<'_>, rolling: &Value) {
    let unavailable = path.child("maxUnavailable");
    int_or_percent(errors, &unavailable, &rolling["maxUnavailable"]);
    int_or_percent(errors, &path.child("maxSurge"), &rolling["maxSurge"]);
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
        errors.invalid(&unavailable, &rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0");
    }
    not_more_than_100_percent(errors, &unavailable, &rolling["maxUnavailable"]);
}

/// `0`, `0%` or absent.
pub fn is_zero(value: &Value) -> bool {
    value.is_null() || value.as_i64() == Some(0) || percent(value) == Some(0)
}

fn status(errors: &mut Errors, status: &Value) {
    let path = Path::new("status");
    for name in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
    ] {
        non_negative(errors, &path.child(name), &status[name]);
    }
    let count = |name: &str| int(status, name).unwrap_or(0);
    for (name, bound) in [
        ("updatedReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ] {
        if count(name) > count(bound) {
            errors.invalid(
                &path.child(name),
                count(name),
                format!("cannot be greater than {}", if bound == "replicas" { "status.replicas" } else { bound }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    fn deployment(spec: Value) -> Value {
        let mut object = json!({"spec": spec});
        DeploymentStrategy.default(Operation::Create, &mut object);
        object
    }

    fn check(overrides: Value) -> Vec<String> {
        let mut wanted = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
        for (key, value) in overrides.as_object().unwrap() {
            wanted[key] = value.clone();
        }
        let mut errors = Errors::new();
        spec(&mut errors, &deployment(wanted)["spec"]);
        lines(errors.into_causes())
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = deployment(json!({}));
        assert_eq!(
            object["spec"],
            json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}})
        );
    }

    #[test]
    fn wrong_deployments_get_upstreams_errors() {
        assert_eq!(check(json!({})), Vec::<String>::new());
        assert_eq!(check(json!({"selector": null})), ["spec.selector: Required value"]);
        assert_eq!(
            check(json!({"selector": {"matchLabels": {"a": "c"}}})),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            check(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}})),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"]
        );
        assert_eq!(
            check(json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}})),
            ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]
        );
        let never = json!({"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        assert_eq!(
            check(never),
            ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
        );
        assert_eq!(
            check(json!({"replicas": -1})),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
    }
}
