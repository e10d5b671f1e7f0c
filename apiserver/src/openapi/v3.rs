//! OpenAPI v3: one document per group and version.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skiff_api::Resource;

use super::{
    paths::{Body, Operation, operations, parameters},
    schemas::{Collector, Dialect},
};

/// Name of a document in the index: `api/v1`, `apis/apps/v1`.
pub fn document_name(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Group and version of a document name.
pub fn group_version(name: &str) -> Option<(&str, &str)> {
    match name.strip_prefix("apis/") {
        Some(rest) => rest.split_once('/').filter(|(_, version)| !version.contains('/')),
        None => name.strip_prefix("api/").map(|version| ("", version)),
    }
}

/// The document of the rows of one group and version.
pub fn document(rows: &[Arc<Resource>], release: &str) -> Value {
    let mut collector = Collector::new(Dialect::V3);
    let delete_options = collector.named("meta/v1", "DeleteOptions");
    let status = collector.named("meta/v1", "Status");
    collector.named("meta/v1", "WatchEvent");
    let mut paths: Map<String, Value> = Map::new();
    for row in rows {
        let (object, list) = collector.kind(row);
        for operation in operations(row) {
            let component = |body| match body {
                Body::Object => Some(object.as_str()),
                Body::List => Some(list.as_str()),
                Body::DeleteOptions => Some(delete_options.as_str()),
                Body::Status => Some(status.as_str()),
                Body::None | Body::Patch | Body::Text => None,
            };
            let described = describe(&operation, component(operation.body), component(operation.answer));
            let item = paths.entry(operation.path.clone()).or_insert_with(|| path_item(&operation.path));
            item[operation.method] = described;
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": release},
        "paths": paths,
        "components": {"schemas": collector.finish()},
    })
}

fn path_item(path: &str) -> Value {
    let variables = ["namespace", "name"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
    let parameters: Vec<Value> = variables
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    json!({"parameters": parameters})
}

fn describe(operation: &Operation, body: Option<&str>, answer: Option<&str>) -> Value {
    let (group, version, kind) = &operation.gvk;
    let query: Vec<Value> = parameters(operation.action)
        .iter()
        .map(|(name, kind)| json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}}))
        .collect();
    let schema = |component: &str| json!({"$ref": Dialect::V3.reference(component)});
    let content = |component: Option<&str>, types: &[&str]| -> Value {
        let schema = component.map(schema);
        let entries = types.iter().map(|media| match &schema {
            Some(schema) => ((*media).to_owned(), json!({"schema": schema})),
            None => ((*media).to_owned(), json!({})),
        });
        Value::Object(entries.collect())
    };
    let answers = content(answer, &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]);
    let mut described = json!({
        "operationId": operation.id,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        "parameters": query,
        "responses": {"200": {"description": "OK", "content": answers}, "401": {"description": "Unauthorized"}},
    });
    match operation.body {
        Body::None => {}
        Body::Patch => {
            let kinds = [
                "application/apply-patch+yaml",
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ];
            described["requestBody"] = json!({"required": true, "content": content(None, &kinds)});
        }
        _ => described["requestBody"] = json!({"content": content(body, &["*/*"])}),
    }
    described
}
