//! Which requests a webhook or a policy is about: rules, namespaces, labels.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::{GroupResource, GroupVersionKind, GroupVersionResource, Resource, Selector, Status};

use crate::admission::{AdmissionOperation, AdmissionRequest, Reinvocation};

/// Kinds that configure admission itself, and questions: webhooks do not see
/// them, so that nobody can lock the cluster.
pub fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    matches!(
        &*request.resource.group,
        "admissionregistration.k8s.io" | "authentication.k8s.io" | "authorization.k8s.io"
    )
}

/// Whether a request is meant, and in which version of its resource.
#[derive(Clone, Debug)]
pub enum Match {
    No,
    /// In the version its objects are in.
    AsItIs,
    /// In another version.
    In(Arc<Resource>),
}

/// A request in the version that a webhook or a policy is about.
pub struct Form {
    row: Arc<Resource>,
    gvr: GroupVersionResource,
    gvk: GroupVersionKind,
    object: Option<Value>,
    old: Option<Value>,
}

impl Form {
    /// None when the request is in that version already.
    pub async fn of(request: &AdmissionRequest<'_>, matched: &Match) -> Result<Option<Form>, Status> {
        let (Match::In(row), Some(home)) = (matched, request.home) else { return Ok(None) };
        let mut both = [request.object.clone(), request.old_object.cloned()];
        for object in &mut both {
            if let Some(given) = object.take() {
                *object = Some(home.store.in_version(row, given).await?);
            }
        }
        let [object, old] = both;
        // Below an object a request has the kind of its body.
        let gvk = if request.kind.kind == row.kind { row.gvk() } else { request.kind.clone() };
        Ok(Some(Form { gvr: row.gvr(), gvk, row: Arc::clone(row), object, old }))
    }

    pub fn row(&self) -> &Arc<Resource> {
        &self.row
    }

    /// The request as the webhook or policy sees it.
    pub fn request<'r>(&'r self, outer: &'r AdmissionRequest<'_>) -> AdmissionRequest<'r> {
        AdmissionRequest {
            resource: &self.gvr,
            kind: &self.gvk,
            object: self.object.clone(),
            old_object: self.old.as_ref(),
            warnings: Vec::new(),
            annotations: Vec::new(),
            reinvocation: Reinvocation::default(),
            ..*outer
        }
    }
}

/// Takes over what a webhook or a policy made of the object in its version, with the defaults of the kind.
pub async fn adopt(request: &mut AdmissionRequest<'_>, matched: &Match, object: Value) -> Result<(), Status> {
    let object = match (matched, request.home) {
        (Match::In(_), Some(home)) => home.store.in_version(home.working, object).await?,
        _ => object,
    };
    if request.object.as_ref() != Some(&object) {
        request.object = Some(object);
        request.settle();
    }
    Ok(())
}

/// Rules and selectors of one webhook, policy or binding.
#[derive(Debug, Default)]
pub struct Criteria {
    rules: Vec<Value>,
    excluded: Vec<Value>,
    /// Without rules every request is meant (bindings).
    all_without_rules: bool,
    /// Other versions of the same resource are the same.
    equivalent: bool,
    namespaces: Option<Selector>,
    objects: Option<Selector>,
    /// What is wrong with a selector.
    problem: Option<String>,
}

impl Criteria {
    /// Of a webhook.
    pub fn of_webhook(webhook: &Value) -> Criteria {
        let mut problem = None;
        let mut selector = |name: &str| {
            let given = webhook.get(name).filter(|selector| !selector.is_null())?;
            match Selector::from_value(Some(given)) {
                Ok(selector) => (!selector.is_everything()).then_some(selector),
                Err(error) => {
                    problem = Some(error.to_string());
                    None
                }
            }
        };
        let (namespaces, objects) = (selector("namespaceSelector"), selector("objectSelector"));
        Criteria {
            rules: list(webhook, "rules"),
            equivalent: webhook["matchPolicy"] != "Exact",
            namespaces,
            objects,
            problem,
            ..Criteria::default()
        }
    }

    /// Of `matchConstraints` or `matchResources`; absent means everything.
    pub fn of_match_resources(resources: &Value) -> Criteria {
        Criteria {
            rules: list(resources, "resourceRules"),
            excluded: list(resources, "excludeResourceRules"),
            all_without_rules: true,
            ..Criteria::of_webhook(resources)
        }
    }

    /// Whether the request is matched; an error when that cannot be said.
    pub fn matches(&self, request: &AdmissionRequest<'_>) -> Result<Match, Status> {
        if !matches!(self.find(&self.excluded, request), Match::No) {
            return Ok(Match::No);
        }
        let all = self.all_without_rules && self.rules.is_empty();
        let found = if all { in_version_of_url(request) } else { self.find(&self.rules, request) };
        if matches!(found, Match::No) {
            return Ok(found);
        }
        if let Some(problem) = &self.problem {
            return Err(Status::internal(problem));
        }
        Ok(if self.in_namespace(request)? && self.has_labels(request) { found } else { Match::No })
    }

