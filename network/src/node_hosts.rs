//! Keeps the names of nodes in the DNS server's hosts file: the key `NodeHosts`
//! of the ConfigMap `coredns`, which the `hosts` plugin of the Corefile reads.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use serde_json::json;
use skiff_api::GroupVersionResource;
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Patch, Snapshot, Trigger};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "coredns";
const KEY: &str = "NodeHosts";

/// The controller; its one key is the ConfigMap.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeHosts;

impl Controller for NodeHosts {
    fn name(&self) -> &'static str {
        "node-hosts-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let key = || vec![ObjectRef::new(NAMESPACE, NAME)];
        vec![
            Trigger::new::<ConfigMap>(move |new, old, _| {
                let is_ours = new.or(old).is_some_and(|map| map.meta.namespace == NAMESPACE && map.meta.name == NAME);
                if is_ours { key() } else { Vec::new() }
            }),
            Trigger::new::<Node>(move |_, _, _| key()),
        ]
    }

    fn workers(&self) -> usize {
        1
    }

    fn reconcile(&self, _: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(map) = world.get::<ConfigMap>(NAMESPACE, NAME) else { return outcome };
        let wanted = hosts(&world.list::<Node>(None));
        if map.data.as_ref().and_then(|data| data.get(KEY)) != Some(&wanted) {
            outcome.push(Operation::Patch {
                resource: GroupVersionResource::of::<ConfigMap>(),
                namespace: Some(NAMESPACE.to_owned()),
                name: NAME.to_owned(),
                subresource: None,
                patch: Patch::Merge(json!({"data": {KEY: wanted}})),
            });
        }
        outcome
    }
}

/// One line per address: internal addresses with the node's names.
fn hosts(nodes: &[std::sync::Arc<Node>]) -> String {
    let mut lines = BTreeSet::new();
    for node in nodes {
        let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let mut names: Vec<&str> = node.metadata.name.as_deref().into_iter().collect();
        for address in addresses.iter().filter(|address| matches!(address.type_.as_str(), "Hostname" | "InternalDNS")) {
            if !names.contains(&address.address.as_str()) {
                names.push(&address.address);
            }
        }
        let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
        lines.extend(internal.map(|address| format!("{} {}\n", address.address, names.join(" "))));
    }
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;
    use skiff_api::{GroupResource, Object, Revision};

    use super::*;

    fn world(data: Value) -> Snapshot {
        let node = |name: &str, ip: &str| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": [
                {"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name},
                {"type": "ExternalIP", "address": "203.0.113.1"}]}})
        };
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": NAME, "namespace": NAMESPACE}});
        let snapshot = Snapshot::new();
        for (resource, objects) in [
            (GroupResource::of::<Node>(), vec![node("b", "192.0.2.2"), node("a", "192.0.2.1")]),
            (GroupResource::of::<ConfigMap>(), vec![map]),
        ] {
            let (writer, store) = skiff_client::store::store(&[]);
            let objects = objects.iter().map(|object| Arc::new(Object::from_value(object).unwrap())).collect();
            writer.replace(objects, Revision(1));
            snapshot.insert(resource, store);
        }
        snapshot
    }

    fn reconcile(world: &Snapshot) -> Vec<Operation> {
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, last_failure: None };
        NodeHosts.reconcile(&ObjectRef::new(NAMESPACE, NAME), world, &context).operations
    }

    #[test]
    fn the_hosts_file_lists_internal_addresses_and_is_written_once() {
        let operations = reconcile(&world(json!({"Corefile": "."})));
        let [Operation::Patch { patch: Patch::Merge(body), .. }] = operations.as_slice() else {
            panic!("{operations:?}")
        };
        assert_eq!(body["data"]["NodeHosts"], "192.0.2.1 a\n192.0.2.2 b\n");
        assert!(reconcile(&world(json!({"NodeHosts": "192.0.2.1 a\n192.0.2.2 b\n"}))).is_empty());
    }
}
