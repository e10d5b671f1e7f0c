//! Role based access control over the stores of roles and bindings.

use std::{fmt, sync::Arc};

use serde::Deserialize;
use skiff_api::{GroupResource, Object, metadata::ObjectMeta};
use skiff_client::{Snapshot, Store};

use super::{Attributes, Authorizer, Decision, PolicyRule};
use crate::authn::UserInfo;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and bindings of the watch caches.
pub struct Rbac {
    snapshot: Snapshot,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Role {
    #[serde(deserialize_with = "null_as_empty")]
    rules: Vec<PolicyRule>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Binding {
    #[serde(deserialize_with = "null_as_empty")]
    subjects: Vec<Subject>,
    role_ref: RoleRef,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

fn null_as_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

impl Rbac {
    pub fn new(snapshot: Snapshot) -> Rbac {
        Rbac { snapshot }
    }

    fn store(&self, resource: &'static str) -> Option<Store> {
        self.snapshot.store(&GroupResource::new(GROUP, resource))
    }

    /// Calls `visit` with every rule that applies and where it comes from,
    /// until it returns true.
    fn visit(&self, user: &UserInfo, namespace: &str, visit: &mut dyn FnMut(&PolicyRule, &Source<'_>) -> bool) -> bool {
        if self.visit_bindings("clusterrolebindings", user, "", visit) {
            return true;
        }
        !namespace.is_empty() && self.visit_bindings("rolebindings", user, namespace, visit)
    }

    fn visit_bindings(
        &self,
        resource: &'static str,
        user: &UserInfo,
        namespace: &str,
        visit: &mut dyn FnMut(&PolicyRule, &Source<'_>) -> bool,
    ) -> bool {
        let Some(store) = self.store(resource) else { return false };
        for object in store.list((!namespace.is_empty()).then_some(namespace)) {
            let Ok(binding) = object.typed::<Binding>() else { continue };
            let Some(subject) = binding.subjects.iter().find(|subject| subject.is(user, namespace)) else { continue };
            let Some(role) = self.role(&binding.role_ref, namespace) else { continue };
            let source = Source { binding: &object, role: &binding.role_ref, subject };
            if role.rules.iter().any(|rule| visit(rule, &source)) {
                return true;
            }
        }
        false
    }

    fn role(&self, reference: &RoleRef, namespace: &str) -> Option<Arc<Role>> {
        let object = match reference.kind.as_str() {
            "ClusterRole" => self.store("clusterroles")?.get("", &reference.name)?,
            "Role" => self.store("roles")?.get(namespace, &reference.name)?,
            _ => return None,
        };
        object.typed::<Role>().ok()
    }
}

impl Subject {
    fn is(&self, user: &UserInfo, namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => user.username == self.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => {
                let own = if self.namespace.is_empty() { namespace } else { &self.namespace };
                !own.is_empty() && user.service_account() == Some((own, &self.name))
            }
            _ => false,
        }
    }
}

/// How a user comes to a rule.
struct Source<'a> {
    binding: &'a Object,
    role: &'a RoleRef,
    subject: &'a Subject,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (RoleRef { kind, name }, subject) = (self.role, self.subject);
        let ObjectMeta { name: binding, namespace, .. } = &self.binding.meta;
        match namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {binding:?}")?,
            namespace => write!(f, "RoleBinding \"{binding}/{namespace}\"")?,
        }
        write!(f, " of {kind} {name:?} to {} ", subject.kind)?;
        match subject.kind.as_str() {
            "ServiceAccount" if subject.namespace.is_empty() => write!(f, "\"{}/{namespace}\"", subject.name),
            "ServiceAccount" => write!(f, "\"{}/{}\"", subject.name, subject.namespace),
            _ => write!(f, "{:?}", subject.name),
        }
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let mut reason = String::new();
        let allowed = self.visit(&attributes.user, &attributes.namespace, &mut |rule, source| {
            let allows = allows(rule, attributes);
            if allows {
                reason = format!("RBAC: allowed by {source}");
            }
            allows
        });
        if allowed { Decision::Allow(reason) } else { Decision::NoOpinion(String::new()) }
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let mut rules = Vec::new();
        self.visit(user, namespace, &mut |rule, _| {
            rules.push(rule.clone());
            false
        });
        rules
    }
}

/// Whether one rule covers a request.
pub fn allows(rule: &PolicyRule, attributes: &Attributes) -> bool {
    if !has(&rule.verbs, &attributes.verb) {
        return false;
    }
    if !attributes.is_resource_request() {
        return rule.non_resource_urls.iter().any(|pattern| path_matches(pattern, &attributes.path));
    }
    has(&rule.api_groups, &attributes.group)
        && rule.resources.iter().any(|pattern| resource_matches(pattern, attributes))
        && (rule.resource_names.is_empty() || rule.resource_names.contains(&attributes.name))
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|have| have == "*" || have == wanted)
}

