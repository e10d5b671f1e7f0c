//! Group `autoscaling`: HorizontalPodAutoscalers, stored as `autoscaling/v2`.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{
        Errors, Path,
        numbers::{positive, quantity},
    },
    value::{child, default, existing, field, int, items, list, set, text},
};

/// Longest time that a direction looks back, and longest period of a policy.
const STABILIZATION_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;
/// Average processor use that is aimed at when nothing is said.
const CPU_PERCENT: i64 = 80;

pub struct HorizontalPodAutoscalerStrategy;

impl Strategy for HorizontalPodAutoscalerStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "minReplicas", 1);
        if list(spec, "metrics").is_empty() {
            set(
                spec,
                "metrics",
                json!([{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}}}]),
            );
        }
        if let Some(behavior) = existing(spec, "behavior") {
            rules(behavior);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if !matches!(op, Operation::Status { .. }) {
            validate(&mut errors, &object["spec"]);
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

/// Scaling up is fast, scaling down waits five minutes (unless the caller decides).
fn rules(behavior: &mut Value) {
    let fill = |rules: &mut Value, policies: Value| {
        default(rules, "selectPolicy", "Max");
        if list(rules, "policies").is_empty() {
            set(rules, "policies", policies);
        }
    };
    if let Some(up) = existing(behavior, "scaleUp") {
        default(up, "stabilizationWindowSeconds", 0);
        fill(
            up,
            json!([
            {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
        );
    }
    if let Some(down) = existing(behavior, "scaleDown") {
        fill(down, json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        for policy in items(down, "policies") {
            default(policy, "periodSeconds", 15);
        }
    }
}

fn validate(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    let target = path.child("scaleTargetRef");
    for name in ["kind", "name"] {
        if text(&spec["scaleTargetRef"], name).is_empty() {
            errors.required(&target.child(name), "");
        }
    }
    let (min, max) = (int(spec, "minReplicas").unwrap_or(1), int(spec, "maxReplicas").unwrap_or(0));
    if min < 0 {
        errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 0");
    }
    if max < 1 {
        errors.invalid(&path.child("maxReplicas"), max, "must be greater than 0");
    } else if max < min {
        errors.invalid(&path.child("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
    let metrics = path.child("metrics");
    for (i, metric) in list(spec, "metrics").iter().enumerate() {
        let path = metrics.index(i);
        let kind = text(metric, "type");
        errors.one_of(&path.child("type"), kind, &["ContainerResource", "External", "Object", "Pods", "Resource"]);
        let source = match kind {
            "ContainerResource" => "containerResource",
            "External" => "external",
            "Object" => "object",
            "Pods" => "pods",
            _ => "resource",
        };
        if field(metric, source).is_none() {
            errors.required(&path.child(source), "must populate information for the given metric source");
            continue;
        }
        let target_path = path.child(source);
        let target_path = target_path.child("target");
        let target = &metric[source]["target"];
        errors.one_of(&target_path.child("type"), text(target, "type"), &["AverageValue", "Utilization", "Value"]);
        positive(errors, &target_path.child("averageUtilization"), &target["averageUtilization"]);
    }
    let can_rise_from_zero = |metric: &Value| matches!(text(metric, "type"), "Object" | "External");
    if min == 0 && !list(spec, "metrics").iter().any(can_rise_from_zero) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&metrics, why);
    }
    let behavior = path.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        scaling_rules(errors, &behavior.child(direction), &spec["behavior"][direction]);
    }
}

fn scaling_rules(errors: &mut Errors, path: &Path<'_>, rules: &Value) {
    if rules.is_null() {
        return;
    }
    let window = path.child("stabilizationWindowSeconds");
    match int(rules, "stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => errors.invalid(&window, seconds, "must be greater than or equal to zero"),
        Some(seconds) if seconds > STABILIZATION_SECONDS_MAX => {
            let most = format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}");
            errors.invalid(&window, seconds, most);
        }
        _ => {}
    }
    errors.one_of(&path.child("selectPolicy"), text(rules, "selectPolicy"), &["Disabled", "Max", "Min"]);
    if let Some(tolerance) = field(rules, "tolerance")
        && let Some(quantity) = quantity(errors, &path.child("tolerance"), tolerance)
        && quantity.is_negative()
    {
        errors.invalid(&path.child("tolerance"), tolerance, "must be greater than or equal to 0");
    }
    for (i, policy) in list(rules, "policies").iter().enumerate() {
        let path = path.child("policies");
        let path = path.index(i);
        errors.one_of(&path.child("type"), text(policy, "type"), &["Percent", "Pods"]);
        let (value, period) = (int(policy, "value").unwrap_or(0), int(policy, "periodSeconds").unwrap_or(0));
        if value <= 0 {
            errors.invalid(&path.child("value"), value, "must be greater than zero");
        }
        if period <= 0 {
            errors.invalid(&path.child("periodSeconds"), period, "must be greater than zero");
        } else if period > PERIOD_SECONDS_MAX {
            let most = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.invalid(&path.child("periodSeconds"), period, most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    #[test]
    fn a_bare_autoscaler_aims_at_cpu() {
        let mut object = json!({"spec": {"maxReplicas": 0, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
        HorizontalPodAutoscalerStrategy.default(Operation::Create, &mut object);
        assert_eq!(object["spec"]["minReplicas"], 1);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        let mut errors = Errors::new();
        validate(&mut errors, &object["spec"]);
        assert_eq!(lines(errors.into_causes()), ["spec.maxReplicas: Invalid value: 0: must be greater than 0"]);
    }

    #[test]
    fn behavior_stays_within_its_bounds() {
        let policy =
            |kind: &str, value: i64, period: i64| json!({"type": kind, "value": value, "periodSeconds": period});
        let spec = |up: Value| json!({"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "behavior": {"scaleUp": up}});
        let check = |up: Value| {
            let mut errors = Errors::new();
            validate(&mut errors, &spec(up));
            lines(errors.into_causes())
        };
        let sound = json!({"tolerance": "50m", "selectPolicy": "Max", "stabilizationWindowSeconds": 3600,
            "policies": [policy("Pods", 1, 1800)]});
        assert_eq!(check(sound), [""; 0]);
        let wrong = json!({"tolerance": "-1", "selectPolicy": "Most", "stabilizationWindowSeconds": 3601,
            "policies": [policy("Nodes", 0, 1801)]});
        let at = "spec.behavior.scaleUp";
        assert_eq!(
            check(wrong),
            [
                format!("{at}.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600"),
                format!(
                    "{at}.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\""
                ),
                format!("{at}.tolerance: Invalid value: \"-1\": must be greater than or equal to 0"),
                format!("{at}.policies[0].type: Unsupported value: \"Nodes\": supported values: \"Percent\", \"Pods\""),
                format!("{at}.policies[0].value: Invalid value: 0: must be greater than zero"),
                format!("{at}.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"),
            ]
        );
    }
}
