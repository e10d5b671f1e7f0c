//! Kinds of storage without a driver: their API.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{core, name},
    context::Context,
    operations::{Operations, contains, three, unique},
    pods::{pause, pod, with},
};

crate::rows! { "storage";
    "CSIInlineVolumes" {
        "should run through the lifecycle of a CSIDriver" => csi_driver,
        "should support CSIVolumeSource in Pod API" => csi_volume_source,
    }
    "CSINodes CSI Conformance" {
        "should run through the lifecycle of a csinode" => csi_node,
    }
    "CSIStorageCapacity" {
        "should support CSIStorageCapacities API operations" => csi_storage_capacity,
    }
    "PersistentVolumes CSI Conformance" {
        "should apply changes to a pv/pvc status" => volume_status,
        "should run through the lifecycle of a PV and a PVC" => volume_lifecycle,
    }
    "StorageClasses CSI Conformance" {
        "should run through the lifecycle of a StorageClass" => storage_class,
    }
    "VolumeAttachment Conformance" {
        "should apply changes to a volumeattachment status" => |c| attachment(c, true),
        "should run through the lifecycle of a VolumeAttachment" => |c| attachment(c, false),
    }
    "VolumeAttributesClass" {
        "should run through the lifecycle of a VolumeAttributesClass" => attributes_class,
    }
}

/// A cluster-scoped kind of storage.k8s.io/v1.
async fn cluster_wide(
    context: &Context,
    kind: &'static str,
    plural: &'static str,
    body: Value,
    status: Option<Value>,
) -> Result<()> {
    let version = "storage.k8s.io/v1";
    Operations { version, kind, plural, namespace: None, objects: three(&body), status }.run(context).await
}

async fn csi_driver(context: Context) -> Result<()> {
    let body =
        json!({"spec": {"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"]}});
    cluster_wide(&context, "CSIDriver", "csidrivers", body, None).await
}

async fn csi_node(context: Context) -> Result<()> {
    let body = json!({"spec": {"drivers": [{"name": "d.example.com", "nodeID": "n", "topologyKeys": ["zone"]}]}});
    cluster_wide(&context, "CSINode", "csinodes", body, None).await
}

async fn storage_class(context: Context) -> Result<()> {
    let body = json!({"provisioner": "e2e-fake-provisioner", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster_wide(&context, "StorageClass", "storageclasses", body, None).await
}

async fn attributes_class(context: Context) -> Result<()> {
    let body = json!({"driverName": "e2e-fake-driver", "parameters": {"iops": "100"}});
    cluster_wide(&context, "VolumeAttributesClass", "volumeattributesclasses", body, None).await
}

async fn attachment(context: Context, status: bool) -> Result<()> {
    let node = context.nodes().await?;
    let body = json!({"spec": {"attacher": "e2e.example.com", "nodeName": name(&node[0]),
        "source": {"persistentVolumeName": "no-such-volume"}}});
    let status = status.then(|| json!({"attached": true}));
    cluster_wide(&context, "VolumeAttachment", "volumeattachments", body, status).await
}

async fn csi_storage_capacity(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(&json!({"storageClassName": "some-class", "capacity": "1Gi"}));
    let (version, kind, plural) = ("storage.k8s.io/v1", "CSIStorageCapacity", "csistoragecapacities");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn csi_volume_source(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let volume = json!({"name": "inline", "csi": {"driver": "no-such.example.com", "readOnly": true,
        "volumeAttributes": {"size": "1"}}});
    let pod =
        with(pod("inline", &[pause(&context)]), json!({"spec": {"volumes": [volume], "nodeSelector": {"no": "node"}}}));
    context.create_pod(&namespace, &pod).await?;
    let path = format!("{}/inline", core(&namespace, "pods"));
    let read = context.get(&path).await?;
    contains(&read["spec"]["volumes"], &json!([volume]))?;
    context.merge(&path, json!({"metadata": {"labels": {"patched": "yes"}}})).await?;
    let listed = context.list(&format!("{}?labelSelector=patched=yes", core(&namespace, "pods"))).await?;
    ensure!(listed.len() == 1, "the list has {}", listed.len());
    context.delete_now(&path).await?;
    context.until_gone(&path).await
}

fn volume(claim: Value) -> Value {
    json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "e2e.example.com", "volumeHandle": "h"}, "storageClassName": "no-class",
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": claim}})
}

fn claim() -> Value {
    json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "no-such-class",
        "resources": {"requests": {"storage": "1Gi"}}}})
}

async fn volume_lifecycle(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let objects = three(&volume(Value::Null));
    let (version, kind, plural) = ("v1", "PersistentVolume", "persistentvolumes");
    Operations { version, kind, plural, namespace: None, objects, status: None }.run(&context).await?;
    let (kind, plural) = ("PersistentVolumeClaim", "persistentvolumeclaims");
    let objects = three(&claim());
    Operations { version, kind, plural, namespace: Some(namespace), objects, status: None }.run(&context).await
}

async fn volume_status(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let suffix = unique();
    let pairs = [
        (
            "/api/v1/persistentvolumes".to_owned(),
            with(volume(Value::Null), json!({"metadata": {"name": format!("e2e-{suffix}")}})),
        ),
        (core(&namespace, "persistentvolumeclaims"), with(claim(), json!({"metadata": {"name": "claim"}}))),
    ];
    for (collection, object) in pairs {
        let path = format!("{collection}/{}", name(&object));
        context.leftover(&path);
        context.create(&collection, &object).await?;
        let at = format!("{path}/status");
        let is_volume = object["spec"]["capacity"].is_object();
        let status = if is_volume {
            json!({"message": "StatusPatched", "reason": "E2E patchStatus"})
        } else {
            json!({"conditions": [{"type": "StatusPatched", "status": "True", "reason": "E2E patchStatus", "message": "Set by e2e test"}]})
        };
        let patched = context.merge(&at, json!({"status": status})).await?;
        contains(&patched["status"], &status)?;
        let read = context.get(&at).await?;
        contains(&read["status"], &status)?;
        let update = if is_volume {
            json!({"message": "StatusUpdated", "reason": "E2E updateStatus"})
        } else {
            json!({"conditions": [{"type": "StatusUpdated", "status": "True", "reason": "E2E updateStatus", "message": "Set by e2e test"}]})
        };
        let written = context.modify_at(&path, &at, |object| crate::api::merge(&mut object["status"], &update)).await?;
        contains(&written["status"], &update)?;
        context.delete(&path).await?;
        context.until_gone(&path).await?;
    }
    Ok(())
}
