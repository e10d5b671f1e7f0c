//! Validation of volumes: one source each, and what every source needs.

use serde_json::Value;

use super::containers::{field_ref, local_path, no_backsteps, resource_field_ref};
use crate::registry::{
    validation::{Errors, Path, formats, numbers},
    value::{field, int, list, text},
};

const DOWNWARD_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks `spec.volumes` and returns the declared names.
pub fn all<'a>(errors: &mut Errors, path: &Path<'_>, spec: &'a Value) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.index(i);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            let messages = formats::dns_label(name);
            if messages.is_empty() && names.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            }
            errors.invalid_all(&path.child("name"), name, messages);
        }
        names.push(name);
        source(errors, &path, volume);
    }
    names
}

fn source(errors: &mut Errors, path: &Path<'_>, volume: &Value) {
    let mut given = 0;
    for (kind, source) in volume.as_object().into_iter().flatten() {
        if kind == "name" || source.is_null() {
            continue;
        }
        given += 1;
        let path = path.child(kind);
        if given > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
        } else {
            one(errors, &path, kind, source);
        }
    }
    if given == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn one(errors: &mut Errors, path: &Path<'_>, kind: &str, source: &Value) {
    match kind {
        "emptyDir" => numbers_of_empty_dir(errors, path, source),
        "hostPath" => host_path(errors, path, source),
        "secret" => {
            need(errors, path, source, &["secretName"]);
            mode(errors, &path.child("defaultMode"), source);
            key_to_path(errors, &path.child("items"), list(source, "items"));
        }
        "configMap" => {
            need(errors, path, source, &["name"]);
            mode(errors, &path.child("defaultMode"), source);
            key_to_path(errors, &path.child("items"), list(source, "items"));
        }
        "downwardAPI" => {
            mode(errors, &path.child("defaultMode"), source);
            downward_items(errors, path, source);
        }
        "projected" => projected(errors, path, source),
        "persistentVolumeClaim" => need(errors, path, source, &["claimName"]),
        "ephemeral" => ephemeral(errors, path, source),
        other => persistent_source(errors, path, other, source),
    }
}

/// Sources that volumes share with persistent volumes.
pub fn persistent_source(errors: &mut Errors, path: &Path<'_>, kind: &str, source: &Value) {
    match kind {
        "hostPath" => host_path(errors, path, source),
        "nfs" => {
            need(errors, path, source, &["server", "path"]);
            if !text(source, "path").is_empty() && !text(source, "path").starts_with('/') {
                errors.invalid(&path.child("path"), text(source, "path"), "must be an absolute path");
            }
        }
        "csi" => match text(source, "driver") {
            "" => errors.required(&path.child("driver"), ""),
            driver => errors.invalid_all(&path.child("driver"), driver, formats::dns_subdomain(&driver.to_lowercase())),
        },
        "iscsi" => need(errors, path, source, &["targetPortal", "iqn"]),
        "cephfs" if list(source, "monitors").is_empty() => errors.required(&path.child("monitors"), ""),
        "rbd" => {
            if list(source, "monitors").is_empty() {
                errors.required(&path.child("monitors"), "");
            }
            need(errors, path, source, &["image"]);
        }
        "gcePersistentDisk" => need(errors, path, source, &["pdName"]),
        "awsElasticBlockStore" | "cinder" => need(errors, path, source, &["volumeID"]),
        "azureFile" => need(errors, path, source, &["secretName", "shareName"]),
        "azureDisk" => need(errors, path, source, &["diskName", "diskURI"]),
        "vsphereVolume" => need(errors, path, source, &["volumePath"]),
        "glusterfs" => need(errors, path, source, &["endpoints", "path"]),
        "flexVolume" => need(errors, path, source, &["driver"]),
        "flocker" if text(source, "datasetName").is_empty() && text(source, "datasetUUID").is_empty() => {
            errors.required(path, "one of datasetName and datasetUUID is required");
        }
        "photonPersistentDisk" => need(errors, path, source, &["pdID"]),
        "portworxVolume" => need(errors, path, source, &["volumeID"]),
        "quobyte" => need(errors, path, source, &["registry", "volume"]),
        "scaleIO" => need(errors, path, source, &["gateway", "system", "volumeName"]),
        "storageos" => {}
        "gitRepo" => need(errors, path, source, &["repository"]),
        "image" => {
            need(errors, path, source, &["reference"]);
            errors.one_of(&path.child("pullPolicy"), text(source, "pullPolicy"), &["Always", "IfNotPresent", "Never"]);
        }
        _ => {}
    }
}

/// Requires text fields.
pub fn need(errors: &mut Errors, path: &Path<'_>, source: &Value, names: &[&str]) {
    for name in names {
        if text(source, name).is_empty() {
            errors.required(&path.child(name), "");
        }
    }
}

fn numbers_of_empty_dir(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    if let Some(limit) = field(source, "sizeLimit")
        && numbers::parse_quantity(limit).is_none_or(|quantity| quantity < skiff_api::Quantity::ZERO)
    {
        errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    match text(source, "path") {
        "" => errors.required(&path.child("path"), ""),
        value => no_backsteps(errors, &path.child("path"), value),
    }
    let kind = text(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &HOST_PATH_TYPES);
    }
}

fn mode(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    let name = if field(source, "defaultMode").is_some() { "defaultMode" } else { "mode" };
    if let Some(mode) = int(source, name)
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(path, mode, FILE_MODE);
    }
}

