//! Builds the operations that reconcilers put into outcomes.

use jiff::Timestamp;
use k8s_openapi::Resource;
use serde_json::{Value, json};
use skiff_api::{GroupVersionResource, Object};
use skiff_client::{DeleteOptions, EventRecord, EventType, Operation, Patch};

/// The namespace of an object as requests need it.
pub fn namespace_of(object: &Object) -> Option<String> {
    (!object.meta.namespace.is_empty()).then(|| object.meta.namespace.clone())
}

pub fn create<K: Resource>(namespace: &str, body: Value) -> Operation {
    let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
    Operation::Create { resource: GroupVersionResource::of::<K>(), namespace, body }
}

/// Replaces an object; `body` keeps the resourceVersion it was read with, so a concurrent change is a conflict.
pub fn update<K: Resource>(object: &Object, body: Value) -> Operation {
    put::<K>(object, None, body)
}

pub fn update_status<K: Resource>(object: &Object, body: Value) -> Operation {
    put::<K>(object, Some("status"), body)
}

fn put<K: Resource>(object: &Object, subresource: Option<&'static str>, body: Value) -> Operation {
    Operation::Update {
        resource: GroupVersionResource::of::<K>(),
        namespace: namespace_of(object),
        name: object.meta.name.clone(),
        subresource,
        body,
    }
}

/// The object with another status, ready for [`update_status`]; `None` when
/// nothing would change or the object does not decode.
pub fn with_status(object: &Object, status: Value) -> Option<Value> {
    let mut value = object.value().ok()?;
    if value.get("status") == Some(&status) {
        return None;
    }
    value["status"] = status;
    Some(value)
}

pub fn strategic<K: Resource>(object: &Object, subresource: Option<&'static str>, body: Value) -> Operation {
    patch_of(GroupVersionResource::of::<K>(), object, subresource, Patch::Strategic(body))
}

pub fn merge<K: Resource>(object: &Object, subresource: Option<&'static str>, body: Value) -> Operation {
    patch_of(GroupVersionResource::of::<K>(), object, subresource, Patch::Merge(body))
}

pub fn patch_of(
    resource: GroupVersionResource,
    object: &Object,
    subresource: Option<&'static str>,
    patch: Patch,
) -> Operation {
    let (namespace, name) = (namespace_of(object), object.meta.name.clone());
    Operation::Patch { resource, namespace, name, subresource, patch }
}

/// Deletes exactly this object, not a later one of the same name.
pub fn delete<K: Resource>(object: &Object) -> Operation {
    delete_with::<K>(object, DeleteOptions::with_uid(&object.meta.uid))
}

pub fn delete_with<K: Resource>(object: &Object, options: DeleteOptions) -> Operation {
    Operation::Delete {
        resource: GroupVersionResource::of::<K>(),
        namespace: namespace_of(object),
        name: object.meta.name.clone(),
        options,
    }
}

pub fn normal(object: &Object, reason: &str, message: impl Into<String>) -> EventRecord {
    event(object, EventType::Normal, reason, message.into())
}

pub fn warning(object: &Object, reason: &str, message: impl Into<String>) -> EventRecord {
    event(object, EventType::Warning, reason, message.into())
}

fn event(object: &Object, event_type: EventType, reason: &str, message: String) -> EventRecord {
    EventRecord { regarding: object.reference(), event_type, reason: reason.to_owned(), message }
}

/// Time as the API writes it.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads a time of the API.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// A reference that makes `owner` the controller of another object.
pub fn controller_reference(owner: &Object) -> Value {
    json!({
        "apiVersion": owner.api_version(),
        "kind": owner.kind(),
        "name": owner.meta.name,
        "uid": owner.meta.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}
