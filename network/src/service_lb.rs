//! ServiceLB: gives Services of type LoadBalancer the addresses of nodes.
//!
//! No pods are started: the service proxy of every node already answers on a
//! balancer's addresses, so it is enough to publish node addresses in the
//! Service's status. A port can belong to one such Service only; the older one
//! keeps it, the other is told by an event and gets the port when it is free.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionResource, Object};
use skiff_client::{
    Context, Controller, EventRecord, EventType, ObjectRef, Operation, Outcome, Patch, Snapshot, Trigger,
};

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
const LABEL_EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct ServiceLb {
    /// TCP ports of the nodes themselves, which no Service may take: API server, kubelet.
    pub reserved_ports: Vec<u16>,
}

impl Controller for ServiceLb {
    fn name(&self) -> &'static str {
        "service-lb-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            // Any balanced Service may hold or free a port another one wants.
            Trigger::new::<Service>(|new, old, world| {
                let itself = new.or(old).map(ObjectRef::of).into_iter();
                let concerns_others = [new, old].into_iter().flatten().any(is_balanced_object);
                itself.chain(if concerns_others { balanced(world) } else { Vec::new() }).collect()
            }),
            Trigger::new::<Node>(|new, old, world| {
                let is_same = matches!((new, old), (Some(new), Some(old)) if node_view(new) == node_view(old));
                if is_same { Vec::new() } else { balanced(world) }
            }),
            Trigger::new::<EndpointSlice>(|new, old, _| {
                let slice = new.or(old);
                let name = slice.and_then(|slice| slice.meta.labels.get(LABEL_SERVICE_NAME));
                let namespace = slice.map(|slice| slice.meta.namespace.clone()).unwrap_or_default();
                name.map(|name| ObjectRef::new(namespace, name)).into_iter().collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Service>(), GroupResource::of::<Node>(), GroupResource::of::<EndpointSlice>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(service) = world.get::<Service>(&key.namespace, &key.name) else { return outcome };
        let have = ingress(&service);
        let wanted = if !is_balanced(&service) {
            // Another implementation may own a Service with a class.
            if has_foreign_class(&service) {
                return outcome;
            }
            Vec::new()
        } else if let Some(problem) = self.problem(key, &service, world) {
            if let Some(object) = world.object::<Service>(&key.namespace, &key.name) {
                outcome.events.push(EventRecord {
                    regarding: object.reference(),
                    event_type: EventType::Warning,
                    reason: "PortInUse".to_owned(),
                    message: problem,
                });
            }
            Vec::new()
        } else {
            addresses(key, &service, world)
        };
        if have != wanted {
            let ingress: Vec<Value> = wanted.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
            let ingress = if ingress.is_empty() { Value::Null } else { Value::Array(ingress) };
            outcome.push(Operation::Patch {
                resource: GroupVersionResource::of::<Service>(),
                namespace: Some(key.namespace.clone()),
                name: key.name.clone(),
                subresource: Some("status"),
                patch: Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}})),
            });
        }
        outcome
    }
}

impl ServiceLb {
    /// Why the Service cannot have its ports.
    fn problem(&self, key: &ObjectRef, service: &Service, world: &Snapshot) -> Option<String> {
        let wanted = ports(service);
        let reserved = wanted.iter().find(|(protocol, port)| protocol == "TCP" && self.reserved_ports.contains(port));
        if let Some((_, port)) = reserved {
            return Some(format!("port {port} is used by the nodes themselves"));
        }
        let age = |service: &Service, name: &ObjectRef| {
            (service.metadata.creation_timestamp.as_ref().map(|time| time.0), name.clone())
        };
        let own_age = age(service, key);
        balanced(world).into_iter().filter(|other| other != key).find_map(|other| {
            let rival = world.get::<Service>(&other.namespace, &other.name)?;
            let rival_ports = ports(&rival);
            let (protocol, port) = wanted.iter().find(|port| rival_ports.contains(port))?;
            let is_older = age(&rival, &other) < own_age;
            is_older.then(|| format!("{protocol} port {port} belongs to Service {}/{}", other.namespace, other.name))
        })
    }
}

