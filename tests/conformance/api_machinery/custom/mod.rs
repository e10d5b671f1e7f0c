//! Custom resource definitions and their objects.

mod conversion;
mod definitions;
mod openapi;
mod validation;

use anyhow::Result;
use serde_json::{Value, json};

use crate::{Test, context::Context, operations::unique};

pub fn tests() -> Vec<Test> {
    [conversion::tests(), definitions::tests(), openapi::tests(), validation::tests()].into_iter().flatten().collect()
}

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A schema that allows everything.
pub fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A version of a definition.
pub fn version(name: &str, storage: bool, schema: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}})
}

/// A definition with a name nobody else has, in a group of its own unless one is given.
pub fn definition(group: Option<&str>, scope: &str, versions: &[Value]) -> Value {
    let id = unique();
    let group = group.map_or_else(|| format!("e2e-{id}.example.com"), str::to_owned);
    let (kind, plural) = (format!("E2e{id}"), format!("e2e{id}s"));
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")}, "spec": {"group": group, "scope": scope,
        "names": {"plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind, "listKind": format!("{kind}List")},
        "versions": versions}})
}

/// A definition that is served.
pub struct Installed {
    pub path: String,
    pub group: String,
    pub plural: String,
    pub kind: String,
    pub created: Value,
}

impl Installed {
    /// Path of the objects in a version.
    pub fn objects(&self, version: &str, namespace: Option<&str>) -> String {
        let middle = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
        format!("/apis/{}/{version}/{middle}{}", self.group, self.plural)
    }

    pub fn object(&self, version: &str, name: &str) -> Value {
        json!({"apiVersion": format!("{}/{version}", self.group), "kind": self.kind, "metadata": {"name": name}})
    }
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

/// Creates a definition, waits until it is served, and removes it at the end.
pub async fn install(context: &Context, definition: &Value) -> Result<Installed> {
    let created = context.create(DEFINITIONS, definition).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let path = format!("{DEFINITIONS}/{}", text(&created["metadata"]["name"]));
    context.leftover(&path);
    context.until(&path, "is established", is_established).await?;
    let spec = &created["spec"];
    let (group, plural, kind) = (text(&spec["group"]), text(&spec["names"]["plural"]), text(&spec["names"]["kind"]));
    Ok(Installed { path, group, plural, kind, created })
}
