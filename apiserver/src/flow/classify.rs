//! FlowSchemas in the form requests are matched by, and levels as limits: pure.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use http::HeaderValue;
use serde_json::Value;

use super::seats::{Level, Queues};
use crate::{
    authn::UserInfo,
    registry::value::{int, list, name, text, text_at},
    request_info::RequestInfo,
};

const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
/// Shares of the level that takes what nothing else does.
const CATCH_ALL_SHARES: i64 = 5;

/// What separates the flows of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

/// A FlowSchema.
pub struct Schema {
    pub name: Arc<str>,
    pub uid: HeaderValue,
    pub level: Arc<str>,
    pub level_uid: HeaderValue,
    /// Its level has no limit.
    pub exempt: bool,
    precedence: i64,
    by: By,
    rules: Vec<Rule>,
}

impl Schema {
    /// Which flow of the schema a request belongs to.
    pub fn flow(&self, info: &RequestInfo, user: &UserInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.by {
            By::Nothing => {}
            By::User => user.username.hash(&mut hasher),
            By::Namespace => info.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name.
    Account(String, String),
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    urls: Vec<UrlRule>,
}

struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

struct UrlRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

/// All schemas, the first match wins.
#[derive(Default)]
pub struct Rules(Vec<Arc<Schema>>);

impl Rules {
    pub fn compile(schemas: &[Value], levels: &[Value]) -> Rules {
        let mut compiled: Vec<Arc<Schema>> =
            schemas.iter().filter_map(|schema| schema_of(schema, levels)).map(Arc::new).collect();
        if !compiled.iter().any(|schema| &*schema.name == CATCH_ALL)
            && let Some(fallback) = fallback(levels)
        {
            compiled.push(Arc::new(fallback));
        }
        compiled.sort_by(|a, b| a.precedence.cmp(&b.precedence).then_with(|| a.name.cmp(&b.name)));
        Rules(compiled)
    }

    pub fn classify(&self, info: &RequestInfo, user: &UserInfo) -> Option<&Arc<Schema>> {
        self.0.iter().find(|schema| schema.rules.iter().any(|rule| rule.matches(info, user)))
    }
}

/// Takes everything, as long as the object of that purpose is missing.
fn fallback(levels: &[Value]) -> Option<Schema> {
    let all = || vec!["*".to_owned()];
    let everything = Rule {
        subjects: vec![Subject::Group("*".to_owned())],
        resources: vec![ResourceRule {
            verbs: all(),
            groups: all(),
            resources: all(),
            namespaces: all(),
            cluster_scope: true,
        }],
        urls: vec![UrlRule { verbs: all(), urls: all() }],
    };
    let uid = levels
        .iter()
        .find(|level| name(level) == CATCH_ALL)
        .map(|level| text_at(level, &["metadata", "uid"]))
        .unwrap_or_default();
    Some(Schema {
        name: CATCH_ALL.into(),
        uid: HeaderValue::from_static(""),
        level: CATCH_ALL.into(),
        level_uid: HeaderValue::from_str(uid).ok()?,
        exempt: false,
        precedence: 10_000,
        by: By::User,
        rules: vec![everything],
    })
}

/// `None` for a schema that refers to no level: it matches nothing.
fn schema_of(schema: &Value, levels: &[Value]) -> Option<Schema> {
    let spec = &schema["spec"];
    let level_name = text(&spec["priorityLevelConfiguration"], "name");
    let level = levels.iter().find(|level| name(level) == level_name)?;
    let uid = |object: &Value| HeaderValue::from_str(text_at(object, &["metadata", "uid"])).ok();
    Some(Schema {
        name: name(schema).into(),
        uid: uid(schema)?,
        level: level_name.into(),
        level_uid: uid(level)?,
        exempt: text(&level["spec"], "type") == "Exempt",
        precedence: int(spec, "matchingPrecedence").unwrap_or(1000),
        by: match text(&spec["distinguisherMethod"], "type") {
            "ByUser" => By::User,
            "ByNamespace" => By::Namespace,
            _ => By::Nothing,
        },
        rules: list(spec, "rules").iter().map(rule_of).collect(),
    })
}

fn texts(object: &Value, field: &str) -> Vec<String> {
    list(object, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn rule_of(rule: &Value) -> Rule {
    let subject = |subject: &Value| match text(subject, "kind") {
        "User" => Some(Subject::User(text(&subject["user"], "name").to_owned())),
        "Group" => Some(Subject::Group(text(&subject["group"], "name").to_owned())),
        "ServiceAccount" => {
            let account = &subject["serviceAccount"];
            Some(Subject::Account(text(account, "namespace").to_owned(), text(account, "name").to_owned()))
        }
        _ => None,
    };
    let resource = |rule: &Value| ResourceRule {
        verbs: texts(rule, "verbs"),
        groups: texts(rule, "apiGroups"),
        resources: texts(rule, "resources"),
        namespaces: texts(rule, "namespaces"),
        cluster_scope: rule["clusterScope"] == true,
    };
    Rule {
        subjects: list(rule, "subjects").iter().filter_map(subject).collect(),
        resources: list(rule, "resourceRules").iter().map(resource).collect(),
        urls: list(rule, "nonResourceRules")
            .iter()
            .map(|rule| UrlRule { verbs: texts(rule, "verbs"), urls: texts(rule, "nonResourceURLs") })
            .collect(),
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|have| have == "*" || have == value)
}

impl Rule {
    fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        let what = if info.is_resource {
            self.resources.iter().any(|rule| rule.matches(info))
        } else {
            self.urls.iter().any(|rule| rule.matches(info))
        };
        what && self.subjects.iter().any(|subject| subject.matches(user))
    }
}

impl Subject {
    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.username,
            Subject::Group(name) => name == "*" || user.is_in(name),
            Subject::Account(namespace, name) => {
                user.service_account().is_some_and(|(of, account)| of == namespace && (name == "*" || name == account))
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        if !has(&self.verbs, &info.verb) || !has(&self.groups, &info.group) {
            return false;
        }
        let resource = self.resources.iter().any(|have| {
            have == "*"
                || match have.split_once('/') {
                    None => *have == info.resource && info.subresource.is_empty(),
                    Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
                }
        });
        resource && if info.namespace.is_empty() { self.cluster_scope } else { has(&self.namespaces, &info.namespace) }
    }
}

impl UrlRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, &info.verb)
            && self.urls.iter().any(|url| {
                url == "*"
                    || *url == info.path
                    || url.strip_suffix('*').is_some_and(|prefix| url.ends_with("/*") && info.path.starts_with(prefix))
            })
    }
}

