//! Indexes of the watch caches, for lookups that would otherwise walk a store.

use serde_json::Value;
use skiff_api::{GroupResource, Object};
use skiff_client::store::Index;

/// Pods by `spec.nodeName`.
pub const PODS_BY_NODE: Index = Index { name: "pod-node", values: |object| pointer(object, "/spec/nodeName") };

/// Endpoint slices by the service they belong to, as `namespace/name`.
pub const SLICES_BY_SERVICE: Index = Index {
    name: "slice-service",
    values: |object| {
        let service = object.meta.labels.get("kubernetes.io/service-name");
        service.map(|service| format!("{}/{service}", object.meta.namespace)).into_iter().collect()
    },
};

/// The indexes of a resource's store.
pub fn of(resource: &GroupResource) -> &'static [Index] {
    match (&*resource.group, &*resource.resource) {
        ("", "pods") => &[PODS_BY_NODE],
        ("discovery.k8s.io", "endpointslices") => &[SLICES_BY_SERVICE],
        _ => &[],
    }
}

fn pointer(object: &Object, path: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_slice::<Value>(object.json()) else { return Vec::new() };
    match value.pointer(path).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => vec![text.to_owned()],
        _ => Vec::new(),
    }
}
