//! Mirrors hand-made Endpoints into EndpointSlices, which is what the service
//! proxy reads. Only for services without selector; the other way round never.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    service::{self, SERVICE_NAME, TRIGGER_TIME},
    write,
};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints object itself.
const NOT_COPIED: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", TRIGGER_TIME];
const ENDPOINTS_PER_SLICE_MAX: usize = 100;
/// Addresses mirrored of one subset.
const ADDRESSES_PER_SUBSET_MAX: usize = 1000;

pub struct EndpointSliceMirroringController;

impl Controller for EndpointSliceMirroringController {
    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<Endpoints>(),
            Trigger::itself::<Service>(),
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
        vec![GroupResource::of::<Service>(), GroupResource::of::<EndpointSlice>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let store = world.store_of::<EndpointSlice>();
        let mut have: Vec<Arc<Object>> = store.map(|store| store.list(Some(&key.namespace))).unwrap_or_default();
        have.retain(|slice| is_ours(slice) && slice.meta.labels.get(SERVICE_NAME) == Some(&key.name));
        let endpoints =
            world.object::<Endpoints>(&key.namespace, &key.name).filter(|endpoints| is_mirrored(endpoints, key, world));
        let mut wanted = endpoints.as_deref().map(wanted).unwrap_or_default();
        for slice in have {
            let Ok(value) = slice.value() else { continue };
            let fits = wanted
                .iter()
                .position(|new| new["addressType"] == value["addressType"] && new["ports"] == value["ports"]);
            match fits {
                None => outcome.push(write::delete::<EndpointSlice>(&slice)),
                Some(index) => update(&slice, value, wanted.remove(index), &mut outcome),
            }
        }
        for body in wanted {
            outcome.push(write::create::<EndpointSlice>(&key.namespace, body));
        }
        outcome
    }
}

fn is_ours(slice: &Object) -> bool {
    slice.meta.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

fn is_mirrored(endpoints: &Object, key: &ObjectRef, world: &Snapshot) -> bool {
    let skips = endpoints.meta.labels.get(SKIP_MIRROR).is_some_and(|skip| skip == "true");
    let is_by_hand = world
        .get::<Service>(&key.namespace, &key.name)
        .is_some_and(|service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_none()));
    !skips && is_by_hand && !endpoints.meta.annotations.contains_key(LEADER)
}

fn update(slice: &Object, mut value: Value, new: Value, outcome: &mut Outcome) {
    let mut changed = false;
    for field in ["endpoints", "ports"] {
        changed |= value[field] != new[field];
        value[field] = new[field].clone();
    }
    for field in ["labels", "annotations"] {
        changed |= value["metadata"][field] != new["metadata"][field];
        value["metadata"][field] = new["metadata"][field].clone();
    }
    if changed {
        outcome.push(write::update::<EndpointSlice>(slice, value));
    }
}

/// The slices that mirror an Endpoints object.
fn wanted(object: &Object) -> Vec<Value> {
    let Ok(endpoints) = object.value() else { return Vec::new() };
    let mut slices = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = ports(subset);
        let mut by_family: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in subset[field].as_array().into_iter().flatten().take(ADDRESSES_PER_SUBSET_MAX) {
                let Some(ip) = address["ip"].as_str() else { continue };
                let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
                by_family.entry(family).or_default().push(endpoint(ip, address, ready));
            }
        }
        for (family, endpoints) in by_family {
            for chunk in endpoints.chunks(ENDPOINTS_PER_SLICE_MAX) {
                slices.push(slice(object, family, &ports, chunk));
            }
        }
    }
    slices
}

fn ports(subset: &Value) -> Value {
    let ports = subset["ports"].as_array().into_iter().flatten().map(|port| {
        let mut entry = json!({
            "name": port["name"].as_str().unwrap_or_default(),
            "port": port["port"],
            "protocol": service::protocol(port["protocol"].as_str()),
        });
        if !port["appProtocol"].is_null() {
            entry["appProtocol"] = port["appProtocol"].clone();
        }
        entry
    });
    ports.collect()
}

fn endpoint(ip: &str, address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [ip], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if !address[field].is_null() {
            endpoint[field] = address[field].clone();
        }
    }
    endpoint
}

fn slice(object: &Object, family: &str, ports: &Value, endpoints: &[Value]) -> Value {
    let mut labels = object.meta.labels.clone();
    labels.insert(SERVICE_NAME.to_owned(), object.meta.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut metadata = json!({
        "generateName": format!("{}-", object.meta.name),
        "namespace": object.meta.namespace,
        "labels": labels,
        "ownerReferences": [write::controller_reference(object)],
    });
    let mut annotations = object.meta.annotations.clone();
    annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}
