//! PersistentVolumes.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{
    persistent_volume_claim::access_modes,
    pod::{defaults::network_volume, scheduling, volumes},
};
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats, numbers},
    value::{child, default, default_text, entries, existing, field, list, set, text},
};

/// Fields of `spec` that are not volume sources.
const NOT_SOURCES: [&str; 9] = [
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

pub struct PersistentVolumeStrategy;

impl Strategy for PersistentVolumeStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        if let Some(host_path) = existing(spec, "hostPath") {
            default(host_path, "type", "");
        }
        network_volume(spec);
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(object, "status", json!({"phase": "Pending"}));
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match op {
            Operation::Create => spec(&mut errors, &object["spec"]),
            Operation::Update { old } => {
                spec(&mut errors, &object["spec"]);
                update(&mut errors, &object["spec"], &old["spec"]);
            }
            _ => {}
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    access_modes(errors, &path.child("accessModes"), spec);
    let capacity = path.child("capacity");
    if entries(spec, "capacity").next().is_none() {
        errors.required(&capacity, "");
    } else if field(&spec["capacity"], "storage").is_none() || entries(spec, "capacity").count() > 1 {
        errors.not_supported(&capacity, &spec["capacity"], &["storage"]);
    }
    for (name, quantity) in entries(spec, "capacity") {
        if let Some(parsed) = numbers::quantity(errors, &capacity.key(name), quantity)
            && parsed <= skiff_api::Quantity::ZERO
        {
            errors.invalid(&capacity.key(name), quantity, "must be greater than zero");
        }
    }
    errors.one_of(
        &path.child("persistentVolumeReclaimPolicy"),
        text(spec, "persistentVolumeReclaimPolicy"),
        &["Delete", "Recycle", "Retain"],
    );
    let mut given = 0;
    for (kind, source) in spec.as_object().into_iter().flatten() {
        if NOT_SOURCES.contains(&kind.as_str()) || source.is_null() {
            continue;
        }
        given += 1;
        if given > 1 {
            errors.forbidden(&path.child(kind), "may not specify more than 1 volume type");
        } else {
            volumes::persistent_source(errors, &path.child(kind), kind, source);
        }
    }
    if given == 0 {
        errors.required(&path, "must specify a volume type");
    }
    if field(spec, "local").is_some() {
        volumes::need(errors, &path.child("local"), &spec["local"], &["path"]);
        if spec["nodeAffinity"]["required"].is_null() {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if let Some(required) = field(&spec["nodeAffinity"], "required") {
        scheduling::node_selector(errors, &path.child("nodeAffinity").child("required"), required);
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        errors.invalid_all(&path.child("storageClassName"), class, formats::dns_subdomain(class));
    }
    if let Some(mode) = field(spec, "volumeMode").and_then(Value::as_str) {
        errors.one_of(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let source = |spec: &Value| {
        let mut map = spec.as_object().cloned().unwrap_or_default();
        map.retain(|key, value| !NOT_SOURCES.contains(&key.as_str()) && !value.is_null());
        Value::Object(map)
    };
    if source(new) != source(old) {
        errors.forbidden(
            &path.child("persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    errors.immutable(&path.child("volumeMode"), &new["volumeMode"], &old["volumeMode"]);
    if !list(&old["nodeAffinity"]["required"], "nodeSelectorTerms").is_empty()
        && new["nodeAffinity"] != old["nodeAffinity"]
    {
        errors.invalid(
            &path.child("nodeAffinity"),
            &new["nodeAffinity"],
            "field is immutable, except for updating from beta label to GA",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};

    fn volume(path: &str) -> Value {
        json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": path}}})
    }

    #[test]
    fn a_volume_is_completed() {
        let object = made(&PersistentVolumeStrategy, volume("/a"));
        assert_eq!(object["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(object["spec"]["hostPath"], json!({"path": "/a", "type": ""}));
        assert_eq!(object["status"], json!({"phase": "Pending"}));
        assert!(wrong(&PersistentVolumeStrategy, volume("/a")).is_empty());
    }

    #[test]
    fn a_volume_has_one_source_which_stays() {
        assert_eq!(
            wrong(
                &PersistentVolumeStrategy,
                json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}})
            ),
            ["spec: Required value: must specify a volume type"]
        );
        assert_eq!(
            wrong_update(&PersistentVolumeStrategy, volume("/b"), volume("/a")),
            ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
        );
    }
}
