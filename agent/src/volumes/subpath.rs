//! Sub-paths: a part of a volume as a mount of its own.
//!
//! The path may be chosen by whoever writes to the volume, so it is resolved
//! inside the volume only and bound by descriptor to a place that containers
//! cannot reach; the runtime gets that place.

use std::{
    fs,
    os::fd::AsFd,
    path::{Component, Path},
};

use skiff_host::{fs as host_fs, mount};

/// Binds `sub_path` of `volume` to `target`, creating a missing directory in writable volumes.
pub fn bind(volume: &Path, sub_path: &str, target: &Path, writable: bool) -> Result<(), String> {
    let relative = check(sub_path)?;
    let describe = |error: std::io::Error| format!("failed to prepare subPath \"{sub_path}\": {error}");
    if host_fs::open_beneath(volume, relative).is_err() && writable {
        host_fs::create_directories_beneath(volume, relative).map_err(describe)?;
    }
    let source = host_fs::open_beneath(volume, relative).map_err(describe)?;
    mount::unmount(target).map_err(describe)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(describe)?;
    }
    if host_fs::is_directory(&source).map_err(describe)? {
        fs::create_dir_all(target).map_err(describe)?;
    } else if !target.exists() {
        fs::write(target, "").map_err(describe)?;
    }
    mount::bind_mount_fd(source.as_fd(), target).map_err(describe)
}

fn check(sub_path: &str) -> Result<&Path, String> {
    let path = Path::new(sub_path);
    if path.is_absolute() {
        return Err(format!("subPath must not be an absolute path: {sub_path}"));
    }
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(format!("subPath must not contain '..': {sub_path}"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_volume_are_refused() {
        assert!(check("/abs").is_err());
        assert!(check("a/../b").is_err());
        assert!(check("a/b").is_ok());
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("out")).unwrap();
        assert!(bind(root.path(), "out", &root.path().join("target"), false).is_err());
    }
}
