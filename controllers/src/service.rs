//! What both endpoints controllers read out of a service and its pods.

use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};
use skiff_api::{Object, Selector};
use skiff_client::{ObjectRef, Snapshot, Trigger};

use crate::{
    pod,
    seen::{self, Seen},
};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The selector of a service whose endpoints are found for it; `None` for those
/// managed by hand and for ExternalName.
pub fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|labels| !labels.is_empty()).map(Selector::from_labels)
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

pub fn publishes_unready(spec: &ServiceSpec) -> bool {
    spec.publish_not_ready_addresses == Some(true)
}

/// Pods wake the services that select them, now or before.
pub fn pod_trigger() -> Trigger {
    Trigger::new::<Pod>(|new, old, world| {
        let Some(object) = new.or(old) else { return Vec::new() };
        if let (Some(new), Some(old)) = (new, old)
            && !is_relevant_change(new, old)
        {
            return Vec::new();
        }
        seen::list::<Service>(world, Some(&object.meta.namespace))
            .iter()
            .filter(|service| {
                selector(&service.typed).is_some_and(|selector| {
                    [new, old].into_iter().flatten().any(|pod| selector.matches(&pod.meta.labels))
                })
            })
            .map(|service| ObjectRef::of(&service.object))
            .collect()
    })
}

/// Whether a change of a pod can change endpoints.
fn is_relevant_change(new: &Object, old: &Object) -> bool {
    let (Ok(a), Ok(b)) = (new.typed::<Pod>(), old.typed::<Pod>()) else { return true };
    let facts = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            pod::is_ready(pod),
            pod::is_terminal(pod),
            pod::node_name(pod).to_owned(),
            pod.status.as_ref().and_then(|status| status.pod_ips.clone()),
            spec.and_then(|spec| spec.hostname.clone()),
            spec.and_then(|spec| spec.subdomain.clone()),
        )
    };
    new.meta.labels != old.meta.labels || new.meta.is_deleting() != old.meta.is_deleting() || facts(&a) != facts(&b)
}

/// Addresses of a pod in one family.
pub fn addresses(pod: &Pod, v6: bool) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut all: Vec<String> = status.pod_ips.iter().flatten().map(|entry| entry.ip.clone()).collect();
    if all.is_empty() {
        all.extend(status.pod_ip.clone());
    }
    all.retain(|address| !address.is_empty() && address.contains(':') == v6);
    all
}

/// Pods that belong into the endpoints of a service: selected, with an address,
/// not ended. `terminating` says whether pods being deleted count.
pub fn pods(service: &Seen<Service>, selector: &Selector, terminating: bool, world: &Snapshot) -> Vec<Seen<Pod>> {
    let mut pods: Vec<Seen<Pod>> = seen::list::<Pod>(world, Some(service.namespace()));
    pods.retain(|pod| {
        selector.matches(&pod.meta().labels)
            && !pod::is_terminal(&pod.typed)
            && (terminating || !pod.is_deleting())
            && !(addresses(&pod.typed, false).is_empty() && addresses(&pod.typed, true).is_empty())
    });
    pods
}

/// The number behind a service port in a pod; named ports are looked up in its containers.
pub fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = protocol(port.protocol.as_deref());
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let found =
        ports.find(|have| have.name.as_ref() == Some(name) && self::protocol(have.protocol.as_deref()) == protocol);
    found.map(|port| port.container_port)
}

pub fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

pub fn target_reference(pod: &Seen<Pod>) -> Value {
    json!({"kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()})
}

/// The pod's host name within a headless service, if it asks for one.
pub fn hostname<'a>(pod: &'a Pod, service: &Seen<Service>) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.as_deref() == Some(service.name())).then_some(hostname)
}

/// When the newest cause of the present endpoints happened: a pod's readiness, or the service itself.
pub fn trigger_time(service: &Seen<Service>, pods: &[Seen<Pod>]) -> Option<String> {
    let created = service.meta().creation_timestamp.clone();
    let changed = pods.iter().filter_map(|pod| {
        let condition = pod::condition(&pod.typed, "Ready")?;
        condition.last_transition_time.as_ref().map(|time| crate::write::time(time.0))
    });
    changed.chain(created).max()
}