fn is_balanced(service: &Service) -> bool {
    let is_ending = service.metadata.deletion_timestamp.is_some();
    let spec = service.spec.as_ref();
    let is_type = spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    is_type && !is_ending && !has_foreign_class(service)
}

fn has_foreign_class(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.load_balancer_class.is_some())
}

fn is_balanced_object(object: &Object) -> bool {
    object.typed::<Service>().is_ok_and(|service| is_balanced(&service))
}

fn balanced(world: &Snapshot) -> Vec<ObjectRef> {
    let Some(store) = world.store_of::<Service>() else { return Vec::new() };
    store.list(None).iter().filter(|object| is_balanced_object(object)).map(|object| ObjectRef::of(object)).collect()
}

fn ports(service: &Service) -> BTreeSet<(String, u16)> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), u16::try_from(port.port).ok()?))
    };
    ports.iter().filter_map(port).collect()
}

/// The addresses in the status, as published.
fn ingress(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    entries.iter().filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect()
}

/// Addresses of the nodes that answer for the Service: all ready ones, or with
/// the Local policy those that have an endpoint.
fn addresses(key: &ObjectRef, service: &Service, world: &Snapshot) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let is_local = spec.is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"));
    let hosting = is_local.then(|| nodes_with_endpoints(key, world));
    let nodes: Vec<NodeFacts> = world
        .list::<Node>(None)
        .iter()
        .map(|node| facts(node))
        .filter(|node| node.is_usable)
        .filter(|node| hosting.as_ref().is_none_or(|hosting| hosting.contains(&node.name)))
        .collect();
    // One node with an external address makes all use external addresses, as with K3s.
    let has_external = nodes.iter().any(|node| !node.external.is_empty());
    let all = nodes.iter().flat_map(|node| if has_external { &node.external } else { &node.internal });
    let fits = |ip: &&IpAddr| families.iter().any(|family| (family == "IPv4") == ip.is_ipv4());
    all.filter(fits).copied().collect::<BTreeSet<_>>().into_iter().collect()
}

fn nodes_with_endpoints(key: &ObjectRef, world: &Snapshot) -> BTreeSet<String> {
    let slices: Vec<Arc<EndpointSlice>> = world.list::<EndpointSlice>(Some(&key.namespace));
    let is_own = |slice: &&Arc<EndpointSlice>| {
        slice.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_SERVICE_NAME)) == Some(&key.name)
    };
    let endpoints = slices.iter().filter(is_own).flat_map(|slice| slice.endpoints.iter().flatten());
    let is_ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    endpoints.filter(is_ready).filter_map(|endpoint| endpoint.node_name.clone()).collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct NodeFacts {
    name: String,
    is_usable: bool,
    internal: Vec<IpAddr>,
    external: Vec<IpAddr>,
}

fn node_view(object: &Object) -> NodeFacts {
    object.typed::<Node>().map(|node| facts(&node)).unwrap_or_default()
}

fn facts(node: &Node) -> NodeFacts {
    let status = node.status.as_ref();
    let of_type = |kind: &str| -> Vec<IpAddr> {
        let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let fitting = addresses.iter().filter(|address| address.type_ == kind);
        fitting.filter_map(|address| address.address.parse().ok()).collect()
    };
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let is_excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL_EXCLUDE));
    NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        is_usable: is_ready && !is_excluded && node.metadata.deletion_timestamp.is_none(),
        internal: of_type("InternalIP"),
        external: of_type("ExternalIP"),
    }
}

#[cfg(test)]
mod tests {
    use skiff_api::Revision;

    use super::*;

