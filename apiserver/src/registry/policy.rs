//! Group `policy`: PodDisruptionBudgets.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{
        Errors, Path,
        numbers::{int_or_percent, non_negative, not_more_than_100_percent},
        selector,
    },
    value::{field, set},
};

pub struct PodDisruptionBudgetStrategy;

impl Strategy for PodDisruptionBudgetStrategy {
    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(
                object,
                "status",
                json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
            );
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match op {
            Operation::Create | Operation::Update { .. } => spec(&mut errors, &object["spec"]),
            Operation::Status { .. } => {
                let path = Path::new("status");
                for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                    non_negative(&mut errors, &path.child(name), &object["status"][name]);
                }
            }
            _ => {}
        }
        errors.into_causes()
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    if field(spec, "minAvailable").is_some() && field(spec, "maxUnavailable").is_some() {
        errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for name in ["minAvailable", "maxUnavailable"] {
        int_or_percent(errors, &path.child(name), &spec[name]);
        not_more_than_100_percent(errors, &path.child(name), &spec[name]);
    }
    selector::label_selector(errors, &path.child("selector"), &spec["selector"]);
    if let Some(policy) = field(spec, "unhealthyPodEvictionPolicy").and_then(Value::as_str) {
        errors.one_of(&path.child("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    #[test]
    fn a_budget_says_one_thing() {
        let mut errors = Errors::new();
        spec(&mut errors, &json!({"minAvailable": 1, "maxUnavailable": "120%"}));
        let lines = lines(errors.into_causes());
        assert!(lines[0].ends_with("minAvailable and maxUnavailable cannot be both set"));
        assert_eq!(lines[1], "spec.maxUnavailable: Invalid value: \"120%\": must not be greater than 100%");
    }
}
