//! Tables of volumes, classes, drivers and devices.

use serde_json::Value;

use super::{Refine, age, computed, count, flag, items, name, str_at, text};
use crate::resource::Column;

pub(crate) fn volumes() -> Vec<Column> {
    vec![
        name(),
        text("Capacity", "/spec/capacity/storage"),
        computed("Access Modes", |volume, _| access_modes(items(volume, "/spec/accessModes")).into()),
        text("Reclaim Policy", "/spec/persistentVolumeReclaimPolicy"),
        computed("Status", |volume, _| phase(volume).into()),
        computed("Claim", |volume, _| {
            let name = str_at(volume, "/spec/claimRef/name");
            if name.is_empty() {
                "".into()
            } else {
                format!("{}/{name}", str_at(volume, "/spec/claimRef/namespace")).into()
            }
        }),
        computed("StorageClass", |volume, _| class(volume).into()),
        text("VolumeAttributesClass", "/spec/volumeAttributesClassName").or("<unset>"),
        text("Reason", "/status/reason"),
        age(),
        text("VolumeMode", "/spec/volumeMode").or("<unset>").wide(),
    ]
}

pub(crate) fn claims() -> Vec<Column> {
    vec![
        name(),
        computed("Status", |claim, _| phase(claim).into()),
        text("Volume", "/spec/volumeName"),
        computed("Capacity", |claim, _| {
            let bound = !str_at(claim, "/spec/volumeName").is_empty();
            if bound { str_at(claim, "/status/capacity/storage").into() } else { "".into() }
        }),
        computed("Access Modes", |claim, _| {
            let bound = !str_at(claim, "/spec/volumeName").is_empty();
            if bound { access_modes(items(claim, "/status/accessModes")).into() } else { "".into() }
        }),
        computed("StorageClass", |claim, _| class(claim).into()),
        text("VolumeAttributesClass", "/spec/volumeAttributesClassName").or("<unset>"),
        age(),
        text("VolumeMode", "/spec/volumeMode").or("<unset>").wide(),
    ]
}

fn phase(object: &Value) -> &str {
    let deleting = !str_at(object, "/metadata/deletionTimestamp").is_empty();
    if deleting { "Terminating" } else { str_at(object, "/status/phase") }
}

/// The old annotation wins over the field, as in upstream.
fn class(object: &Value) -> &str {
    let annotation = object.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    annotation.and_then(Value::as_str).unwrap_or_else(|| str_at(object, "/spec/storageClassName"))
}

