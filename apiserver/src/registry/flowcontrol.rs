//! Group `flowcontrol.apiserver.k8s.io`.

use serde_json::Value;
use skiff_api::Cause;

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path},
    value::{child, default, default_nonzero, default_text, existing, field, int, name, text},
};
/// FlowSchemas.
pub struct FlowSchemaStrategy;

impl Strategy for FlowSchemaStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        default_nonzero(child(object, "spec"), "matchingPrecedence", 1000);
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if matches!(op, Operation::Status { .. }) {
            return Vec::new();
        }
        let path = Path::new("spec");
        let spec = &object["spec"];
        let precedence = int(spec, "matchingPrecedence").unwrap_or(0);
        if precedence <= 0 {
            errors.invalid(&path.child("matchingPrecedence"), precedence, "must be a positive value");
        } else if precedence > 10000 {
            errors.invalid(&path.child("matchingPrecedence"), precedence, "must not be greater than 10000");
        } else if precedence == 1 && name(object) != "exempt" {
            errors.invalid(
                &path.child("matchingPrecedence"),
                precedence,
                "only the schema named 'exempt' may have matchingPrecedence 1",
            );
        }
        if text(&spec["priorityLevelConfiguration"], "name").is_empty() {
            errors.required(&path.child("priorityLevelConfiguration").child("name"), "must reference a priority level");
        }
        if let Some(method) = field(spec, "distinguisherMethod") {
            errors.one_of(
                &path.child("distinguisherMethod").child("type"),
                text(method, "type"),
                &["ByNamespace", "ByUser"],
            );
        }
        errors.into_causes()
    }
}

/// PriorityLevelConfigurations.
pub struct PriorityLevelStrategy;

impl Strategy for PriorityLevelStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        if let Some(exempt) = existing(spec, "exempt") {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = existing(spec, "limited") {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            let response = child(limited, "limitResponse");
            default_text(response, "type", "Reject");
            if let Some(queuing) = existing(response, "queuing") {
                default_nonzero(queuing, "queues", 64);
                default_nonzero(queuing, "handSize", 8);
                default_nonzero(queuing, "queueLengthLimit", 50);
            }
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if matches!(op, Operation::Status { .. }) {
            return Vec::new();
        }
        let path = Path::new("spec");
        let spec = &object["spec"];
        match text(spec, "type") {
            "Exempt" if field(spec, "limited").is_some() => {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            "Limited" if field(spec, "limited").is_none() => {
                errors.required(&path.child("limited"), "must not be empty when type is Limited");
            }
            "Exempt" | "Limited" => {}
            other => errors.not_supported(&path.child("type"), other, &["Exempt", "Limited"]),
        }
        errors.into_causes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong};
    use serde_json::json;

    #[test]
    fn schemas_name_a_level() {
        let schema = |precedence: i64, level: &str| json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}}});
        assert_eq!(made(&FlowSchemaStrategy, schema(0, "l"))["spec"]["matchingPrecedence"], 1000);
        assert_eq!(
            wrong(&FlowSchemaStrategy, schema(10001, "")),
            [
                "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level"
            ]
        );
        assert_eq!(wrong(&FlowSchemaStrategy, schema(1, "l")).len(), 1);
    }

    #[test]
    fn levels_are_completed_and_of_one_type() {
        let level = made(
            &PriorityLevelStrategy,
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}}),
        );
        assert_eq!(level["spec"]["limited"]["nominalConcurrencyShares"], 30);
        assert_eq!(
            level["spec"]["limited"]["limitResponse"]["queuing"],
            json!({"queues": 64, "handSize": 8, "queueLengthLimit": 50})
        );
        assert_eq!(wrong(&PriorityLevelStrategy, json!({"spec": {"type": "Limited"}})).len(), 1);
    }
}