/// The limits of levels.
pub fn levels(objects: &[Value]) -> Vec<Level> {
    let mut levels: Vec<Level> = objects
        .iter()
        .filter(|object| text(&object["spec"], "type") != "Exempt" && name(object) != EXEMPT)
        .map(level_of)
        .collect();
    if !levels.iter().any(|level| &*level.name == CATCH_ALL) {
        levels.push(Level {
            name: CATCH_ALL.into(),
            shares: CATCH_ALL_SHARES,
            lendable_percent: 0,
            borrow_percent: None,
            queues: None,
        });
    }
    levels
}

fn level_of(object: &Value) -> Level {
    let limited = &object["spec"]["limited"];
    let number = |value: &Value, field: &str, default: i64| int(value, field).unwrap_or(default);
    let response = &limited["limitResponse"];
    let size =
        |field: &str, default: i64| usize::try_from(number(&response["queuing"], field, default)).unwrap_or(1).max(1);
    let queues = (text(response, "type") == "Queue").then(|| Queues {
        count: size("queues", 64),
        hand: size("handSize", 8),
        length: size("queueLengthLimit", 50),
    });
    Level {
        name: name(object).into(),
        shares: number(limited, "nominalConcurrencyShares", 30).max(0),
        lendable_percent: number(limited, "lendablePercent", 0).clamp(0, 100),
        borrow_percent: int(limited, "borrowingLimitPercent"),
        queues,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Rules {
        let level = |name: &str, kind: &str| json!({"metadata": {"name": name, "uid": name}, "spec": {"type": kind, "limited": {}}});
        let schema = |name: &str, precedence: i64, level: &str, rule: Value| {
            json!({"metadata": {"name": name, "uid": name}, "spec": {"matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByNamespace"}, "rules": [rule]}})
        };
        Rules::compile(
            &[
                schema(
                    "late",
                    900,
                    "low",
                    json!({"subjects": [{"kind": "Group", "group": {"name": "system:authenticated"}}],
                    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}),
                ),
                schema(
                    "early",
                    5,
                    "low",
                    json!({"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": "*"}}],
                    "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log", "nodes"], "namespaces": ["a"], "clusterScope": true}]}),
                ),
                schema(
                    "probes",
                    2,
                    "exempt",
                    json!({"subjects": [{"kind": "User", "user": {"name": "*"}}],
                    "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/debug/*"]}]}),
                ),
                schema(
                    "dangling",
                    1,
                    "nothing",
                    json!({"subjects": [{"kind": "User", "user": {"name": "*"}}],
                    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}),
                ),
            ],
            &[level("low", "Limited"), level("exempt", "Exempt")],
        )
    }

    #[test]
    fn the_first_schema_that_matches_counts() {
        let rules = rules();
        let account = UserInfo::new("system:serviceaccount:n:a", &[]);
        let find = |user: &UserInfo, method: http::Method, path: &str| {
            let info = RequestInfo::parse(&method, path, "");
            rules.classify(&info, user).map(|schema| schema.name.to_string()).unwrap_or_default()
        };
        let get = http::Method::GET;
        assert_eq!(find(&account, get.clone(), "/api/v1/namespaces/a/pods/p/log"), "early");
        assert_eq!(find(&account, get.clone(), "/api/v1/namespaces/a/pods/p"), "late", "not the subresource");
        assert_eq!(find(&account, get.clone(), "/api/v1/namespaces/b/pods/p/log"), "late", "another namespace");
        assert_eq!(find(&account, get.clone(), "/api/v1/nodes/x"), "early", "cluster scope");
        assert_eq!(find(&UserInfo::new("jane", &[]), get.clone(), "/api/v1/nodes/x"), "late");
        assert_eq!(find(&UserInfo::anonymous(), get.clone(), "/healthz"), "probes");
        assert_eq!(find(&UserInfo::anonymous(), get.clone(), "/debug/pprof"), "probes");
        assert_eq!(find(&UserInfo::anonymous(), get, "/other"), "catch-all");
    }

    #[test]
    fn flows_are_told_apart_as_the_schema_says() {
        let rules = rules();
        let user = UserInfo::new("jane", &[]);
        let of = |namespace: &str| RequestInfo {
            is_resource: true,
            verb: "get".into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            ..RequestInfo::default()
        };
        let schema = rules.classify(&of("a"), &user).unwrap();
        assert_eq!(schema.flow(&of("a"), &user), schema.flow(&of("a"), &UserInfo::new("joe", &[])));
        assert_ne!(schema.flow(&of("a"), &user), schema.flow(&of("b"), &user));
    }
}