fn access_modes(modes: &[Value]) -> String {
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let present = known.into_iter().filter(|(mode, _)| modes.iter().any(|have| have == mode));
    present.map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

pub(crate) fn storage_classes() -> Vec<Column> {
    vec![
        Column { source: crate::resource::ColumnSource::Computed(|class, _| default_marked(class)), ..name() },
        text("Provisioner", "/provisioner"),
        text("ReclaimPolicy", "/reclaimPolicy").or("Delete"),
        text("VolumeBindingMode", "/volumeBindingMode").or("Immediate"),
        flag("AllowVolumeExpansion", "/allowVolumeExpansion"),
        age(),
    ]
}

/// The name of the default class carries a note.
fn default_marked(class: &Value) -> Value {
    let keys = ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"];
    let is_default = keys.iter().any(|key| str_at(class, &format!("/metadata/annotations/{key}")) == "true");
    let name = str_at(class, "/metadata/name");
    if is_default { format!("{name} (default)").into() } else { name.into() }
}

pub(crate) fn attributes_classes() -> Vec<Column> {
    vec![name(), text("DriverName", "/driverName"), age()]
}

pub(crate) fn attachments() -> Vec<Column> {
    vec![
        name(),
        text("Attacher", "/spec/attacher"),
        text("PV", "/spec/source/persistentVolumeName"),
        text("Node", "/spec/nodeName"),
        flag("Attached", "/status/attached"),
        age(),
    ]
}

pub(crate) fn csi_drivers() -> Vec<Column> {
    vec![
        name(),
        Column { absent: Value::Bool(true), ..flag("AttachRequired", "/spec/attachRequired") },
        flag("PodInfoOnMount", "/spec/podInfoOnMount"),
        flag("StorageCapacity", "/spec/storageCapacity"),
        computed("TokenRequests", |driver, _| {
            let audiences = items(driver, "/spec/tokenRequests").iter().map(|request| str_at(request, "/audience"));
            audiences.collect::<Vec<_>>().join(",").into()
        })
        .or("<unset>"),
        flag("RequiresRepublish", "/spec/requiresRepublish"),
        computed("Modes", |driver, _| {
            let modes = items(driver, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str);
            modes.collect::<Vec<_>>().join(",").into()
        })
        .or("<none>"),
        age(),
    ]
}

pub(crate) fn csi_nodes() -> Vec<Column> {
    vec![name(), count("Drivers", |node, _| items(node, "/spec/drivers").len().into()), age()]
}

pub(crate) fn csi_capacities() -> Vec<Column> {
    vec![name(), text("StorageClassName", "/storageClassName"), text("Capacity", "/capacity").or("<unset>")]
}

pub(crate) fn resource_claims() -> Vec<Column> {
    vec![name(), computed("State", |claim, _| claim_state(claim).into()), age()]
}

fn claim_state(claim: &Value) -> String {
    let mut states = Vec::new();
    if !str_at(claim, "/metadata/deletionTimestamp").is_empty() {
        states.push("deleted");
    }
    if claim.pointer("/status/allocation").is_none() {
        if claim.pointer("/metadata/deletionTimestamp").is_none() {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        states.push(if items(claim, "/status/reservedFor").is_empty() { "" } else { "reserved" });
    }
    states.retain(|state| !state.is_empty());
    states.join(",")
}

/// Name and age.
pub(crate) fn aged() -> Vec<Column> {
    vec![name(), age()]
}

pub(crate) fn migrations() -> Vec<Column> {
    let resource = |migration: &Value, _| {
        let part = |name: &str| str_at(migration, &format!("/spec/resource/{name}")).to_owned();
        match part("group").as_str() {
            "" => part("resource").into(),
            group => format!("{}.{group}", part("resource")).into(),
        }
    };
    vec![name(), computed("Resource", resource).about("Fully qualified resource to migrate")]
}

pub(crate) fn resource_slices() -> Vec<Column> {
    vec![name(), text("Node", "/spec/nodeName"), text("Driver", "/spec/driver"), text("Pool", "/spec/pool/name"), age()]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{meta, row};
    use serde_json::json;

    #[test]
    fn volumes_and_claims_show_their_binding() {
        let volume = json!({"metadata": meta("v"), "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete", "claimRef": {"namespace": "n", "name": "c"}, "storageClassName": "local"},
            "status": {"phase": "Bound"}});
        assert_eq!(
            row("", "v1", "persistentvolumes", volume),
            ["v", "1Gi", "RWO,RWX", "Delete", "Bound", "n/c", "local", "<unset>", "", "60s", "<unset>"]
        );
        let claim = json!({"metadata": meta("c"), "spec": {"volumeName": "v"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
        assert_eq!(row("", "v1", "persistentvolumeclaims", claim)[..6], ["c", "Bound", "v", "1Gi", "RWO", ""]);
        let pending = json!({"metadata": meta("c"), "spec": {}, "status": {"phase": "Pending"}});
        assert_eq!(row("", "v1", "persistentvolumeclaims", pending)[1..4], ["Pending", "", ""]);
    }

    #[test]
    fn the_default_class_is_marked() {
        let mut class = json!({"metadata": meta("s"), "provisioner": "p"});
        assert_eq!(
            row("storage.k8s.io", "v1", "storageclasses", class.clone()),
            ["s", "p", "Delete", "Immediate", "false", "60s"]
        );
        class["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        assert_eq!(row("storage.k8s.io", "v1", "storageclasses", class)[0], "s (default)");
    }
}
