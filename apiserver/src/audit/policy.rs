//! Which requests are recorded, and how much of them: the first rule that
//! matches decides. Pure.

use serde::Deserialize;

use crate::{authn::UserInfo, request_info::RequestInfo};

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// What is wrong with a policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("{0}")]
    Syntax(String),
    #[error("{0:?} is not a policy of audit.k8s.io/v1")]
    Kind(String),
    #[error("loaded illegal policy with 0 rules")]
    Empty,
    #[error("{0:?} is no stage: RequestReceived, ResponseStarted, ResponseComplete or Panic")]
    Stage(String),
    #[error("rules[{0}]: rules cannot apply to both regular resources and non-resource URLs")]
    Both(usize),
    #[error("{0:?} must begin with a '/', and '*' may only be its last character")]
    Url(String),
}

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// The rules in force.
pub struct Policy(File);

/// What the policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub level: Level,
    pub omit_managed_fields: bool,
    omit_stages: Vec<String>,
}

impl Decision {
    pub fn omits(&self, stage: &str) -> bool {
        self.omit_stages.iter().any(|omitted| omitted == stage)
    }
}

impl Policy {
    pub fn parse(yaml: &str) -> Result<Policy, PolicyError> {
        let file: File = serde_saphyr::from_str(yaml).map_err(|error| PolicyError::Syntax(error.to_string()))?;
        if file.kind != "Policy" || file.api_version != "audit.k8s.io/v1" {
            return Err(PolicyError::Kind(format!("{} {}", file.api_version, file.kind)));
        }
        if file.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        let stages = file.omit_stages.iter().chain(file.rules.iter().flat_map(|rule| &rule.omit_stages));
        if let Some(unknown) = stages.into_iter().find(|stage| !STAGES.contains(&stage.as_str())) {
            return Err(PolicyError::Stage(unknown.clone()));
        }
        for (index, rule) in file.rules.iter().enumerate() {
            let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if about_resources && !rule.non_resource_urls.is_empty() {
                return Err(PolicyError::Both(index));
            }
            let wrong = |url: &&String| {
                *url != "*" && (!url.starts_with('/') || url.find('*').is_some_and(|star| star + 1 != url.len()))
            };
            if let Some(url) = rule.non_resource_urls.iter().find(wrong) {
                return Err(PolicyError::Url(url.clone()));
            }
        }
        Ok(Policy(file))
    }

    pub fn decide(&self, info: &RequestInfo, user: &UserInfo) -> Decision {
        let Some(rule) = self.0.rules.iter().find(|rule| rule.matches(info, user)) else { return Decision::default() };
        Decision {
            level: rule.level,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.0.omit_managed_fields),
            omit_stages: self.0.omit_stages.iter().chain(&rule.omit_stages).cloned().collect(),
        }
    }
}

/// An empty list matches everything.
fn any(list: &[String], matches: impl Fn(&String) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

impl Rule {
    fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        if !any(&self.users, |name| *name == user.username)
            || !any(&self.user_groups, |group| user.is_in(group))
            || !any(&self.verbs, |verb| *verb == info.verb)
        {
            return false;
        }
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if info.is_resource {
            if !about_resources {
                return self.non_resource_urls.is_empty();
            }
            return any(&self.namespaces, |namespace| *namespace == info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.matches(info)));
        }
        if self.non_resource_urls.is_empty() {
            return !about_resources;
        }
        self.non_resource_urls.iter().any(|url| match url.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => *url == info.path,
        })
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != "*" && self.group != info.group {
            return false;
        }
        let combined = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        let resource = any(&self.resources, |wanted| {
            *wanted == combined
                || wanted == "*"
                || wanted.strip_prefix("*/").is_some_and(|sub| !info.subresource.is_empty() && sub == info.subresource)
                || wanted.strip_suffix("/*").is_some_and(|resource| resource == info.resource)
        });
        resource && any(&self.resource_names, |name| *name == info.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(
            "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch]}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: RequestResponse, resources: [{group: '', resources: [pods, 'services/*']}], namespaces: [prod], omitManagedFields: true}
- {level: Metadata, resources: [{group: '', resources: [secrets], resourceNames: [key]}]}
- {level: Request, userGroups: ['system:authenticated'], omitStages: [ResponseStarted]}",
        )
        .unwrap();
        let level = |method: http::Method, path: &str, user: &UserInfo| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            policy.decide(&RequestInfo::parse(&method, path, query), user)
        };
        let (get, jane) = (http::Method::GET, UserInfo::new("jane", &[]));
        let proxy = UserInfo::new("system:kube-proxy", &[]);
        assert_eq!(level(get.clone(), "/api/v1/services?watch=1", &proxy).level, Level::None);
        assert_eq!(level(get.clone(), "/healthz/ping", &jane).level, Level::None);
        let pods = level(get.clone(), "/api/v1/namespaces/prod/pods/p", &jane);
        assert!(pods.level == Level::RequestResponse && pods.omit_managed_fields && pods.omits("RequestReceived"));
        assert_eq!(level(get.clone(), "/api/v1/namespaces/prod/pods/p/log", &jane).level, Level::Request);
        assert_eq!(level(get.clone(), "/api/v1/namespaces/prod/services/s/proxy", &jane).level, Level::RequestResponse);
        assert_eq!(level(get.clone(), "/api/v1/namespaces/a/secrets/key", &jane).level, Level::Metadata);
        assert!(level(get.clone(), "/api/v1/namespaces/a/secrets/other", &jane).omits("ResponseStarted"));
        assert_eq!(level(get, "/api", &UserInfo::anonymous()).level, Level::None, "no rule matches");
    }

    #[test]
    fn a_wrong_policy_is_refused() {
        assert!(matches!(Policy::parse("kind: Other"), Err(PolicyError::Kind(_))));
        assert!(matches!(Policy::parse("apiVersion: audit.k8s.io/v1\nkind: Policy"), Err(PolicyError::Empty)));
        let unknown = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, user: [x]}]";
        assert!(matches!(Policy::parse(unknown), Err(PolicyError::Syntax(_))));
        let rule = |rule: &str| Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rule}]"));
        assert!(matches!(rule("{level: Metadata, omitStages: [Later]}"), Err(PolicyError::Stage(_))));
        assert!(matches!(rule("{level: Metadata, namespaces: [a], nonResourceURLs: [/a]}"), Err(PolicyError::Both(0))));
        for url in ["a", "/a*b"] {
            assert!(matches!(
                rule(&format!("{{level: Metadata, nonResourceURLs: ['{url}']}}")),
                Err(PolicyError::Url(_))
            ));
        }
        assert!(
            rule("{level: Metadata, nonResourceURLs: ['*', '/a*']}, {level: None, resources: [{group: '*'}]}").is_ok()
        );
    }
}
