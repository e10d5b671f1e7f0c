//! Group `autoscaling`: HorizontalPodAutoscalers, stored as `autoscaling/v2`.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, numbers::positive},
    value::{child, default, existing, field, int, items, list, set, text},
};

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
    if min < 1 {
        errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
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
}
