//! Roles and ClusterRoles.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{Cause, GroupResource, Status};

use super::escalation::{self, GROUP, Target};
use crate::{
    authz::Authorizer,
    registry::{
        names,
        strategy::{Allocation, Operation, RequestContext, Strategy},
        validation::{Errors, Path, selector},
        value::{field, list, name, same},
    },
};

/// Both kinds; only a ClusterRole may name paths and aggregate.
pub struct RoleStrategy {
    cluster: bool,
    authorizer: Arc<dyn Authorizer>,
}

impl RoleStrategy {
    pub fn new(cluster: bool, authorizer: Arc<dyn Authorizer>) -> RoleStrategy {
        RoleStrategy { cluster, authorizer }
    }
}

#[async_trait]
impl Strategy for RoleStrategy {
    /// Allocates nothing: this is the one place of a write that knows the user and can refuse.
    async fn allocate(
        &self,
        context: &RequestContext<'_>,
        op: Operation<'_>,
        object: &mut Value,
    ) -> Result<Option<Box<dyn Allocation>>, Status> {
        let unchanged = op.old().is_some_and(|old| same(object, old, "rules") && same(object, old, "aggregationRule"));
        if unchanged || matches!(op, Operation::Delete) {
            return Ok(None);
        }
        let resource = if self.cluster { "clusterroles" } else { "roles" };
        let target = Target { resource, namespace: context.namespace, name: name(object) };
        let mut rules = escalation::rules(object);
        rules.extend(aggregated(context, object));
        escalation::role(&*self.authorizer, context.user, &target, &rules)?;
        Ok(None)
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let rules = Path::new("rules");
        for (i, rule) in list(object, "rules").iter().enumerate() {
            self::rule(&mut errors, &rules.index(i), rule, self.cluster);
        }
        if let Some(aggregation) = field(object, "aggregationRule") {
            let path = Path::new("aggregationRule");
            let selectors_path = path.child("clusterRoleSelectors");
            let selectors = list(aggregation, "clusterRoleSelectors");
            if selectors.is_empty() {
                errors.required(
                    &selectors_path,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for (i, wanted) in selectors.iter().enumerate() {
                selector::label_selector(&mut errors, &selectors_path.index(i), wanted);
            }
        }
        errors.into_causes()
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }
}

/// Rules of the roles that an aggregation rule selects now.
fn aggregated(context: &RequestContext<'_>, object: &Value) -> Vec<crate::authz::PolicyRule> {
    let selectors = list(&object["aggregationRule"], "clusterRoleSelectors");
    if selectors.is_empty() {
        return Vec::new();
    }
    let Some(store) = context.snapshot.store(&GroupResource::new(GROUP, "clusterroles")) else { return Vec::new() };
    let roles = store.list(None);
    let selected =
        roles.iter().filter(|role| selectors.iter().any(|wanted| selector::matches(wanted, &role.meta.labels)));
    selected.filter_map(|role| role.value().ok()).flat_map(|role| escalation::rules(&role)).collect()
}

fn rule(errors: &mut Errors, path: &Path<'_>, rule: &Value, cluster: bool) {
    if list(rule, "verbs").is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    let resources = !list(rule, "resources").is_empty();
    let groups = !list(rule, "apiGroups").is_empty();
    if !list(rule, "nonResourceURLs").is_empty() {
        if !cluster {
            errors.invalid(
                &path.child("nonResourceURLs"),
                &rule["nonResourceURLs"],
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if resources || groups || !list(rule, "resourceNames").is_empty() {
            errors.invalid(
                &path.child("nonResourceURLs"),
                &rule["nonResourceURLs"],
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        }
        return;
    }
    if !groups {
        errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if !resources {
        errors.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn rules_are_complete() {
        let mut errors = Errors::new();
        rule(&mut errors, &Path::new("r"), &json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}), false);
        rule(&mut errors, &Path::new("r"), &json!({"resources": ["pods"]}), true);
        assert_eq!(
            lines(errors.into_causes()),
            [
                "r.nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "r.verbs: Required value: verbs must contain at least one value",
                "r.apiGroups: Required value: resource rules must supply at least one api group"
            ]
        );
    }
}