fn key_to_path(errors: &mut Errors, path: &Path<'_>, items: &[Value]) {
    for (i, item) in items.iter().enumerate() {
        let path = path.index(i);
        need(errors, &path, item, &["key", "path"]);
        if !text(item, "path").is_empty() {
            volume_file(errors, &path.child("path"), text(item, "path"));
        }
        mode(errors, &path.child("mode"), item);
    }
}

/// The name of a file in an atomically written volume: local, and not hidden like the writer's own links.
fn volume_file(errors: &mut Errors, path: &Path<'_>, value: &str) {
    local_path(errors, path, value);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

fn downward_items(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    let items_path = path.child("items");
    for (i, item) in list(source, "items").iter().enumerate() {
        let path = items_path.index(i);
        match text(item, "path") {
            "" => errors.required(&path.child("path"), ""),
            value => volume_file(errors, &path.child("path"), value),
        }
        match (field(item, "fieldRef"), field(item, "resourceFieldRef")) {
            (Some(reference), other) => {
                field_ref(errors, &path.child("fieldRef"), reference, &DOWNWARD_FIELDS);
                if other.is_some() {
                    errors.invalid(
                        &path,
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    );
                }
            }
            (None, Some(reference)) => resource_field_ref(errors, &path.child("resourceFieldRef"), reference, true),
            (None, None) => {
                errors.required(&path.child("fieldRef"), "one of fieldRef and resourceFieldRef is required")
            }
        }
        mode(errors, &path.child("mode"), item);
    }
}

fn projected(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    mode(errors, &path.child("defaultMode"), source);
    let sources_path = path.child("sources");
    for (i, projection) in list(source, "sources").iter().enumerate() {
        let path = sources_path.index(i);
        let mut given = 0;
        for (kind, source) in projection.as_object().into_iter().flatten() {
            if source.is_null() {
                continue;
            }
            given += 1;
            let path = path.child(kind);
            if given > 1 {
                errors.forbidden(&path, "may not specify more than 1 volume type");
                continue;
            }
            projection_source(errors, &path, kind, source);
        }
        if given == 0 {
            errors.required(&path, "must specify exactly one volume projection source");
        }
    }
}

fn projection_source(errors: &mut Errors, path: &Path<'_>, kind: &str, source: &Value) {
    match kind {
        "secret" | "configMap" => {
            need(errors, path, source, &["name"]);
            key_to_path(errors, &path.child("items"), list(source, "items"));
        }
        "downwardAPI" => downward_items(errors, path, source),
        "serviceAccountToken" => {
            let seconds = int(source, "expirationSeconds").unwrap_or(3600);
            if seconds < 10 * 60 {
                errors.invalid(
                    &path.child("expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                );
            } else if seconds > 1 << 32 {
                errors.invalid(
                    &path.child("expirationSeconds"),
                    seconds,
                    "may not specify a duration larger than 2^32 seconds",
                );
            }
            need(errors, path, source, &["path"]);
            if !text(source, "path").is_empty() {
                volume_file(errors, &path.child("path"), text(source, "path"));
            }
        }
        "clusterTrustBundle" => trust_bundle(errors, path, source),
        "podCertificate" => pod_certificate(errors, path, source),
        _ => {}
    }
}

fn trust_bundle(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    let by_name = field(source, "name").is_some();
    let by_signer = field(source, "signerName").is_some();
    match (by_name, by_signer) {
        (true, true) => errors.invalid(path, source, "only one of name and signerName may be used"),
        (false, false) => errors.required(path, "either name or signerName must be specified"),
        _ => {}
    }
    if by_name && field(source, "labelSelector").is_some() {
        errors.invalid(
            &path.child("labelSelector"),
            &source["labelSelector"],
            "labelSelector must be unset if name is specified",
        );
    }
    need(errors, path, source, &["path"]);
    if !text(source, "path").is_empty() {
        volume_file(errors, &path.child("path"), text(source, "path"));
    }
}

fn pod_certificate(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    match text(source, "signerName") {
        "" => errors.required(&path.child("signerName"), ""),
        name => errors.invalid_all(&path.child("signerName"), name, formats::domain_prefixed_path(name)),
    }
    let key_types = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];
    errors.one_of(&path.child("keyType"), text(source, "keyType"), &key_types);
    if let Some(seconds) = int(source, "maxExpirationSeconds") {
        if seconds < 3600 {
            errors.invalid(
                &path.child("maxExpirationSeconds"),
                seconds,
                "if provided, maxExpirationSeconds must be >= 3600",
            );
        } else if seconds > 7_862_400 {
            errors.invalid(
                &path.child("maxExpirationSeconds"),
                seconds,
                "if provided, maxExpirationSeconds must be <= 7862400",
            );
        }
    }
    let files = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    if files.iter().all(|name| text(source, name).is_empty()) {
        errors.required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
    for name in files.iter().filter(|name| !text(source, name).is_empty()) {
        volume_file(errors, &path.child(name), text(source, name));
    }
}

fn ephemeral(errors: &mut Errors, path: &Path<'_>, source: &Value) {
    let Some(template) = field(source, "volumeClaimTemplate") else {
        errors.required(&path.child("volumeClaimTemplate"), "");
        return;
    };
    let template_path = path.child("volumeClaimTemplate");
    crate::registry::core::persistent_volume_claim::spec(errors, &template_path.child("spec"), &template["spec"]);
}
