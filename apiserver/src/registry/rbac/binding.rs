//! RoleBindings and ClusterRoleBindings.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{Cause, GroupResource, Status};

use super::escalation::{self, GROUP, Target};
use crate::{
    authz::{Authorizer, PolicyRule},
    registry::{
        names,
        strategy::{Allocation, Operation, RequestContext, Strategy},
        validation::{Errors, Path, Shown, formats},
        value::{child, default_text, items, list, name, same, text},
    },
};

pub struct BindingStrategy {
    cluster: bool,
    authorizer: Arc<dyn Authorizer>,
}

impl BindingStrategy {
    pub fn new(cluster: bool, authorizer: Arc<dyn Authorizer>) -> BindingStrategy {
        BindingStrategy { cluster, authorizer }
    }
}

#[async_trait]
impl Strategy for BindingStrategy {
    /// Allocates nothing: this is the one place of a write that knows the user and can refuse.
    async fn allocate(
        &self,
        context: &RequestContext<'_>,
        op: Operation<'_>,
        object: &mut Value,
    ) -> Result<Option<Box<dyn Allocation>>, Status> {
        let unchanged = op.old().is_some_and(|old| same(object, old, "roleRef") && same(object, old, "subjects"));
        if unchanged || matches!(op, Operation::Delete) {
            return Ok(None);
        }
        let resource = if self.cluster { "clusterrolebindings" } else { "rolebindings" };
        let target = Target { resource, namespace: context.namespace, name: name(object) };
        let role = &object["roleRef"];
        let rules = referenced(context, role);
        escalation::binding(&*self.authorizer, context.user, &target, role, rules.as_deref())?;
        Ok(None)
    }

    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        default_groups(object);
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let role = &object["roleRef"];
        let role_path = Path::new("roleRef");
        if text(role, "apiGroup") != GROUP {
            errors.not_supported(&role_path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
        }
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
        if !kinds.contains(&text(role, "kind")) {
            errors.not_supported(&role_path.child("kind"), text(role, "kind"), kinds);
        }
        match text(role, "name") {
            "" => errors.required(&role_path.child("name"), ""),
            name => errors.invalid_all(&role_path.child("name"), name, formats::path_segment(name)),
        }
        let subjects = Path::new("subjects");
        for (i, subject) in list(object, "subjects").iter().enumerate() {
            self::subject(&mut errors, &subjects.index(i), subject, self.cluster);
        }
        if let Operation::Update { old } = op
            && object["roleRef"] != old["roleRef"]
        {
            let shown = [("APIGroup", &role["apiGroup"]), ("Kind", &role["kind"]), ("Name", &role["name"])];
            errors.invalid(&role_path, Shown::Structure(&shown), "cannot change roleRef");
        }
        errors.into_causes()
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::path_segment(name, prefix)
    }
}

fn default_groups(object: &mut Value) {
    default_text(child(object, "roleRef"), "apiGroup", GROUP);
    for subject in items(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

/// The rules of the role that a binding names, if it exists.
fn referenced(context: &RequestContext<'_>, role: &Value) -> Option<Vec<PolicyRule>> {
    let (resource, namespace) =
        if text(role, "kind") == "ClusterRole" { ("clusterroles", "") } else { ("roles", context.namespace) };
    let store = context.snapshot.store(&GroupResource::new(GROUP, resource))?;
    let found = store.get(namespace, text(role, "name"))?.value().ok()?;
    Some(escalation::rules(&found))
}

fn subject(errors: &mut Errors, path: &Path<'_>, subject: &Value, cluster: bool) {
    let (kind, name) = (text(subject, "kind"), text(subject, "name"));
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_all(&path.child("name"), name, formats::dns_subdomain(name));
            }
            if !text(subject, "apiGroup").is_empty() {
                errors.not_supported(&path.child("apiGroup"), text(subject, "apiGroup"), &[""]);
            }
            if cluster && text(subject, "namespace").is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if text(subject, "apiGroup") != GROUP {
                errors.not_supported(&path.child("apiGroup"), text(subject, "apiGroup"), &[GROUP]);
            }
        }
        other => errors.not_supported(&path.child("kind"), other, &["Group", "ServiceAccount", "User"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn groups_of_references_are_filled_in() {
        let mut object = json!({"roleRef": {"kind": "ClusterRole", "name": "x"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]});
        default_groups(&mut object);
        assert_eq!(object["roleRef"]["apiGroup"], GROUP);
        assert_eq!(object["subjects"][0]["apiGroup"], GROUP);
        assert!(object["subjects"][1].get("apiGroup").is_none());
        let mut errors = Errors::new();
        subject(&mut errors, &Path::new("s"), &object["subjects"][1], true);
        assert_eq!(lines(errors.into_causes()), ["s.namespace: Required value"]);
    }
}
