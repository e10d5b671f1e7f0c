//! Volumes and devices.

use super::build::{Describe, row};
use crate::resource::Resource;

pub(super) fn rows() -> Vec<Resource> {
    let storage = |kind, plural| row("storage.k8s.io", "v1", kind, plural);
    let resource = |kind, plural| row("resource.k8s.io", "v1", kind, plural);
    vec![
        storage("CSIDriver", "csidrivers").cluster().conditional_update(),
        storage("CSINode", "csinodes").cluster().conditional_update(),
        storage("CSIStorageCapacity", "csistoragecapacities").conditional_update(),
        storage("StorageClass", "storageclasses").cluster().short(&["sc"]),
        storage("VolumeAttachment", "volumeattachments").cluster().status().conditional_update(),
        storage("VolumeAttributesClass", "volumeattributesclasses").cluster().short(&["vac"]),
        resource("DeviceClass", "deviceclasses").cluster(),
        resource("DeviceTaintRule", "devicetaintrules").cluster().status(),
        resource("ResourceClaim", "resourceclaims").status(),
        resource("ResourceClaimTemplate", "resourceclaimtemplates"),
        resource("ResourceSlice", "resourceslices").cluster().select("spec.nodeName").select("spec.driver"),
        row("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations")
            .cluster()
            .status()
            .conditional_update(),
    ]
}
