//! Nodes.

use serde_json::Value;
use skiff_api::Cause;

use super::pod::scheduling;
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{child, entries, existing, field, items_mut, list, same, text},
};

pub struct NodeStrategy;

impl Strategy for NodeStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        if let Some(status) = existing(object, "status")
            && entries(status, "allocatable").next().is_none()
            && field(status, "capacity").is_some()
        {
            let capacity = status["capacity"].clone();
            crate::registry::value::set(status, "allocatable", capacity);
        }
        pod_cidrs(object);
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let spec_path = Path::new("spec");
        let spec = &object["spec"];
        scheduling::taints(&mut errors, &spec_path.child("taints"), list(spec, "taints"));
        let cidrs = spec_path.child("podCIDRs");
        for (i, cidr) in list(spec, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
            errors.invalid_all(&cidrs.index(i), cidr, formats::cidr(cidr));
        }
        if let Operation::Update { old } = op {
            update(&mut errors, &spec_path, spec, &old["spec"]);
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

/// `podCIDR` and the first of `podCIDRs` are one value.
fn pod_cidrs(object: &mut Value) {
    let spec = child(object, "spec");
    let one = text(spec, "podCIDR").to_owned();
    match list(spec, "podCIDRs").first().and_then(Value::as_str) {
        None if !one.is_empty() => items_mut(spec, "podCIDRs").push(one.into()),
        Some(first) if one.is_empty() => {
            let first = first.to_owned();
            crate::registry::value::set(spec, "podCIDR", first);
        }
        _ => {}
    }
}

fn update(errors: &mut Errors, path: &Path<'_>, new: &Value, old: &Value) {
    if !list(old, "podCIDRs").is_empty() && !same(new, old, "podCIDRs") {
        errors.forbidden(&path.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !text(old, "providerID").is_empty() && text(old, "providerID") != text(new, "providerID") {
        errors.forbidden(&path.child("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};
    use serde_json::json;

    #[test]
    fn capacity_and_pod_range_are_completed() {
        let node =
            made(&NodeStrategy, json!({"spec": {"podCIDR": "10.0.0.0/24"}, "status": {"capacity": {"cpu": "1"}}}));
        assert_eq!(node["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
        assert_eq!(node["status"]["allocatable"], json!({"cpu": "1"}));
        let node = made(&NodeStrategy, json!({"spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}}));
        assert_eq!(node["spec"]["podCIDR"], "10.0.0.0/24");
    }

    #[test]
    fn ranges_and_provider_stay() {
        let node = |cidr: &str, provider: &str| json!({"spec": {"podCIDR": cidr, "providerID": provider}});
        assert!(wrong_update(&NodeStrategy, node("10.0.0.0/24", "p"), node("", "")).is_empty());
        assert_eq!(
            wrong_update(&NodeStrategy, node("10.0.1.0/24", "q"), node("10.0.0.0/24", "p")),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid"
            ]
        );
        assert_eq!(wrong(&NodeStrategy, json!({"spec": {"taints": [{"key": "a", "effect": "X"}]}})).len(), 1);
    }
}
