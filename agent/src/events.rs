//! Events about pods, containers and the node.

use k8s_openapi::api::core::v1::Pod;
use skiff_api::{ObjectReference, Uid};
use skiff_client::{EventRecord, EventType};

use crate::pods::spec;

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        name: spec::name(pod).to_owned(),
        uid: Uid(spec::uid(pod).to_owned()),
        resource_version: pod.metadata.resource_version.clone().unwrap_or_default(),
        field_path: String::new(),
    }
}

/// An event about a whole pod.
pub fn pod(pod: &Pod, event_type: EventType, reason: &str, message: impl Into<String>) -> EventRecord {
    EventRecord { regarding: reference(pod), event_type, reason: reason.to_owned(), message: message.into() }
}

/// An event about one container of a pod.
pub fn container(
    pod: &Pod,
    name: &str,
    event_type: EventType,
    reason: &str,
    message: impl Into<String>,
) -> EventRecord {
    let list = match spec::find_container(pod, name) {
        Some((spec::ContainerKind::Init, _)) => "initContainers",
        Some((spec::ContainerKind::Ephemeral, _)) => "ephemeralContainers",
        _ => "containers",
    };
    let mut record = self::pod(pod, event_type, reason, message);
    record.regarding.field_path = format!("spec.{list}{{{name}}}");
    record
}

/// An event about the node.
pub fn node(name: &str, uid: &str, event_type: EventType, reason: &str, message: impl Into<String>) -> EventRecord {
    let regarding = ObjectReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: Uid(uid.to_owned()),
        ..ObjectReference::default()
    };
    EventRecord { regarding, event_type, reason: reason.to_owned(), message: message.into() }
}