    /// By the version of the URL; failing that, by another one under which the same objects are served.
    fn find(&self, rules: &[Value], request: &AdmissionRequest<'_>) -> Match {
        let about = || rules.iter().filter(|rule| is_about(rule, request));
        if about().any(|rule| has_version(rule, &request.resource.group, &request.resource.version)) {
            return in_version_of_url(request);
        }
        let Some(home) = request.home.filter(|_| self.equivalent) else { return Match::No };
        for rule in about() {
            let table = home.store.resources().table();
            let same = |row: &&Arc<Resource>| {
                row.storage == home.asked.storage
                    && row.plural == home.asked.plural
                    && (request.subresource.is_empty() || row.subresource(request.subresource).is_some())
                    && has_version(rule, &row.group, &row.version)
            };
            if let Some(row) = table.rows().iter().find(same) {
                return Match::In(Arc::clone(row));
            }
        }
        Match::No
    }

    fn in_namespace(&self, request: &AdmissionRequest<'_>) -> Result<bool, Status> {
        let Some(selector) = &self.namespaces else { return Ok(true) };
        let own = request.resource.group.is_empty() && request.resource.resource == "namespaces";
        if own && request.operation != AdmissionOperation::Delete && request.object.is_some() {
            let labels = request.object.as_ref().map(|object| &object["metadata"]["labels"]);
            return Ok(selector.matches_value(labels));
        }
        let name = if own { request.name } else { request.namespace };
        if name.is_empty() {
            return Ok(true);
        }
        let store = request.snapshot.store(&GroupResource::new("", "namespaces"));
        match store.and_then(|store| store.get("", name)) {
            Some(namespace) => Ok(selector.matches(&namespace.meta.labels)),
            None => Err(Status::not_found("", "namespaces", name)),
        }
    }

    fn has_labels(&self, request: &AdmissionRequest<'_>) -> bool {
        let Some(selector) = &self.objects else { return true };
        let fits = |object: &Value| selector.matches_value(Some(&object["metadata"]["labels"]));
        request.object.as_ref().is_some_and(fits) || request.old_object.is_some_and(fits)
    }
}

/// The version of the URL, which for a few built-in kinds is not the one objects are worked on.
fn in_version_of_url(request: &AdmissionRequest<'_>) -> Match {
    match request.home {
        Some(home) if home.asked.gvr() != home.working.gvr() => Match::In(Arc::clone(home.asked)),
        _ => Match::AsItIs,
    }
}

fn has(rule: &Value, name: &str, wanted: &str) -> bool {
    rule[name].as_array().is_some_and(|list| list.iter().any(|value| *value == "*" || *value == wanted))
}

fn has_version(rule: &Value, group: &str, version: &str) -> bool {
    has(rule, "apiGroups", group) && has(rule, "apiVersions", version)
}

/// Whether a rule is about such requests, in some group and version.
fn is_about(rule: &Value, request: &AdmissionRequest<'_>) -> bool {
    let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
    names.is_none_or(|names| names.iter().any(|name| *name == request.name))
        && has(rule, "operations", request.operation.as_str())
        && scope(rule["scope"].as_str().unwrap_or("*"), request)
        && rule["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|pattern| resource(pattern, request))
}

fn list(value: &Value, name: &str) -> Vec<Value> {
    value[name].as_array().cloned().unwrap_or_default()
}

fn scope(scope: &str, request: &AdmissionRequest<'_>) -> bool {
    let namespaced = !request.namespace.is_empty();
    match scope {
        "Namespaced" => namespaced,
        "Cluster" => !namespaced,
        _ => true,
    }
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*`, `*/*`.
fn resource(pattern: &str, request: &AdmissionRequest<'_>) -> bool {
    let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
    let own = resource == "*" || request.resource.resource == resource;
    own && (subresource == "*" || subresource == request.subresource)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Case;

    #[test]
    fn patterns_name_resources_and_subresources() {
        let case = Case::new();
        let options = json!({});
        let main = case.create("", "pods", "ns", json!({"metadata": {"name": "a"}}));
        let status = case.create("", "pods", "ns", json!({"metadata": {"name": "a"}})).sub("status");
        for (pattern, of_main, of_status) in [
            ("pods", true, false),
            ("*", true, false),
            ("*/*", true, true),
            ("pods/*", true, true),
            ("*/status", false, true),
            ("nodes", false, false),
        ] {
            assert_eq!(resource(pattern, &main.request(&options)), of_main, "{pattern}");
            assert_eq!(resource(pattern, &status.request(&options)), of_status, "{pattern} of status");
        }
    }

    #[test]
    fn rules_and_labels_select() {
        let namespace = json!({"metadata": {"name": "ns", "labels": {"team": "a"}}});
        let case = Case::new().with("", "namespaces", namespace);
        let options = json!({});
        let bench = case.create("", "pods", "ns", json!({"metadata": {"name": "a", "labels": {"app": "web"}}}));
        let request = bench.request(&options);
        let matches = |over: Value| {
            let mut webhook = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["*"],
                "resources": ["pods"], "scope": "Namespaced"}]});
            for (name, value) in over.as_object().into_iter().flatten() {
                webhook[name] = value.clone();
            }
            !matches!(Criteria::of_webhook(&webhook).matches(&request).unwrap(), Match::No)
        };
        assert!(matches(json!({})));
        assert!(matches(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}})));
        assert!(!matches(json!({"namespaceSelector": {"matchLabels": {"team": "b"}}})));
        assert!(!matches(json!({"objectSelector": {"matchLabels": {"app": "db"}}})));
        assert!(!matches(json!({"rules": []})));
    }
}
