//! Keeps the Endpoints object of every service with a selector: the older form
//! of EndpointSlices, still read by many clients.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use serde_json::{Value, json};
use skiff_api::GroupResource;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    pod,
    seen::{self, Seen},
    service::{self, HEADLESS, TRIGGER_TIME},
    write,
};

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Addresses one Endpoints object may hold; the rest is only in the slices.
const ADDRESSES_MAX: usize = 1000;

pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<Service>(), service::pod_trigger(), Trigger::itself::<Endpoints>()]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>(), GroupResource::of::<Endpoints>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let have = world.object::<Endpoints>(&key.namespace, &key.name);
        let Some(service) = seen::get::<Service>(world, &key.namespace, &key.name) else {
            // Endpoints without service are deleted only if they are ours.
            if let Some(have) = have.filter(|have| have.meta.labels.contains_key(MANAGED_BY)) {
                outcome.push(write::delete::<Endpoints>(&have));
            }
            return outcome;
        };
        let Some(selector) = service::selector(&service.typed).filter(|_| !service.is_deleting()) else {
            return outcome;
        };
        let pods = service::pods(&service, &selector, false, world);
        let (subsets, over_capacity) = subsets(&service, &pods);
        let mut labels = service.meta().labels.clone();
        labels.remove(HEADLESS);
        if service::is_headless(&service.typed) {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());

        let Some(have) = have else {
            let mut body = json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": key.name, "namespace": key.namespace, "labels": labels}, "subsets": subsets});
            annotate(&mut body, &service, &pods, over_capacity);
            outcome.push(write::create::<Endpoints>(&key.namespace, body));
            return outcome;
        };
        let Ok(mut value) = have.value() else { return outcome };
        let is_marked = have.meta.annotations.contains_key(OVER_CAPACITY);
        let same_subsets = match &value["subsets"] {
            Value::Null => subsets.is_empty(),
            have => have.as_array() == Some(&subsets),
        };
        if same_subsets && have.meta.labels == labels && is_marked == over_capacity {
            return outcome;
        }
        value["subsets"] = subsets.into();
        value["metadata"]["labels"] = json!(labels);
        annotate(&mut value, &service, &pods, over_capacity);
        outcome.push(write::update::<Endpoints>(&have, value));
        outcome
    }
}

fn annotate(body: &mut Value, service: &Seen<Service>, pods: &[Seen<Pod>], over_capacity: bool) {
    if let Some(time) = service::trigger_time(service, pods) {
        body["metadata"]["annotations"][TRIGGER_TIME] = time.into();
    }
    if over_capacity {
        body["metadata"]["annotations"][OVER_CAPACITY] = "truncated".into();
    } else if let Some(annotations) = body["metadata"]["annotations"].as_object_mut() {
        annotations.remove(OVER_CAPACITY);
    }
}

#[derive(Default)]
struct Subset {
    ready: Vec<Value>,
    unready: Vec<Value>,
}

/// Addresses grouped by the ports they serve, in a stable order.
fn subsets(service: &Seen<Service>, pods: &[Seen<Pod>]) -> (Vec<Value>, bool) {
    let Some(spec) = &service.typed.spec else { return (Vec::new(), false) };
    let v6 = spec.ip_families.as_ref().and_then(|families| families.first()).is_some_and(|family| family == "IPv6");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut groups: BTreeMap<String, (Vec<Value>, Subset)> = BTreeMap::new();
    let mut count = 0;
    for pod in pods {
        let Some(ip) = service::addresses(&pod.typed, v6).into_iter().next() else { continue };
        count += 1;
        if count > ADDRESSES_MAX {
            continue;
        }
        let address = address(&ip, pod, service);
        let ready = service::publishes_unready(spec) || pod::is_ready(&pod.typed);
        let restarts = spec_restart_policy(&pod.typed);
        if !ready && restarts == "Never" && pod::is_terminal(&pod.typed) {
            continue;
        }
        let mut served: Vec<Value> = ports
            .iter()
            .filter_map(|port| {
                let mut entry = json!({
                    "port": service::target_port(port, &pod.typed)?,
                    "protocol": service::protocol(port.protocol.as_deref()),
                });
                if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                    entry["name"] = name.into();
                }
                if let Some(protocol) = &port.app_protocol {
                    entry["appProtocol"] = protocol.as_str().into();
                }
                Some(entry)
            })
            .collect();
        if served.is_empty() && !(ports.is_empty() && service::is_headless(&service.typed)) {
            continue;
        }
        served.sort_by_key(Value::to_string);
        let group = groups.entry(Value::from(served.clone()).to_string()).or_default();
        group.0 = served;
        if ready { group.1.ready.push(address) } else { group.1.unready.push(address) }
    }
    let subsets = groups.into_values().map(|(ports, subset)| subset.body(ports)).collect();
    (subsets, count > ADDRESSES_MAX)
}

fn spec_restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

impl Subset {
    fn body(mut self, ports: Vec<Value>) -> Value {
        let mut body = json!({});
        for (field, addresses) in [("addresses", &mut self.ready), ("notReadyAddresses", &mut self.unready)] {
            addresses.sort_by_key(|address| address["ip"].to_string());
            if !addresses.is_empty() {
                body[field] = addresses.clone().into();
            }
        }
        if !ports.is_empty() {
            body["ports"] = ports.into();
        }
        body
    }
}

fn address(ip: &str, pod: &Seen<Pod>, service: &Seen<Service>) -> Value {
    let mut address = json!({"ip": ip, "targetRef": service::target_reference(pod)});
    if !pod::node_name(&pod.typed).is_empty() {
        address["nodeName"] = pod::node_name(&pod.typed).into();
    }
    if let Some(hostname) = service::hostname(&pod.typed, service) {
        address["hostname"] = hostname.into();
    }
    address
}
