//! Which requests a webhook or a policy is about: rules, namespaces, labels.

use serde_json::Value;
use skiff_api::{GroupResource, Selector, Status};

use crate::admission::{AdmissionOperation, AdmissionRequest};

/// Kinds that configure admission itself, and questions: webhooks do not see
/// them, so that nobody can lock the cluster.
pub fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    matches!(
        &*request.resource.group,
        "admissionregistration.k8s.io" | "authentication.k8s.io" | "authorization.k8s.io"
    )
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
    pub fn matches(&self, request: &AdmissionRequest<'_>) -> Result<bool, Status> {
        if self.excluded.iter().any(|rule| self.rule(rule, request)) {
            return Ok(false);
        }
        let all = self.all_without_rules && self.rules.is_empty();
        if !all && !self.rules.iter().any(|rule| self.rule(rule, request)) {
            return Ok(false);
        }
        if let Some(problem) = &self.problem {
            return Err(Status::internal(problem));
        }
        Ok(self.in_namespace(request)? && self.has_labels(request))
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

    fn rule(&self, rule: &Value, request: &AdmissionRequest<'_>) -> bool {
        let has = |name: &str, wanted: &str| {
            rule[name].as_array().is_some_and(|list| list.iter().any(|value| *value == "*" || *value == wanted))
        };
        let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
        names.is_none_or(|names| names.iter().any(|name| *name == request.name))
            && has("operations", request.operation.as_str())
            && has("apiGroups", &request.resource.group)
            && (self.equivalent || has("apiVersions", &request.resource.version))
            && scope(rule["scope"].as_str().unwrap_or("*"), request)
            && rule["resources"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .any(|pattern| resource(pattern, request))
    }
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
            Criteria::of_webhook(&webhook).matches(&request).unwrap()
        };
        assert!(matches(json!({})));
        assert!(matches(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}})));
        assert!(!matches(json!({"namespaceSelector": {"matchLabels": {"team": "b"}}})));
        assert!(!matches(json!({"objectSelector": {"matchLabels": {"app": "db"}}})));
        assert!(!matches(json!({"rules": []})));
    }
}
