//! Keeps the EndpointSlices of every service with a selector.
//!
//! Invariants: a slice holds at most 100 endpoints, all of one address family
//! and one set of ports; an endpoint stays in the slice it is in while it can,
//! so that a change of one pod rewrites one slice; a service always has at
//! least one slice per family, even an empty one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    pod,
    seen::{self, Seen},
    service::{self, HEADLESS, SERVICE_NAME, TRIGGER_TIME},
    write,
};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ENDPOINTS_PER_SLICE_MAX: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";

pub struct EndpointSliceController;

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<Service>(),
            service::pod_trigger(),
            Trigger::new::<EndpointSlice>(|new, old, _| {
                let ours = [new, old].into_iter().flatten().filter(|slice| is_ours(slice));
                ours.filter_map(|slice| {
                    let service = slice.meta.labels.get(SERVICE_NAME)?;
                    Some(ObjectRef::new(slice.meta.namespace.clone(), service.clone()))
                })
                .collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>(), GroupResource::of::<Node>(), GroupResource::of::<EndpointSlice>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let mut have: Vec<Arc<Object>> =
            world.store_of::<EndpointSlice>().map(|store| store.list(Some(&key.namespace))).unwrap_or_default();
        have.retain(|slice| is_ours(slice) && slice.meta.labels.get(SERVICE_NAME) == Some(&key.name));
        let service = seen::get::<Service>(world, &key.namespace, &key.name).filter(|service| !service.is_deleting());
        let found = service.and_then(|service| Some((service::selector(&service.typed)?, service)));
        let Some((selector, service)) = found else {
            outcome.operations.extend(have.iter().map(|slice| write::delete::<EndpointSlice>(slice)));
            return outcome;
        };
        let pods = service::pods(&service, &selector, true, world);
        let mut plan = Plan { service: &service, pods: &pods, outcome: &mut outcome, spare: Vec::new() };
        for family in families(&service) {
            let (of_family, rest): (Vec<_>, Vec<_>) = have.into_iter().partition(|slice| address_type(slice) == family);
            have = rest;
            plan.family(family, of_family, world);
        }
        for slice in have {
            outcome.push(write::delete::<EndpointSlice>(&slice));
        }
        outcome
    }
}

fn is_ours(slice: &Object) -> bool {
    slice.meta.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

fn address_type(slice: &Object) -> &'static str {
    match slice.typed::<EndpointSlice>() {
        Ok(slice) if slice.address_type == "IPv6" => "IPv6",
        Ok(slice) if slice.address_type == "IPv4" => "IPv4",
        _ => "",
    }
}

fn families(service: &Seen<Service>) -> Vec<&'static str> {
    let families = service.typed.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let families: Vec<_> = families.iter().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if families.is_empty() { vec!["IPv4"] } else { families }
}

/// Endpoints by their first address, for one set of ports.
type Group = BTreeMap<String, Value>;

struct Plan<'a> {
    service: &'a Seen<Service>,
    pods: &'a [Seen<Pod>],
    outcome: &'a mut Outcome,
    /// Slices without use, for reuse.
    spare: Vec<(Arc<Object>, Value)>,
}

