//! IPAddress objects of services, and the life of ServiceCIDRs.
//!
//! The API server takes addresses from its own pools; these objects show them,
//! one per cluster address, as upstream's allocator writes them. A key with a
//! namespace is a Service, one without is an address.

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{IPAddress, ServiceCIDR},
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    condition::{self, Condition},
    write,
};

const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// The addresses of a service, without the word for none.
fn addresses(service: &Object) -> Vec<String> {
    let Ok(value) = service.value() else { return Vec::new() };
    let all = value["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    all.filter(|ip| ip.parse::<IpAddr>().is_ok()).map(str::to_owned).collect()
}

/// Shows the addresses of services as objects.
pub struct IpAddressController;

impl Controller for IpAddressController {
    fn name(&self) -> &'static str {
        "ipallocator-repair-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::new::<Service>(|new, old, _| {
                let now = new.map(addresses).unwrap_or_default();
                let before = old.map(addresses).unwrap_or_default();
                if new.is_some() && old.is_some() && now == before {
                    return Vec::new();
                }
                let lost = before.into_iter().filter(|ip| !now.contains(ip)).map(|ip| ObjectRef::new("", ip));
                new.map(ObjectRef::of).into_iter().chain(lost).collect()
            }),
            Trigger::new::<IPAddress>(|new, old, _| {
                let Some(object) = new.or(old).filter(|object| is_managed(object)) else { return Vec::new() };
                let mut keys = vec![ObjectRef::of(object)];
                if new.is_none() {
                    keys.extend(parent(object));
                }
                keys
            }),
        ]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        if key.namespace.is_empty() {
            let Some(object) = world.object::<IPAddress>("", &key.name).filter(|object| is_managed(object)) else {
                return outcome;
            };
            let service =
                parent(&object).and_then(|service| world.object::<Service>(&service.namespace, &service.name));
            if !service.is_some_and(|service| addresses(&service).contains(&key.name)) {
                outcome.push(write::delete::<IPAddress>(&object));
            }
            return outcome;
        }
        let Some(service) = world.object::<Service>(&key.namespace, &key.name) else { return outcome };
        for ip in addresses(&service) {
            if world.object::<IPAddress>("", &ip).is_none() {
                outcome.push(write::create::<IPAddress>("", address(&ip, &service)));
            }
        }
        outcome
    }
}

fn is_managed(object: &Object) -> bool {
    object.meta.labels.get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR)
}

/// The service an address belongs to.
fn parent(address: &Object) -> Option<ObjectRef> {
    let value = address.value().ok()?;
    let parent = &value["spec"]["parentRef"];
    (parent["resource"] == "services").then(|| {
        let text = |name: &str| parent[name].as_str().unwrap_or_default().to_owned();
        ObjectRef::new(text("namespace"), text("name"))
    })
}

fn address(ip: &str, service: &Object) -> Value {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": ip, "labels": {MANAGED_BY: ALLOCATOR, FAMILY: family}},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": service.meta.namespace, "name": service.meta.name}}})
}

/// Keeps a ServiceCIDR while addresses of it are in use, and says that it is ready.
pub struct ServiceCidrController;

