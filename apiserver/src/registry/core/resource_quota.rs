//! ResourceQuotas.

use serde_json::Value;
use skiff_api::Cause;

use super::pod::resources::resource_quantity;
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{entries, list, same},
};

pub const SCOPES: [&str; 6] =
    ["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating"];

pub struct ResourceQuotaStrategy;

impl Strategy for ResourceQuotaStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        let hard = path.child("hard");
        for (name, quantity) in entries(spec, "hard") {
            errors.invalid_all(&hard.key(name), name, formats::qualified_name(name));
            resource_quantity(&mut errors, &hard.key(name), name, quantity);
        }
        let scopes = path.child("scopes");
        for scope in list(spec, "scopes").iter().filter_map(Value::as_str) {
            if !SCOPES.contains(&scope) {
                errors.invalid(&scopes, scope, "unsupported scope");
            }
        }
        if let Operation::Update { old } = op
            && !same(spec, &old["spec"], "scopes")
        {
            errors.invalid(&scopes, &spec["scopes"], "field is immutable");
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
    use crate::registry::testing::{wrong, wrong_update};
    use serde_json::json;

    #[test]
    fn names_amounts_and_scopes_are_checked() {
        assert!(
            wrong(
                &ResourceQuotaStrategy,
                json!({"spec": {"hard": {"pods": "1", "requests.cpu": "500m"}, "scopes": ["BestEffort"]}})
            )
            .is_empty()
        );
        assert_eq!(
            wrong(&ResourceQuotaStrategy, json!({"spec": {"hard": {"pods": "500m"}, "scopes": ["X"]}})),
            [
                "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
                "spec.scopes: Invalid value: \"X\": unsupported scope"
            ]
        );
        let scoped = |scope: &str| json!({"spec": {"scopes": [scope]}});
        assert_eq!(wrong_update(&ResourceQuotaStrategy, scoped("Terminating"), scoped("BestEffort")).len(), 1);
    }
}
