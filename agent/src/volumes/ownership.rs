//! Who owns the files of a volume.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use k8s_openapi::api::core::v1::Pod;

use crate::pods::spec;

/// The `fsGroup` of a pod.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = spec::spec(pod).security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// The one user that all containers run as, if there is one.
pub fn fs_user(pod: &Pod) -> Option<u32> {
    let default = spec::spec(pod).security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec::all_containers(pod)
        .into_iter()
        .map(|(_, container)| container.security_context.and_then(|context| context.run_as_user).or(default));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

/// Permission bits of a published file when the pod has an `fsGroup`: its group may read it.
pub fn file_mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

/// Gives a writable volume to the group: everything below is readable and
/// writable for it, and new files inherit the group.
pub fn hand_over(directory: &Path, group: u32, only_if_root_differs: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(directory)?;
    if only_if_root_differs && metadata.gid() == group && metadata.mode() & 0o2060 == 0o2060 {
        return Ok(());
    }
    hand_over_tree(directory, group)
}

fn hand_over_tree(path: &Path, group: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    skiff_host::fs::change_owner(path, None, Some(group))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.mode() & 0o7777;
    let mode = if metadata.is_dir() { mode | 0o2070 | 0o110 } else { mode | 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            hand_over_tree(&entry?.path(), group)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_common_user_is_found() {
        let pod = |containers: serde_json::Value, context: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": containers, "securityContext": context}})).unwrap()
        };
        let user = |uid: i64| json!({"name": "c", "securityContext": {"runAsUser": uid}});
        assert_eq!(fs_user(&pod(json!([user(5), user(5)]), json!({}))), Some(5));
        assert_eq!(fs_user(&pod(json!([user(5), user(6)]), json!({}))), None);
        assert_eq!(fs_user(&pod(json!([{"name": "c"}]), json!({"runAsUser": 7}))), Some(7));
        assert_eq!(fs_user(&pod(json!([{"name": "c"}]), json!({}))), None);
    }
}
