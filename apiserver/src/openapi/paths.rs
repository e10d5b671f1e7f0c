//! The operations of a resource, in a form both dialects are written from.

use skiff_api::{Resource, Verb};

/// One operation on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub path: String,
    /// Lower-case HTTP method.
    pub method: &'static str,
    /// Upstream's `x-kubernetes-action`.
    pub action: &'static str,
    /// Kind in `x-kubernetes-group-version-kind`: group, version, kind.
    pub gvk: (String, String, String),
    pub id: String,
    /// What is sent.
    pub body: Body,
    /// What comes back.
    pub answer: Body,
}

/// A body by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Object,
    List,
    Patch,
    DeleteOptions,
    Status,
    Text,
}

/// Query parameters of an action; kubectl looks for `dryRun` and `fieldValidation` on PATCH.
pub fn parameters(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "list" | "watchlist" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "post" | "put" => &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
        "patch" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")]
        }
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        "deletecollection" => &[
            ("continue", "string"),
            ("dryRun", "string"),
            ("fieldSelector", "string"),
            ("gracePeriodSeconds", "integer"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => &[],
    }
}

/// Everything a row serves.
pub fn operations(row: &Resource) -> Vec<Operation> {
    let gvr = row.gvr();
    let namespace = row.namespaced.then_some("{namespace}");
    let own = (row.group.to_string(), row.version.to_string(), row.kind.to_string());
    let mut operations = Vec::new();
    let mut add = |path: &str, method, action, gvk: &(String, String, String), suffix: &str, body, answer| {
        let id = format!("{action}{}{}{suffix}", title(&row.group, &row.version), gvk.2);
        let (path, gvk) = (path.to_owned(), gvk.clone());
        operations.push(Operation { path, method, action, gvk, id, body, answer });
    };
    let collection = gvr.collection_path(namespace);
    let object = gvr.object_path(namespace, "{name}", None);
    let has = |verb| row.verbs.contains(verb);
    if row.namespaced && has(Verb::List) {
        let everywhere = gvr.collection_path(None);
        add(&everywhere, "get", "list", &own, "ForAllNamespaces", Body::None, Body::List);
    }
    let table: [(Verb, &str, &'static str, &'static str, Body, Body); 7] = [
        (Verb::List, &collection, "get", "list", Body::None, Body::List),
        (Verb::Create, &collection, "post", "post", Body::Object, Body::Object),
        (Verb::DeleteCollection, &collection, "delete", "deletecollection", Body::DeleteOptions, Body::Status),
        (Verb::Get, &object, "get", "get", Body::None, Body::Object),
        (Verb::Update, &object, "put", "put", Body::Object, Body::Object),
        (Verb::Patch, &object, "patch", "patch", Body::Patch, Body::Object),
        (Verb::Delete, &object, "delete", "delete", Body::DeleteOptions, Body::Status),
    ];
    for (verb, path, method, action, body, answer) in table {
        if has(verb) {
            add(path, method, action, &own, "", body, answer);
        }
    }
    for sub in &row.subresources {
        let path = gvr.object_path(namespace, "{name}", Some(&sub.name));
        let gvk = (sub.group.to_string(), sub.version.to_string(), sub.kind.to_string());
        let same = gvk == own;
        let (body, answer) = if same { (Body::Object, Body::Object) } else { (Body::None, Body::Text) };
        let suffix = title("", &sub.name);
        let table = [
            (Verb::Get, "get", "get", Body::None, answer),
            (Verb::Create, "post", "post", body, answer),
            (Verb::Update, "put", "put", body, answer),
            (Verb::Patch, "patch", "patch", Body::Patch, answer),
        ];
        for (verb, method, action, body, answer) in table {
            let action = if sub.verbs.contains(Verb::Connect) { "connect" } else { action };
            if sub.verbs.contains(verb) {
                add(&path, method, action, &gvk, &suffix, body, answer);
            }
        }
    }
    operations
}

/// `apps`, `v1` -> `AppsV1`; the core group is `CoreV1`.
fn title(group: &str, version: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    group.split('.').next().into_iter().chain([version]).map(capital).collect()
}

#[cfg(test)]
mod tests {
    use skiff_api::ResourceRegistry;

    use super::*;

    #[test]
    fn patch_of_deployments_offers_dry_run_and_validation() {
        let registry = ResourceRegistry::builtin();
        let row = registry.lookup("apps", "v1", "deployments").unwrap();
        let operations = operations(&row);
        let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = operations.iter().find(|operation| operation.path == path && operation.method == "patch").unwrap();
        assert_eq!(patch.gvk.2, "Deployment");
        let names: Vec<_> = parameters(patch.action).iter().map(|(name, _)| *name).collect();
        assert!(names.contains(&"dryRun") && names.contains(&"fieldValidation"));
        assert!(operations.iter().any(|operation| operation.path == format!("{path}/scale")));
    }
}
