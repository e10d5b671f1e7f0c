//! The identity of a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const AUTHENTICATED: &str = "system:authenticated";
/// The API server's own user.
pub const API_SERVER: &str = "system:apiserver";
pub const MASTERS: &str = "system:masters";

/// User name, groups and extra data, as `authentication.k8s.io` UserInfo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserInfo {
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with groups; `system:authenticated` is added.
    pub fn new(username: impl Into<String>, groups: &[&str]) -> UserInfo {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        UserInfo { username: username.into(), groups, ..UserInfo::default() }
    }

    /// A request without credentials.
    pub fn anonymous() -> UserInfo {
        UserInfo { username: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..UserInfo::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }

    /// The node behind `system:node:<name>` in group `system:nodes`.
    pub fn node_name(&self) -> Option<&str> {
        self.username.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }

    /// Namespace and name behind `system:serviceaccount:<ns>:<name>`.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.username.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}
