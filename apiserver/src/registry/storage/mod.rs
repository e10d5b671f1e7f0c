//! Group `storage.k8s.io`.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, Shown, formats, numbers},
    value::{child, default, default_text, entries, field, list, same, text},
};

/// StorageClasses.
pub struct StorageClassStrategy;

impl Strategy for StorageClassStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        default_text(object, "reclaimPolicy", "Delete");
        default_text(object, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match text(object, "provisioner") {
            "" => errors.required(&Path::new("provisioner"), ""),
            name => errors.invalid_all(&Path::new("provisioner"), name, formats::qualified_name(&name.to_lowercase())),
        }
        let parameters = Path::new("parameters");
        for (key, _) in entries(object, "parameters") {
            if key.is_empty() {
                errors.invalid(&parameters, "", "field can not be empty.");
            }
        }
        errors.one_of(&Path::new("reclaimPolicy"), text(object, "reclaimPolicy"), &["Delete", "Retain"]);
        errors.one_of(
            &Path::new("volumeBindingMode"),
            text(object, "volumeBindingMode"),
            &["Immediate", "WaitForFirstConsumer"],
        );
        if let Operation::Update { old } = op {
            for name in ["parameters", "provisioner", "reclaimPolicy"] {
                if !same(object, old, name) {
                    errors.forbidden(&Path::new(name), format!("updates to {name} are forbidden."));
                }
            }
            errors.immutable(&Path::new("volumeBindingMode"), &object["volumeBindingMode"], &old["volumeBindingMode"]);
        }
        errors.into_causes()
    }
}

/// CSIDrivers.
pub struct CsiDriverStrategy;

impl Strategy for CsiDriverStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "attachRequired", true);
        default(spec, "podInfoOnMount", false);
        default(spec, "storageCapacity", false);
        default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        default(spec, "requiresRepublish", false);
        default(spec, "seLinuxMount", false);
        if list(spec, "volumeLifecycleModes").is_empty() {
            super::value::set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        if let Some(policy) = field(spec, "fsGroupPolicy").and_then(Value::as_str) {
            errors.one_of(&path.child("fsGroupPolicy"), policy, &["File", "None", "ReadWriteOnceWithFSType"]);
        }
        let modes = path.child("volumeLifecycleModes");
        for mode in list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str) {
            errors.one_of(&modes, mode, &["Ephemeral", "Persistent"]);
        }
        if let Operation::Update { old } = op {
            for name in ["attachRequired", "volumeLifecycleModes"] {
                errors.immutable(&path.child(name), &spec[name], &old["spec"][name]);
            }
        }
        errors.into_causes()
    }
}

/// CSINodes: what drivers say about a node.
pub struct CsiNodeStrategy;

impl Strategy for CsiNodeStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let drivers_path = path.child("drivers");
        let drivers = list(&object["spec"], "drivers");
        for (i, driver) in drivers.iter().enumerate() {
            let path = drivers_path.index(i);
            for name in ["name", "nodeID"] {
                if text(driver, name).is_empty() {
                    errors.required(&path.child(name), "");
                }
            }
            if drivers[..i].iter().any(|other| text(other, "name") == text(driver, "name")) {
                errors.duplicate(&path.child("name"), text(driver, "name"));
            }
        }
        if let Operation::Update { old } = op {
            for old in list(&old["spec"], "drivers") {
                let driver = drivers.iter().find(|driver| text(driver, "name") == text(old, "name"));
                if let Some(driver) = driver.filter(|driver| !is_same_driver(driver, old)) {
                    let shown = [("Name", &driver["name"]), ("NodeID", &driver["nodeID"])];
                    let allocatable = field(driver, "allocatable");
                    let allocatable = allocatable.map_or(Value::Null, |limit| json!({"Count": limit["count"]}));
                    let rest = [("TopologyKeys", &driver["topologyKeys"]), ("Allocatable", &allocatable)];
                    let shown = [shown, rest].concat();
                    errors.invalid(&Path::new("CSINodeDriver"), Shown::Structure(&shown), "field is immutable");
                }
            }
        }
        errors.into_causes()
    }
}

