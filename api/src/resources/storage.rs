//! Volumes and devices.

use super::build::{Describe, row};
use crate::{printers::storage, resource::Resource};

pub(super) fn rows() -> Vec<Resource> {
    let group = |kind, plural| row("storage.k8s.io", "v1", kind, plural);
    let resource = |kind, plural| row("resource.k8s.io", "v1", kind, plural);
    vec![
        group("CSIDriver", "csidrivers").columns(storage::csi_drivers()).cluster().conditional_update(),
        group("CSINode", "csinodes").columns(storage::csi_nodes()).cluster().conditional_update(),
        group("CSIStorageCapacity", "csistoragecapacities").columns(storage::csi_capacities()).conditional_update(),
        group("StorageClass", "storageclasses").columns(storage::storage_classes()).cluster().short(&["sc"]),
        group("VolumeAttachment", "volumeattachments")
            .columns(storage::attachments())
            .cluster()
            .status()
            .conditional_update(),
        group("VolumeAttributesClass", "volumeattributesclasses")
            .columns(storage::attributes_classes())
            .cluster()
            .short(&["vac"]),
        resource("DeviceClass", "deviceclasses").columns(storage::aged()).cluster(),
        resource("DeviceTaintRule", "devicetaintrules").columns(storage::aged()).cluster().status(),
        resource("ResourceClaim", "resourceclaims").columns(storage::resource_claims()).status(),
        resource("ResourceClaimTemplate", "resourceclaimtemplates").columns(storage::aged()),
        resource("ResourceSlice", "resourceslices")
            .columns(storage::resource_slices())
            .cluster()
            .select("spec.nodeName")
            .select("spec.driver"),
        row("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations")
            .columns(storage::migrations())
            .cluster()
            .status()
            .conditional_update(),
    ]
}
