//! May they do it.
//!
//! Authorizers are asked in order; the first that allows or denies decides, and
//! no opinion at all means no.

pub mod node;
pub mod rbac;

use skiff_api::{FieldSelector, field_selector::FieldRequirement};

use crate::authn::UserInfo;

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub user: UserInfo,
    /// `get`, `list`, `create`, ... or the lower-case HTTP method for paths.
    pub verb: String,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: String,
    pub group: String,
    pub version: String,
    /// Empty for a request to a path without a resource.
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// URL path; used when `resource` is empty.
    pub path: String,
    /// Selects among the objects of a list, watch or collection; empty for one
    /// that does not parse, which asks for everything. Label selectors are not
    /// here: no authorizer decides by them.
    pub field_selector: FieldSelector,
}

impl Attributes {
    /// A review may name no resource, which is a request to a resource all the same.
    pub fn is_resource_request(&self) -> bool {
        !self.resource.is_empty() || self.path.is_empty()
    }

    /// Whether only objects whose `field` is `value` are asked for.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        let wanted = |term: &FieldRequirement| term.equal && term.path == field && term.value == value;
        self.field_selector.requirements().iter().any(wanted)
    }
}

/// The answer of one authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    /// Not mine to decide; the text goes into the refusal.
    NoOpinion(String),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

/// One permission, in RBAC's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// Decides about requests.
pub trait Authorizer: Send + Sync + 'static {
    fn authorize(&self, attributes: &Attributes) -> Decision;

    /// Every rule that applies to `user` in `namespace`: the data of
    /// SelfSubjectRulesReview and of the escalation check.
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule>;

    /// Why `rules_for` does not tell all that the user may do, if it does not.
    fn rules_missing(&self, _user: &UserInfo) -> Option<&'static str> {
        None
    }
}

/// Several authorizers, asked in order.
pub struct Union(pub Vec<std::sync::Arc<dyn Authorizer>>);

impl Authorizer for Union {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        self.0.iter().flat_map(|authorizer| authorizer.rules_for(user, namespace)).collect()
    }

    fn rules_missing(&self, user: &UserInfo) -> Option<&'static str> {
        self.0.iter().find_map(|authorizer| authorizer.rules_missing(user))
    }
}

/// `system:masters` may do everything, whatever the rules say.
pub struct Masters;

impl Authorizer for Masters {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.is_in(crate::authn::user::MASTERS) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    /// None: the role `cluster-admin` lists the same, and upstream lists it once.
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Vec<PolicyRule> {
        Vec::new()
    }
}

/// The refusal, in upstream's words.
pub fn forbidden(attributes: &Attributes, decision: &Decision) -> skiff_api::Status {
    let reason = match decision {
        Decision::Deny(reason) | Decision::NoOpinion(reason) if !reason.is_empty() => format!(": {reason}"),
        _ => String::new(),
    };
    let Attributes { user, verb, namespace, group, resource, subresource, name, path, .. } = attributes;
    let user = &user.username;
    if !attributes.is_resource_request() {
        let why = format!("User \"{user}\" cannot {verb} path \"{path}\"{reason}");
        return skiff_api::Status::forbidden("", "", "", why);
    }
    let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    let why = format!("User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}{reason}");
    skiff_api::Status::forbidden(group, resource, name, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstream_writes_them() {
        let attributes = Attributes {
            user: UserInfo::new("jane", &[]),
            verb: "list".to_owned(),
            resource: "pods".to_owned(),
            namespace: "n".to_owned(),
            ..Attributes::default()
        };
        let status = forbidden(&attributes, &Decision::NoOpinion(String::new()));
        assert_eq!(
            status.message,
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"n\""
        );
        let path =
            Attributes { verb: "get".to_owned(), path: "/metrics".to_owned(), resource: String::new(), ..attributes };
        let status = forbidden(&path, &Decision::NoOpinion(String::new()));
        assert_eq!(status.message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}