impl Plan<'_> {
    fn family(&mut self, family: &'static str, have: Vec<Arc<Object>>, world: &Snapshot) {
        let mut groups = self.groups(family == "IPv6", world);
        let mut slices: HashMap<String, Vec<(Arc<Object>, Value)>> = HashMap::new();
        for slice in have {
            let Ok(value) = slice.value() else { continue };
            slices.entry(port_key(&value["ports"])).or_default().push((slice, value));
        }
        if groups.is_empty() {
            // The placeholder keeps whatever slice exists, or is made without ports.
            let (key, ports) = match slices.iter().next() {
                Some((key, of_key)) => (key.clone(), of_key[0].1["ports"].clone()),
                None => (port_key(&Value::Null), Value::Array(Vec::new())),
            };
            groups.insert(key, (ports, Group::new()));
        }
        let mut work = Vec::new();
        for (key, (ports, endpoints)) in groups {
            work.push((ports, endpoints, slices.remove(&key).unwrap_or_default()));
        }
        // Slices of ports that are no more are filled anew before others are made.
        self.spare = slices.into_values().flatten().collect();
        for (ports, endpoints, of_group) in work {
            self.group(family, ports, endpoints, of_group);
        }
        for (slice, _) in std::mem::take(&mut self.spare) {
            self.outcome.push(write::delete::<EndpointSlice>(&slice));
        }
    }

    /// Wanted endpoints by set of ports.
    fn groups(&self, v6: bool, world: &Snapshot) -> BTreeMap<String, (Value, Group)> {
        let mut groups: BTreeMap<String, (Value, Group)> = BTreeMap::new();
        let Some(spec) = &self.service.typed.spec else { return groups };
        for pod in self.pods {
            let Some(address) = service::addresses(&pod.typed, v6).into_iter().next() else { continue };
            let ports = ports(spec, &pod.typed);
            let entry = groups.entry(port_key(&ports)).or_insert_with(|| (ports, Group::new()));
            let endpoint = endpoint(&address, pod, self.service, spec, world);
            // Of two pods with one address (host network) one is enough, the ready one.
            let better = entry.1.get(&address).is_none_or(|have| have["conditions"]["ready"] != true);
            if better {
                entry.1.insert(address, endpoint);
            }
        }
        groups
    }

    fn group(&mut self, family: &'static str, ports: Value, mut wanted: Group, mut have: Vec<(Arc<Object>, Value)>) {
        // Fullest slices first, so that small ones run empty and go.
        have.sort_by_key(|(_, value)| std::cmp::Reverse(value["endpoints"].as_array().map_or(0, Vec::len)));
        let mut filled: Vec<(Arc<Object>, Value, Vec<Value>)> = Vec::new();
        for (slice, value) in have {
            let kept: Vec<Value> = value["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|endpoint| wanted.remove(endpoint["addresses"][0].as_str()?))
                .take(ENDPOINTS_PER_SLICE_MAX)
                .collect();
            filled.push((slice, value, kept));
        }
        let mut rest = wanted.into_values();
        for (_, _, endpoints) in &mut filled {
            let room = ENDPOINTS_PER_SLICE_MAX - endpoints.len();
            endpoints.extend(rest.by_ref().take(room));
        }
        let mut rest: Vec<Value> = rest.collect();
        let needs_placeholder = rest.is_empty() && filled.iter().all(|(_, _, endpoints)| endpoints.is_empty());
        let mut kept_placeholder = false;
        for (slice, value, endpoints) in filled {
            if endpoints.is_empty() && (kept_placeholder || !needs_placeholder) {
                self.outcome.push(write::delete::<EndpointSlice>(&slice));
                continue;
            }
            kept_placeholder = true;
            self.update(&slice, value, endpoints);
        }
        if needs_placeholder && !kept_placeholder {
            self.create(family, &ports, Vec::new());
        }
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(ENDPOINTS_PER_SLICE_MAX));
            self.create(family, &ports, rest);
            rest = tail;
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.service.meta().labels.clone();
        labels.remove(HEADLESS);
        if service::is_headless(&self.service.typed) {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        labels.insert(SERVICE_NAME.to_owned(), self.service.name().to_owned());
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        labels
    }

    fn update(&mut self, slice: &Object, mut value: Value, endpoints: Vec<Value>) {
        let same = match &value["endpoints"] {
            Value::Null => endpoints.is_empty(),
            have => have.as_array() == Some(&endpoints),
        };
        let labels = self.labels();
        if same && slice.meta.labels == labels {
            return;
        }
        value["endpoints"] = endpoints.into();
        value["metadata"]["labels"] = json!(labels);
        if let Some(time) = service::trigger_time(self.service, self.pods) {
            value["metadata"]["annotations"][TRIGGER_TIME] = time.into();
        }
        self.outcome.push(write::update::<EndpointSlice>(slice, value));
    }

    fn create(&mut self, family: &str, ports: &Value, endpoints: Vec<Value>) {
        if let Some((slice, mut value)) = self.spare.pop() {
            value["ports"] = ports.clone();
            self.update(&slice, value, endpoints);
            return;
        }
        let mut body = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "generateName": format!("{}-", self.service.name()),
                "namespace": self.service.namespace(),
                "labels": self.labels(),
                "ownerReferences": [write::controller_reference(&self.service.object)],
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        });
        if let Some(time) = service::trigger_time(self.service, self.pods) {
            body["metadata"]["annotations"] = json!({TRIGGER_TIME: time});
        }
        self.outcome.push(write::create::<EndpointSlice>(self.service.namespace(), body));
    }
}

/// Identity of a set of ports, blind to order and defaults.
fn port_key(ports: &Value) -> String {
    let mut keys: Vec<String> = ports
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            format!(
                "{}/{}/{}/{}",
                port["name"].as_str().unwrap_or_default(),
                port["protocol"].as_str().unwrap_or("TCP"),
                port["port"],
                port["appProtocol"].as_str().unwrap_or_default()
            )
        })
        .collect();
    keys.sort();
    keys.join(" ")
}

fn ports(spec: &ServiceSpec, pod: &Pod) -> Value {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let mut entry = json!({
            "name": port.name.as_deref().unwrap_or_default(),
            "port": service::target_port(port, pod)?,
            "protocol": service::protocol(port.protocol.as_deref()),
        });
        if let Some(protocol) = &port.app_protocol {
            entry["appProtocol"] = protocol.as_str().into();
        }
        Some(entry)
    });
    ports.collect()
}

fn endpoint(address: &str, pod: &Seen<Pod>, service: &Seen<Service>, spec: &ServiceSpec, world: &Snapshot) -> Value {
    let serving = pod::is_ready(&pod.typed);
    let terminating = pod.is_deleting();
    let ready = service::publishes_unready(spec) || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": service::target_reference(pod),
    });
    let node_name = pod::node_name(&pod.typed);
    if !node_name.is_empty() {
        endpoint["nodeName"] = node_name.into();
    }
    let zone = world.object::<Node>("", node_name).and_then(|node| node.meta.labels.get(ZONE).cloned());
    match spec.traffic_distribution.as_deref() {
        Some("PreferSameNode") if !node_name.is_empty() && ready => {
            endpoint["hints"]["forNodes"] = json!([{"name": node_name}]);
        }
        Some("PreferClose" | "PreferSameZone") if ready => {
            if let Some(zone) = &zone {
                endpoint["hints"]["forZones"] = json!([{"name": zone}]);
            }
        }
        _ => {}
    }
    if let Some(zone) = zone {
        endpoint["zone"] = zone.into();
    }
    if let Some(hostname) = service::hostname(&pod.typed, service) {
        endpoint["hostname"] = hostname.into();
    }
    endpoint
}
