//! Group `scheduling.k8s.io`: PriorityClasses.

use serde_json::Value;
use skiff_api::{Cause, Status};

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path},
    value::{default, int, name},
};

/// Values above this belong to the system.
pub const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// Class of pods a cluster cannot work without.
pub const SYSTEM_CLUSTER_CRITICAL: (&str, i64) = ("system-cluster-critical", 2_000_000_000);
/// Class of pods a node cannot work without.
pub const SYSTEM_NODE_CRITICAL: (&str, i64) = ("system-node-critical", 2_000_001_000);

pub struct PriorityClassStrategy;

impl Strategy for PriorityClassStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        default(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let value = int(object, "value").unwrap_or(0);
        let own_name = name(object);
        if own_name.starts_with("system-") {
            let known = [SYSTEM_CLUSTER_CRITICAL, SYSTEM_NODE_CRITICAL].contains(&(own_name, value));
            if !known {
                let metadata = Path::new("metadata");
                let why = "priority class names with 'system-' prefix are reserved for system use only. error: system-defined priority class names must match";
                errors.forbidden(&metadata.child("name"), why);
            }
        } else if value > USER_PRIORITY_MAX {
            let why = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            errors.forbidden(&Path::new("value"), why);
        }
        let policy = super::value::text(object, "preemptionPolicy");
        errors.one_of(&Path::new("preemptionPolicy"), policy, &["Never", "PreemptLowerPriority"]);
        if let Operation::Update { old } = op {
            if int(old, "value").unwrap_or(0) != value {
                errors.forbidden(&Path::new("value"), "may not be changed in an update.");
            }
            errors.immutable(&Path::new("preemptionPolicy"), &object["preemptionPolicy"], &old["preemptionPolicy"]);
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        true
    }

    fn validate_delete(&self, _context: &RequestContext<'_>, object: &Value) -> Result<(), Status> {
        let own_name = name(object);
        if [SYSTEM_CLUSTER_CRITICAL.0, SYSTEM_NODE_CRITICAL.0].contains(&own_name) {
            let why = "this is a system priority class and cannot be deleted";
            return Err(Status::forbidden("scheduling.k8s.io", "priorityclasses", own_name, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};
    use serde_json::json;

    #[test]
    fn system_classes_are_the_systems() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        assert_eq!(made(&PriorityClassStrategy, class("a", 1))["preemptionPolicy"], "PreemptLowerPriority");
        assert!(wrong(&PriorityClassStrategy, class("system-node-critical", 2_000_001_000)).is_empty());
        assert_eq!(wrong(&PriorityClassStrategy, class("system-other", 1)).len(), 1);
        assert_eq!(
            wrong(&PriorityClassStrategy, class("a", 2_000_000_000)),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert_eq!(
            wrong_update(&PriorityClassStrategy, class("a", 2), class("a", 1)),
            ["value: Forbidden: may not be changed in an update."]
        );
    }
}
