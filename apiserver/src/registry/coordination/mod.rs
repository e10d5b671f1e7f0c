//! Group `coordination.k8s.io`.

use serde_json::Value;
use skiff_api::Cause;

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, numbers::positive},
    value::{field, int},
};

/// Leases.
pub struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        positive(&mut errors, &path.child("leaseDurationSeconds"), &spec["leaseDurationSeconds"]);
        if let Some(transitions) = int(spec, "leaseTransitions")
            && transitions < 0
        {
            errors.invalid(&path.child("leaseTransitions"), transitions, "must be greater than or equal to 0");
        }
        if field(spec, "holderIdentity").and_then(Value::as_str) == Some("") && field(spec, "strategy").is_some() {
            errors.invalid(&path.child("holderIdentity"), "", "must not be empty");
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::wrong;
    use serde_json::json;

    #[test]
    fn durations_are_positive() {
        assert!(wrong(&LeaseStrategy, json!({"spec": {"leaseDurationSeconds": 1, "leaseTransitions": 0}})).is_empty());
        assert_eq!(
            wrong(&LeaseStrategy, json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}})),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than zero",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }
}
