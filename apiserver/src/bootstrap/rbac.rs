//! Default roles and bindings as objects.

use serde_json::{Value, json};
use skiff_api::GroupVersionResource;

use crate::authz::PolicyRule;

use super::{
    Wanted,
    reconcile::{self, AUTO_UPDATE, Merge},
    roles::{ADMIN, BINDINGS, CLUSTER_BINDINGS, CLUSTER_ROLES, EDIT, ROLES, Rule, Subject, VIEW},
};

const GROUP: &str = "rbac.authorization.k8s.io";
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
const DEFAULTS_LABEL: &str = "kubernetes.io/bootstrapping";

/// Every default role and binding.
pub(super) fn objects() -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for role in CLUSTER_ROLES {
        wanted.push(of("clusterroles", self::role("ClusterRole", "", role.name, role.rules), reconcile::role));
    }
    aggregated(&mut wanted);
    for (namespace, role) in ROLES {
        wanted.push(of("roles", self::role("Role", namespace, role.name, role.rules), reconcile::role));
    }
    for (name, role, subjects) in CLUSTER_BINDINGS {
        let object = binding("ClusterRoleBinding", "", name, "ClusterRole", role, subjects);
        wanted.push(of("clusterrolebindings", object, reconcile::binding));
    }
    for (namespace, name, role, subjects) in BINDINGS {
        wanted.push(of(
            "rolebindings",
            binding("RoleBinding", namespace, name, "Role", role, subjects),
            reconcile::binding,
        ));
    }
    wanted
}

/// What every node may do whatever the object: the Node authorizer's rules.
pub(crate) fn rules_of_nodes() -> Vec<PolicyRule> {
    let role = CLUSTER_ROLES.iter().filter(|role| role.name == "system:node");
    role.flat_map(|role| role.rules).filter_map(|one| serde_json::from_value(rule(one)).ok()).collect()
}

fn of(resource: &'static str, object: Value, merge: Merge) -> Wanted {
    Wanted { resource: GroupVersionResource::new(GROUP, "v1", resource), object, merge }
}

/// A role that others are made of.
struct Part {
    name: &'static str,
    own: &'static [Rule],
    /// Everything it contains, its own rules first.
    all: &'static [&'static [Rule]],
    /// The role that contains it.
    parent: Option<&'static str>,
}

/// `view`, `edit` and `admin` collect the roles that are labelled for them. Their
/// rules are written here already, so that they hold before a controller adds
/// what custom roles contribute.
fn aggregated(wanted: &mut Vec<Wanted>) {
    let label = |name: &str| format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    let parts = [
        Part { name: "view", own: VIEW, all: &[VIEW], parent: Some("edit") },
        Part { name: "edit", own: EDIT, all: &[EDIT, VIEW], parent: Some("admin") },
        Part { name: "admin", own: ADMIN, all: &[ADMIN, EDIT, VIEW], parent: None },
    ];
    for Part { name, own, all, parent } in parts {
        let mut part = role("ClusterRole", "", &format!("system:aggregate-to-{name}"), own);
        part["metadata"]["labels"][label(name)] = json!("true");
        wanted.push(of("clusterroles", part, reconcile::role));

        let mut whole = role("ClusterRole", "", name, &[]);
        whole["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label(name): "true"}}]});
        whole["rules"] = all.iter().flat_map(|rules| rules.iter()).map(rule).collect();
        if let Some(parent) = parent {
            whole["metadata"]["labels"][label(parent)] = json!("true");
        }
        wanted.push(of("clusterroles", whole, reconcile::role));
    }
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name, "labels": {DEFAULTS_LABEL: "rbac-defaults"}, "annotations": {AUTO_UPDATE: "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn role(kind: &str, namespace: &str, name: &str, rules: &[Rule]) -> Value {
    let rules: Vec<Value> = rules.iter().map(rule).collect();
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata(namespace, name), "rules": rules})
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().map(|word| if word == "core" { "" } else { word }).collect()
}

fn rule(rule: &Rule) -> Value {
    match rule {
        Rule::On(verbs, groups, resources) => {
            json!({"apiGroups": words(groups), "resources": words(resources), "verbs": words(verbs)})
        }
        Rule::Named(verbs, groups, resources, names) => json!({
            "apiGroups": words(groups), "resourceNames": words(names), "resources": words(resources), "verbs": words(verbs),
        }),
        Rule::Urls(verbs, urls) => json!({"nonResourceURLs": words(urls), "verbs": words(verbs)}),
    }
}

fn binding(kind: &str, namespace: &str, name: &str, role_kind: &str, role: &str, subjects: &[Subject]) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|subject| match subject {
            Subject::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
            Subject::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            Subject::Account(namespace, name) => {
                json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
            }
        })
        .collect();
    let mut object = json!({
        "apiVersion": API_VERSION, "kind": kind, "metadata": metadata(namespace, name),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::value::{list, name, text};

    fn find(kind: &str, wanted: &str) -> Value {
        let all = objects();
        all.into_iter()
            .map(|object| object.object)
            .find(|object| text(object, "kind") == kind && name(object) == wanted)
            .unwrap()
    }

    #[test]
    fn bindings_name_roles_that_exist() {
        let all: Vec<Value> = objects().into_iter().map(|wanted| wanted.object).collect();
        for object in all.iter().filter(|object| object.get("roleRef").is_some()) {
            let role = &object["roleRef"];
            let found =
                all.iter().any(|other| text(other, "kind") == text(role, "kind") && name(other) == text(role, "name"));
            assert!(found, "{}", name(object));
        }
    }

    #[test]
    fn admin_contains_what_edit_and_view_have() {
        let admin = find("ClusterRole", "admin");
        for part in ["edit", "view", "system:aggregate-to-view"] {
            let part = find("ClusterRole", part);
            assert!(list(&part, "rules").iter().all(|rule| list(&admin, "rules").contains(rule)));
        }
        assert_eq!(
            find("ClusterRole", "view")["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"],
            "true"
        );
    }

    #[test]
    fn the_core_group_is_the_empty_word() {
        assert_eq!(find("ClusterRole", "system:kube-dns")["rules"][0]["apiGroups"], json!([""]));
    }
}
