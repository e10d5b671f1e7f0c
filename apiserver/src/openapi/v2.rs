//! OpenAPI v2: one document for everything, for older clients.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value, json};
use skiff_api::Resource;

use super::{
    paths::{Body, Operation, operations, parameters},
    schemas::{Collector, Dialect},
};

/// The document of all rows.
pub fn document(rows: &[Arc<Resource>], release: &str) -> Value {
    let mut collector = Collector::new(Dialect::V2);
    let delete_options = collector.named("meta/v1", "DeleteOptions");
    let status = collector.named("meta/v1", "Status");
    let mut paths: Map<String, Value> = Map::new();
    let mut ids = HashSet::new();
    for row in rows {
        let (object, list) = collector.kind(row);
        for mut operation in operations(row) {
            while !ids.insert(operation.id.clone()) {
                operation.id.push('_');
            }
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
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": release},
        "paths": paths,
        "definitions": collector.finish(),
    })
}

fn path_item(path: &str) -> Value {
    let variables = ["namespace", "name"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
    let parameters: Vec<Value> =
        variables.map(|name| json!({"name": name, "in": "path", "required": true, "type": "string"})).collect();
    json!({"parameters": parameters})
}

fn describe(operation: &Operation, body: Option<&str>, answer: Option<&str>) -> Value {
    let (group, version, kind) = &operation.gvk;
    let mut all: Vec<Value> = parameters(operation.action)
        .iter()
        .map(|(name, kind)| json!({"name": name, "in": "query", "type": kind, "uniqueItems": true}))
        .collect();
    let schema = |component: Option<&str>| match component {
        Some(component) => json!({"$ref": Dialect::V2.reference(component)}),
        None => json!({"type": "object"}),
    };
    if operation.body != Body::None {
        let required = operation.body != Body::DeleteOptions;
        all.insert(0, json!({"name": "body", "in": "body", "required": required, "schema": schema(body)}));
    }
    let consumes: &[&str] = match operation.body {
        Body::Patch => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ],
        _ => &["*/*"],
    };
    json!({
        "operationId": operation.id,
        "consumes": consumes,
        "produces": ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
        "schemes": ["https"],
        "parameters": all,
        "responses": {"200": {"description": "OK", "schema": schema(answer)}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    })
}