impl Controller for ServiceCidrController {
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<ServiceCIDR>(),
            // Only an address that goes can free a range that waits for it.
            Trigger::new::<IPAddress>(|new, _, world| {
                let Some(store) = world.store_of::<ServiceCIDR>().filter(|_| new.is_none()) else { return Vec::new() };
                store
                    .list(None)
                    .iter()
                    .filter(|range| range.meta.is_deleting())
                    .map(|range| ObjectRef::of(range))
                    .collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<IPAddress>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(object) = world.object::<ServiceCIDR>("", &key.name) else { return outcome };
        let Ok(mut value) = object.value() else { return outcome };
        let held = object.meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        if object.meta.is_deleting() {
            if !held {
                return outcome;
            }
            if in_use(&value, &key.name, world) {
                let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
                ready(&object, &value, ("False", "Terminating", why), context, &mut outcome);
                return outcome;
            }
            if let Some(finalizers) = value["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
            outcome.push(write::update::<ServiceCIDR>(&object, value));
        } else if !held {
            let mut finalizers = value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            finalizers.push(FINALIZER.into());
            value["metadata"]["finalizers"] = Value::Array(finalizers);
            outcome.push(write::update::<ServiceCIDR>(&object, value));
        } else {
            ready(&object, &value, ("True", "", "Kubernetes Service CIDR is ready"), context, &mut outcome);
        }
        outcome
    }
}

fn ready(
    object: &Object,
    value: &Value,
    (status, reason, message): (&'static str, &str, &str),
    context: &Context,
    outcome: &mut Outcome,
) {
    let mut new = value["status"].clone();
    if !new.is_object() {
        new = json!({});
    }
    let mut conditions = condition::of(&new);
    condition::set(&mut conditions, Condition::new("Ready", status, reason, message), context.now);
    // This condition's reason may be empty but must be there.
    for condition in conditions.iter_mut().filter(|condition| condition["reason"].is_null()) {
        condition["reason"] = "".into();
    }
    new["conditions"] = Value::Array(conditions);
    if let Some(body) = write::with_status(object, new) {
        outcome.push(write::update_status::<ServiceCIDR>(object, body));
    }
}

/// A network as prefix and length.
fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (ip, length) = text.split_once('/')?;
    Some((ip.parse().ok()?, length.parse().ok()?))
}

fn contains((net, length): (IpAddr, u32), ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    net.is_ipv4() == ip.is_ipv4() && (length == 0 || (bits(net) ^ bits(ip)) >> (128 - length.min(128)) == 0)
}

fn ranges(value: &Value) -> Vec<(IpAddr, u32)> {
    value["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(|cidr| network(cidr.as_str()?)).collect()
}

/// Whether an address of this range is covered by no other range that stays.
fn in_use(range: &Value, name: &str, world: &Snapshot) -> bool {
    let own = ranges(range);
    let (Some(others), Some(addresses)) = (world.store_of::<ServiceCIDR>(), world.store_of::<IPAddress>()) else {
        return true;
    };
    let others: Vec<(IpAddr, u32)> = others
        .list(None)
        .iter()
        .filter(|other| other.meta.name != name && !other.meta.is_deleting())
        .filter_map(|other| other.value().ok())
        .flat_map(|other| ranges(&other))
        .collect();
    addresses
        .list(None)
        .iter()
        .filter_map(|address| address.meta.name.parse().ok())
        .any(|ip| own.iter().any(|range| contains(*range, ip)) && !others.iter().any(|range| contains(*range, ip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulation;

    const WORLD: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec: {clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7, 'fd00::7']}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: ns}
spec: {clusterIP: None, clusterIPs: [None]}
---
apiVersion: networking.k8s.io/v1
kind: IPAddress
metadata: {name: 10.43.0.9, labels: {ipaddress.kubernetes.io/managed-by: ipallocator.k8s.io}}
spec: {parentRef: {resource: services, namespace: ns, name: gone}}
---
apiVersion: networking.k8s.io/v1
kind: IPAddress
metadata: {name: 10.43.0.10}
spec: {parentRef: {resource: others, name: somebody}}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.43.0.0/16]}";

    #[test]
    fn every_address_of_a_service_has_its_object() {
        let mut simulation = Simulation::new(WORLD);
        simulation.settle(&[&IpAddressController], false, |_| {});
        let names: Vec<String> = simulation
            .values("ipaddresses.networking.k8s.io", "")
            .iter()
            .map(|value| value["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["10.43.0.10", "10.43.0.7", "fd00::7"], "a stranger's stays");
        let address = simulation.value("ipaddresses.networking.k8s.io", "", "fd00::7").unwrap();
        assert_eq!(address["metadata"]["labels"][FAMILY], "IPv6");
        assert_eq!(address["spec"]["parentRef"]["name"], "web");
    }

    #[test]
    fn a_range_is_ready_and_kept() {
        let mut simulation = Simulation::new(WORLD);
        simulation.settle(&[&ServiceCidrController], false, |_| {});
        let range = simulation.value("servicecidrs.networking.k8s.io", "", "kubernetes").unwrap();
        assert_eq!(range["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(range["status"]["conditions"][0]["status"], "True");
        assert!(in_use(&range, "kubernetes", &simulation.world));
        assert!(!contains(network("10.42.0.0/16").unwrap(), "10.43.0.1".parse().unwrap()));
        assert!(contains(network("fd00::/8").unwrap(), "fdff::1".parse().unwrap()));
    }
}
