//! Indexes of the watch caches, for lookups that would otherwise walk a store.

use serde::Deserialize;
use serde_json::Value;
use skiff_api::{GroupResource, Object};
use skiff_client::store::Index;

/// Pods by `spec.nodeName`.
pub const PODS_BY_NODE: Index = Index { name: "pod-node", values: node_name };

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

/// The node of a pod, kept beside the pod; empty while it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(Box<str>);

impl NodeName {
    /// Of a pod that is at hand.
    pub fn of(pod: &Value) -> NodeName {
        NodeName(pod["spec"]["nodeName"].as_str().unwrap_or_default().into())
    }

    /// Reads nothing of the pod but the one field.
    fn read(json: &[u8]) -> Result<NodeName, serde_json::Error> {
        #[derive(Deserialize)]
        struct Pod {
            spec: Spec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            node_name: Option<String>,
        }
        let pod: Pod = serde_json::from_slice(json)?;
        Ok(NodeName(pod.spec.node_name.unwrap_or_default().into()))
    }
}

fn node_name(pod: &Object) -> Vec<String> {
    Some(node_of(pod)).into_iter().filter(|node| !node.is_empty()).collect()
}

/// The node of a pod, empty without one.
pub fn node_of(pod: &Object) -> String {
    pod.derive(|json| NodeName::read(json)).map(|name| name.0.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_indexed_by_its_node_once_it_has_one() {
        let node = |spec: serde_json::Value| {
            let pod = serde_json::json!({"metadata": {"name": "p"}, "spec": spec});
            node_name(&Object::from_value(&pod).unwrap())
        };
        assert_eq!(node(serde_json::json!({"nodeName": "a", "containers": []})), ["a"]);
        for unbound in
            [serde_json::json!({}), serde_json::json!({"nodeName": ""}), serde_json::json!({"nodeName": null})]
        {
            assert!(node(unbound).is_empty());
        }
    }
}
