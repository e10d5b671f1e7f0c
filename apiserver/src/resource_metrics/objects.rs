//! Usage as objects of the API.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_api::{
    Object, Resource, ResourceRegistry, Status, Verb,
    resource::{Origin, Verbs},
};

use super::{ResourceMetrics, Usage};
use crate::registry::meta::time_text;

pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// The rows of the group.
pub(crate) fn rows(registry: &ResourceRegistry) -> Vec<Arc<Resource>> {
    let row = |model: &str, kind: &'static str| {
        let model = registry.lookup("", "v1", model)?;
        Some(Arc::new(Resource {
            group: GROUP.into(),
            version: VERSION.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: Verbs::of(&[Verb::Get, Verb::List]),
            subresources: Vec::new(),
            origin: Origin::Custom,
            storage: None,
            storage_version: None,
            storage_version_hash: "".into(),
            selectable_fields: Vec::new(),
            columns: model
                .columns
                .iter()
                .filter(|column| column.name == "Name" || column.name == "Age")
                .cloned()
                .collect(),
            schema: None,
            open_api: Some(Arc::new(schema(kind))),
            ..(*model).clone()
        }))
    };
    [row("nodes", "NodeMetrics"), row("pods", "PodMetrics")].into_iter().flatten().collect()
}

/// What OpenAPI says of a kind.
fn schema(kind: &str) -> Value {
    let usage = json!({"type": "object", "description": "The memory usage is the memory working set.",
        "additionalProperties": {"type": "string"}});
    let window = "The following fields define time interval from which metrics were collected from the interval [Timestamp-Window, Timestamp].";
    let mut properties = json!({"timestamp": {"type": "string", "format": "date-time", "description": window},
        "window": {"type": "string"}});
    if kind == "NodeMetrics" {
        properties["usage"] = usage;
    } else {
        let container = json!({"type": "object", "required": ["name", "usage"],
            "description": "ContainerMetrics sets resource usage metrics of a container.",
            "properties": {"name": {"type": "string", "description": "Container name corresponding to the one from pod.spec.containers."},
                "usage": usage}});
        properties["containers"] = json!({"type": "array", "description": "Metrics for all containers are collected within the same time window.", "items": container});
    }
    let of = if kind == "NodeMetrics" { "node" } else { "pod" };
    let required = ["timestamp", "window", if kind == "NodeMetrics" { "usage" } else { "containers" }];
    json!({"type": "object", "description": format!("{kind} sets resource usage metrics of a {of}."), "required": required,
        "properties": properties})
}

impl ResourceMetrics {
    /// Every node or pod (of one namespace) whose use is known.
    pub(crate) async fn list(&self, plural: &str, namespace: Option<&str>) -> Result<Vec<Arc<Object>>, Status> {
        self.refresh().await;
        let values: Vec<Value> = if plural == "nodes" {
            self.snapshot.list::<Node>(None).iter().filter_map(|node| self.node_value(node)).collect()
        } else {
            self.snapshot.list::<Pod>(namespace).iter().filter_map(|pod| self.pod_value(pod)).collect()
        };
        values.iter().map(|value| Object::from_value(value).map(Arc::new).map_err(Status::internal)).collect()
    }

    fn node_value(&self, node: &Node) -> Option<Value> {
        let name = node.metadata.name.as_deref()?;
        let usage = self.node(name)?;
        let mut value = object("NodeMetrics", &node.metadata, &usage);
        value["usage"] = quantities(&usage);
        Some(value)
    }

    fn pod_value(&self, pod: &Pod) -> Option<Value> {
        let (namespace, name) = (pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
        let usage = self.known(namespace, name);
        let oldest = usage.values().min_by_key(|usage| usage.at)?;
        let mut value = object("PodMetrics", &pod.metadata, oldest);
        let containers: Vec<Value> =
            usage.iter().map(|(name, usage)| json!({"name": name, "usage": quantities(usage)})).collect();
        value["containers"] = Value::Array(containers);
        Some(value)
    }
}

fn object(kind: &str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, usage: &Usage) -> Value {
    let mut metadata = json!({"name": meta.name, "creationTimestamp": time_text(jiff::Timestamp::now())});
    if let Some(namespace) = &meta.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(labels) = &meta.labels {
        metadata["labels"] = json!(labels);
    }
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": time_text(usage.at), "window": format!("{:.3}s", usage.window.as_secs_f64())})
}

fn quantities(usage: &Usage) -> Value {
    let nanos = (usage.cpu_cores * 1e9).round().max(0.0) as u64;
    json!({"cpu": format!("{nanos}n"), "memory": format!("{}Ki", usage.memory_bytes / 1024)})
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn usage_is_written_in_the_units_of_the_api() {
        let usage = Usage {
            cpu_cores: 0.25,
            memory_bytes: 3 << 20,
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            window: Duration::from_secs(15),
        };
        assert_eq!(quantities(&usage), json!({"cpu": "250000000n", "memory": "3072Ki"}));
        let rows = rows(&ResourceRegistry::builtin());
        assert_eq!(
            rows.iter().map(|row| (&*row.kind, row.namespaced)).collect::<Vec<_>>(),
            [("NodeMetrics", false), ("PodMetrics", true)]
        );
    }
}
