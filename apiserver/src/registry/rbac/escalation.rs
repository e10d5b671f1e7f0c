//! Nobody grants what they do not have: the check behind writing roles and bindings.

use serde_json::Value;
use skiff_api::Status;

use crate::{
    authn::UserInfo,
    authz::{Attributes, Authorizer, PolicyRule},
    registry::value::{list, text},
};

pub const GROUP: &str = "rbac.authorization.k8s.io";
const MASTERS: &str = "system:masters";

/// What is written, for the question whether the user may escalate.
pub struct Target<'a> {
    pub resource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

/// May `user` write a role with these rules?
pub fn role(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    target: &Target<'_>,
    rules: &[PolicyRule],
) -> Result<(), Status> {
    if user.is_in(MASTERS) || allowed(authorizer, user, "escalate", target.resource, target) {
        return Ok(());
    }
    covered(authorizer, user, target, rules)
}

/// May `user` bind this role (whose rules are `rules`)?
pub fn binding(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    target: &Target<'_>,
    role_ref: &Value,
    rules: Option<&[PolicyRule]>,
) -> Result<(), Status> {
    let resource = if text(role_ref, "kind") == "ClusterRole" { "clusterroles" } else { "roles" };
    let asked = Target { resource, namespace: target.namespace, name: text(role_ref, "name") };
    if user.is_in(MASTERS) || allowed(authorizer, user, "bind", resource, &asked) {
        return Ok(());
    }
    match rules {
        Some(rules) => covered(authorizer, user, target, rules),
        None => Err(Status::not_found(GROUP, resource, asked.name)),
    }
}

fn allowed(authorizer: &dyn Authorizer, user: &UserInfo, verb: &str, resource: &str, target: &Target<'_>) -> bool {
    let attributes = Attributes {
        user: user.clone(),
        verb: verb.to_owned(),
        namespace: target.namespace.to_owned(),
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: resource.to_owned(),
        name: target.name.to_owned(),
        ..Attributes::default()
    };
    authorizer.authorize(&attributes).is_allowed()
}

fn covered(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    target: &Target<'_>,
    rules: &[PolicyRule],
) -> Result<(), Status> {
    let own = authorizer.rules_for(user, target.namespace);
    let missing: Vec<String> = rules
        .iter()
        .flat_map(atoms)
        .filter(|atom| !own.iter().any(|rule| atom.within(rule)))
        .map(|atom| atom.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    Err(Status::forbidden(
        GROUP,
        target.resource,
        target.name,
        format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.username,
            groups.join(" "),
            missing.join("\n")
        ),
    ))
}

/// One indivisible permission.
enum Atom<'a> {
    Resource { verb: &'a str, group: &'a str, resource: &'a str, name: Option<&'a str> },
    Path { verb: &'a str, url: &'a str },
}

fn atoms(rule: &PolicyRule) -> Vec<Atom<'_>> {
    let mut atoms = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            atoms.push(Atom::Path { verb, url });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                if rule.resource_names.is_empty() {
                    atoms.push(Atom::Resource { verb, group, resource, name: None });
                }
                for name in &rule.resource_names {
                    atoms.push(Atom::Resource { verb, group, resource, name: Some(name) });
                }
            }
        }
    }
    atoms
}

impl Atom<'_> {
    fn within(&self, rule: &PolicyRule) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|have| have == "*" || have == wanted);
        match self {
            Atom::Path { verb, url } => {
                has(&rule.verbs, verb)
                    && rule.non_resource_urls.iter().any(|have| {
                        have == "*"
                            || have == url
                            || have.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix))
                    })
            }
            Atom::Resource { verb, group, resource, name } => {
                let by_subresource = resource
                    .split_once('/')
                    .is_some_and(|(_, sub)| rule.resources.iter().any(|have| have.strip_prefix("*/") == Some(sub)));
                has(&rule.verbs, verb)
                    && has(&rule.api_groups, group)
                    && (has(&rule.resources, resource) || by_subresource)
                    && (rule.resource_names.is_empty()
                        || name.is_some_and(|name| rule.resource_names.iter().any(|have| have == name)))
            }
        }
    }
}

impl std::fmt::Display for Atom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Atom::Path { verb, url } => write!(f, "{{NonResourceURLs:[{url:?}], Verbs:[{verb:?}]}}"),
            Atom::Resource { verb, group, resource, name: None } => {
                write!(f, "{{APIGroups:[{group:?}], Resources:[{resource:?}], Verbs:[{verb:?}]}}")
            }
            Atom::Resource { verb, group, resource, name: Some(name) } => write!(
                f,
                "{{APIGroups:[{group:?}], Resources:[{resource:?}], ResourceNames:[{name:?}], Verbs:[{verb:?}]}}"
            ),
        }
    }
}

/// The rules of a stored or incoming role.
pub fn rules(role: &Value) -> Vec<PolicyRule> {
    list(role, "rules").iter().filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Decision;
    use serde_json::json;

    struct Fixed(Vec<PolicyRule>);

    impl Authorizer for Fixed {
        fn authorize(&self, _attributes: &Attributes) -> Decision {
            Decision::NoOpinion(String::new())
        }

        fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Vec<PolicyRule> {
            self.0.clone()
        }
    }

    #[test]
    fn only_held_permissions_can_be_granted() {
        let own = rules(
            &json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/status"]}]}),
        );
        let authorizer = Fixed(own);
        let user = UserInfo::new("u", &[]);
        let target = Target { resource: "roles", namespace: "n", name: "r" };
        let check = |rule: Value| role(&authorizer, &user, &target, &rules(&json!({"rules": [rule]})));
        assert!(check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "nodes/status"], "resourceNames": ["a"]})).is_ok());
        let error = check(json!({"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]})).unwrap_err();
        assert!(
            error
                .message
                .ends_with("not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"),
            "{}",
            error.message
        );
        assert!(check(json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]})).is_err());
        let masters = UserInfo::new("root", &["system:masters"]);
        assert!(
            role(
                &authorizer,
                &masters,
                &target,
                &rules(&json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}))
            )
            .is_ok()
        );
    }
}