/// What a driver said of itself stays; how many volumes it takes may be corrected.
fn is_same_driver(new: &Value, old: &Value) -> bool {
    same(new, old, "nodeID") && same(new, old, "topologyKeys")
}

/// VolumeAttachments: `spec` never changes.
pub struct VolumeAttachmentStrategy;

impl Strategy for VolumeAttachmentStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        for name in ["attacher", "nodeName"] {
            if text(&object["spec"], name).is_empty() {
                errors.required(&path.child(name), "");
            }
        }
        if let Operation::Update { old } = op {
            errors.immutable(&path, &object["spec"], &old["spec"]);
        }
        errors.into_causes()
    }
}

/// VolumeAttributesClasses: driver and parameters never change.
pub struct VolumeAttributesClassStrategy;

impl Strategy for VolumeAttributesClassStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if text(object, "driverName").is_empty() {
            errors.required(&Path::new("driverName"), "");
        }
        if entries(object, "parameters").next().is_none() {
            errors.required(&Path::new("parameters"), "must contain at least one key/value pair");
        }
        if let Operation::Update { old } = op {
            for name in ["driverName", "parameters"] {
                if !same(object, old, name) {
                    errors.forbidden(&Path::new(name), format!("updates to {name} are forbidden."));
                }
            }
        }
        errors.into_causes()
    }
}

/// CSIStorageCapacities: of which class and where never changes.
pub struct CsiStorageCapacityStrategy;

impl Strategy for CsiStorageCapacityStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let class = Path::new("storageClassName");
        match text(object, "storageClassName") {
            "" => errors.required(&class, ""),
            name => errors.invalid_all(&class, name, formats::dns_subdomain(name)),
        }
        for name in ["capacity", "maximumVolumeSize"] {
            if field(object, name).is_some() {
                let path = Path::new(name);
                if numbers::quantity(&mut errors, &path, &object[name]).is_some_and(|quantity| quantity.is_negative()) {
                    errors.invalid(&path, &object[name], "must be greater than or equal to 0");
                }
            }
        }
        if let Operation::Update { old } = op {
            for name in ["nodeTopology", "storageClassName"] {
                errors.immutable(&Path::new(name), &object[name], &old[name]);
            }
        }
        errors.into_causes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};

    #[test]
    fn storage_classes_are_completed_and_fixed() {
        let class = |name: &str| json!({"provisioner": name});
        let made = made(&StorageClassStrategy, class("example.com/x"));
        assert_eq!((&made["reclaimPolicy"], &made["volumeBindingMode"]), (&json!("Delete"), &json!("Immediate")));
        assert_eq!(wrong(&StorageClassStrategy, json!({})), ["provisioner: Required value"]);
        assert_eq!(
            wrong_update(&StorageClassStrategy, class("b.example/x"), class("a.example/x")),
            ["provisioner: Forbidden: updates to provisioner are forbidden."]
        );
    }

    #[test]
    fn drivers_nodes_and_attachments() {
        let driver = made(&CsiDriverStrategy, json!({}));
        assert_eq!(
            (&driver["spec"]["attachRequired"], &driver["spec"]["volumeLifecycleModes"]),
            (&json!(true), &json!(["Persistent"]))
        );
        assert_eq!(
            wrong(&CsiNodeStrategy, json!({"spec": {"drivers": [{"name": "d"}]}})),
            ["spec.drivers[0].nodeID: Required value"]
        );
        assert_eq!(
            wrong(&VolumeAttachmentStrategy, json!({"spec": {"attacher": "a"}})),
            ["spec.nodeName: Required value"]
        );
        assert_eq!(wrong(&VolumeAttributesClassStrategy, json!({"driverName": "d"})).len(), 1);
        let capacity = |class: &str, size: &str| json!({"storageClassName": class, "capacity": size});
        assert_eq!(
            wrong_update(&CsiStorageCapacityStrategy, capacity("b", "1Gi"), capacity("a", "1Gi")),
            ["storageClassName: Invalid value: \"b\": field is immutable"]
        );
        assert_eq!(wrong(&CsiStorageCapacityStrategy, capacity("a", "-1")).len(), 1);
    }
}
