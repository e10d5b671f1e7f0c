//! May they do it.
//!
//! Authorizers are asked in order; the first that allows or denies decides, and
//! no opinion at all means no.

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
}

impl Attributes {
    pub fn is_resource_request(&self) -> bool {
        !self.resource.is_empty()
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
}
