//! Mount points inside of volumes.
//!
//! A container may mount one volume below the path of another. Volumes of files
//! (ConfigMap, Secret, projected, downward API) are mounted read-only, so the
//! runtime could not make the directory; it is made in the volume beforehand.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pods::spec;

/// Paths below the volume `name` at which containers mount something else.
pub fn mount_points(pod: &Pod, name: &str) -> BTreeSet<PathBuf> {
    let spec = spec::spec(pod);
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.flat_map(|container| of_container(container, name)).collect()
}

fn of_container(container: &Container, name: &str) -> Vec<PathBuf> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for outer in mounts.iter().filter(|mount| mount.name == name) {
        // With a sub-path, what is mounted is not the volume's root.
        if outer.sub_path.is_some() || outer.sub_path_expr.is_some() {
            continue;
        }
        for inner in mounts {
            let Ok(below) = Path::new(&inner.mount_path).strip_prefix(&outer.mount_path) else { continue };
            let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
            if plain && below.components().next().is_some() {
                found.push(below.to_owned());
            }
        }
    }
    found
}

/// Makes the directories; a published file of that name stays as it is.
pub fn make(directory: &Path, points: &BTreeSet<PathBuf>) -> io::Result<()> {
    for point in points {
        let path = directory.join(point);
        if fs::symlink_metadata(&path).is_err() {
            fs::create_dir_all(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_mounted_inside_another_gets_its_directory() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "config", "mountPath": "/etc/dns"},
                {"name": "custom", "mountPath": "/etc/dns/custom"},
                {"name": "other", "mountPath": "/etc/dns2"}]}]}}))
        .unwrap();
        assert_eq!(mount_points(&pod, "config").into_iter().collect::<Vec<_>>(), [PathBuf::from("custom")]);
        assert!(mount_points(&pod, "custom").is_empty());
    }
}