fn resource_matches(pattern: &str, attributes: &Attributes) -> bool {
    let Attributes { resource, subresource, .. } = attributes;
    match pattern.split_once('/') {
        None => pattern == "*" || (subresource.is_empty() && pattern == resource),
        Some(("*", sub)) => !subresource.is_empty() && (sub == "*" || sub == subresource),
        Some((main, sub)) => main == resource && sub == subresource,
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use skiff_client::store::store;

    use super::*;

    fn rbac(objects: &[(&'static str, Value)]) -> Rbac {
        let snapshot = Snapshot::new();
        for resource in ["roles", "rolebindings", "clusterroles", "clusterrolebindings"] {
            let (writer, reader) = store(&[]);
            for (_, object) in objects.iter().filter(|(have, _)| *have == resource) {
                writer.apply(Arc::new(Object::from_value(object).unwrap()));
            }
            snapshot.insert(GroupResource::new(GROUP, resource), reader);
        }
        Rbac::new(snapshot)
    }

    fn ask(rbac: &Rbac, user: &UserInfo, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        rbac.authorize(&Attributes {
            user: user.clone(),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        })
        .is_allowed()
    }

    #[test]
    fn role_bindings_reach_their_namespace_only() {
        let rbac = rbac(&[
            (
                "clusterroles",
                json!({"kind": "ClusterRole", "metadata": {"name": "view"}, "rules": [
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
                {"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"]}]}),
            ),
            (
                "rolebindings",
                json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "n"},
                "subjects": [{"kind": "ServiceAccount", "name": "sa"}, {"kind": "Group", "name": "team"}],
                "roleRef": {"kind": "ClusterRole", "name": "view"}}),
            ),
        ]);
        let account = UserInfo::new("system:serviceaccount:n:sa", &[]);
        let member = UserInfo::new("jane", &["team"]);
        for user in [&account, &member] {
            assert!(ask(&rbac, user, "get", "pods", "n", "p"));
            assert!(ask(&rbac, user, "get", "pods/log", "n", "p"));
            assert!(!ask(&rbac, user, "get", "pods/exec", "n", "p"));
            assert!(!ask(&rbac, user, "get", "pods", "m", "p"));
            assert!(!ask(&rbac, user, "delete", "pods", "n", "p"));
            assert!(ask(&rbac, user, "update", "configmaps", "n", "mine"));
            assert!(!ask(&rbac, user, "update", "configmaps", "n", "other"));
        }
        assert!(!ask(&rbac, &UserInfo::new("system:serviceaccount:m:sa", &[]), "get", "pods", "n", "p"));
        let reason = |user: &UserInfo| {
            let asked = Attributes {
                user: user.clone(),
                verb: "get".to_owned(),
                resource: "pods".to_owned(),
                namespace: "n".to_owned(),
                ..Attributes::default()
            };
            rbac.authorize(&asked)
        };
        let by = "RBAC: allowed by RoleBinding \"b/n\" of ClusterRole \"view\" to";
        assert_eq!(reason(&account), Decision::Allow(format!("{by} ServiceAccount \"sa/n\"")));
        assert_eq!(reason(&member), Decision::Allow(format!("{by} Group \"team\"")));
        assert_eq!(rbac.rules_for(&member, "n").len(), 2);
        assert!(rbac.rules_for(&member, "m").is_empty());
    }

    #[test]
    fn wildcards_and_paths_match_as_upstream_matches_them() {
        let rule = |resources: &str, urls: &str| PolicyRule {
            verbs: vec!["*".to_owned()],
            api_groups: vec!["*".to_owned()],
            resources: vec![resources.to_owned()],
            non_resource_urls: vec![urls.to_owned()],
            ..PolicyRule::default()
        };
        let request = |resource: &str, subresource: &str, path: &str| Attributes {
            verb: "get".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        assert!(allows(&rule("*", ""), &request("pods", "log", "")));
        assert!(allows(&rule("*/scale", ""), &request("deployments", "scale", "")));
        assert!(!allows(&rule("*/scale", ""), &request("deployments", "", "")));
        assert!(allows(&rule("", "/healthz/*"), &request("", "", "/healthz/ping")));
        assert!(!allows(&rule("", "/healthz"), &request("", "", "/healthz/ping")));
    }
}