    fn node(name: &str, ip: &str, ready: bool) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {
            "addresses": [{"type": "InternalIP", "address": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastHeartbeatTime": null, "lastTransitionTime": null}]}})
    }

    fn service(name: &str, created: &str, mut spec: Value) -> Value {
        spec["ipFamilies"] = json!(["IPv4"]);
        json!({"apiVersion": "v1", "kind": "Service", "spec": spec, "metadata": {"name": name, "namespace": "default",
            "creationTimestamp": created, "uid": name}})
    }

    fn balanced_spec(port: u16) -> Value {
        json!({"type": "LoadBalancer", "ports": [{"port": port}]})
    }

    fn world(services: Vec<Value>, slices: Vec<Value>) -> Snapshot {
        let nodes = vec![node("a", "192.0.2.1", true), node("b", "192.0.2.2", true), node("c", "192.0.2.3", false)];
        let snapshot = Snapshot::new();
        for (resource, objects) in [
            (GroupResource::of::<Node>(), nodes),
            (GroupResource::of::<Service>(), services),
            (GroupResource::of::<EndpointSlice>(), slices),
        ] {
            let (writer, store) = skiff_client::store::store(&[]);
            let objects = objects.iter().map(|object| Arc::new(Object::from_value(object).unwrap())).collect();
            writer.replace(objects, Revision(1));
            snapshot.insert(resource, store);
        }
        snapshot
    }

    /// The addresses written, if any are, and the messages of events.
    fn reconcile(world: &Snapshot, name: &str) -> (Option<Vec<String>>, Vec<String>) {
        let controller = ServiceLb { reserved_ports: vec![6443] };
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, last_failure: None };
        let outcome = controller.reconcile(&ObjectRef::new("default", name), world, &context);
        let written = outcome.operations.first().map(|operation| {
            let Operation::Patch { patch: Patch::Merge(body), .. } = operation else { panic!("{operation:?}") };
            let ingress = body["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
            ingress.iter().map(|entry| entry["ip"].as_str().unwrap().to_owned()).collect()
        });
        (written, outcome.events.into_iter().map(|event| event.message).collect())
    }

    #[test]
    fn ready_nodes_are_published_once() {
        let web = service("web", "2026-01-01T00:00:00Z", balanced_spec(80));
        let expected = Some(vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()]);
        assert_eq!(reconcile(&world(vec![web.clone()], vec![]), "web"), (expected, vec![]));
        let mut published = web;
        published["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}]}});
        assert_eq!(reconcile(&world(vec![published.clone()], vec![]), "web"), (None, vec![]));
        published["spec"]["type"] = "ClusterIP".into();
        assert_eq!(reconcile(&world(vec![published], vec![]), "web").0, Some(vec![]));
    }

    #[test]
    fn the_local_policy_names_only_nodes_with_endpoints() {
        let mut spec = balanced_spec(80);
        spec["externalTrafficPolicy"] = "Local".into();
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"addresses": ["10.42.0.5"], "nodeName": "b"}]});
        let world = world(vec![service("web", "2026-01-01T00:00:00Z", spec)], vec![slice]);
        assert_eq!(reconcile(&world, "web").0, Some(vec!["192.0.2.2".to_owned()]));
    }

    #[test]
    fn a_port_belongs_to_the_older_service_and_never_to_reserved_ones() {
        let older = service("older", "2026-01-01T00:00:00Z", balanced_spec(80));
        let newer = service("newer", "2026-01-02T00:00:00Z", balanced_spec(80));
        let api = service("api", "2026-01-02T00:00:00Z", balanced_spec(6443));
        let world = world(vec![older, newer, api], vec![]);
        assert!(reconcile(&world, "older").0.is_some_and(|ips| ips.len() == 2));
        let (written, events) = reconcile(&world, "newer");
        assert_eq!((written, events.len()), (None, 1));
        assert!(events[0].contains("default/older"));
        assert!(reconcile(&world, "api").1[0].contains("6443"));
    }

    #[test]
    fn services_of_another_class_are_left_alone() {
        let mut spec = balanced_spec(80);
        spec["loadBalancerClass"] = "example.org/lb".into();
        let mut service = service("web", "2026-01-01T00:00:00Z", spec);
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}});
        assert_eq!(reconcile(&world(vec![service], vec![]), "web"), (None, vec![]));
    }
}
