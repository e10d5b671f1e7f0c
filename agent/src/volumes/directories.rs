//! Volumes that are a directory of the host: emptyDir and hostPath.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource};
use skiff_host::mount;

use super::ownership;
use crate::quantity;

/// Makes an empty directory, in memory if asked; one that exists is kept.
pub fn empty_dir(directory: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), String> {
    let fail = |error: io::Error| format!("prepare {}: {error}", directory.display());
    let mut fresh = !directory.exists();
    fs::create_dir_all(directory).map_err(fail)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            if !mount::is_mount_point(directory).map_err(fail)? {
                let size = source.size_limit.as_ref().and_then(quantity::value).filter(|bytes| *bytes > 0);
                let options = size.map(|bytes| format!("size={bytes}")).unwrap_or_default();
                mount::mount_tmpfs(directory, &options).map_err(fail)?;
                fresh = true;
            }
        }
        other => return Err(format!("storage medium \"{other}\" is not supported on this node")),
    }
    if fresh {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).map_err(fail)?;
        if let Some(group) = group {
            ownership::hand_over(directory, group, false).map_err(fail)?;
        }
    }
    Ok(())
}

/// Makes the directory of a volume whose content we write; `in_memory` for secrets.
pub fn payload_directory(directory: &Path, in_memory: bool) -> Result<(), String> {
    let fail = |error: io::Error| format!("prepare {}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(fail)?;
    if in_memory && !mount::is_mount_point(directory).map_err(fail)? {
        mount::mount_tmpfs(directory, "").map_err(fail)?;
    }
    let mode = fs::metadata(directory).map_err(fail)?.permissions().mode() & 0o7777;
    if mode != 0o777 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).map_err(fail)?;
    }
    Ok(())
}

/// Checks (and for the `OrCreate` types makes) a path of the host.
pub fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let kind = fs::metadata(&path).map(|metadata| metadata.file_type());
    match (wanted, kind) {
        ("", _) => {}
        ("DirectoryOrCreate", Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            make(fs::create_dir_all(&path).and_then(|()| set_mode(&path, 0o755)), &path)?;
        }
        ("FileOrCreate", Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            make(fs::File::create_new(&path).and_then(|_| set_mode(&path, 0o644)), &path)?;
        }
        ("Directory" | "DirectoryOrCreate", kind) if !kind.as_ref().is_ok_and(|kind| kind.is_dir()) => {
            return fail("a directory");
        }
        ("File" | "FileOrCreate", kind) if !kind.as_ref().is_ok_and(|kind| kind.is_file()) => return fail("a file"),
        ("Socket", kind) if !kind.as_ref().is_ok_and(|kind| kind.is_socket()) => return fail("a socket file"),
        ("CharDevice", kind) if !kind.as_ref().is_ok_and(|kind| kind.is_char_device()) => {
            return fail("a character device");
        }
        ("BlockDevice", kind) if !kind.as_ref().is_ok_and(|kind| kind.is_block_device()) => {
            return fail("a block device");
        }
        ("Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice" | "BlockDevice", _) => {}
        (other, _) => return Err(format!("{other} is an invalid volume type")),
    }
    Ok(path)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn make(result: io::Result<()>, path: &Path) -> Result<(), String> {
    result.map_err(|error| format!("create {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, type_: &str) -> Result<PathBuf, String> {
        host_path(&HostPathVolumeSource { path: path.display().to_string(), type_: Some(type_.to_owned()) })
    }

    #[test]
    fn host_paths_are_checked_and_made_on_demand() {
        let root = tempfile::tempdir().unwrap();
        let (file, directory) = (root.path().join("f"), root.path().join("d/e"));
        assert!(check(&file, "File").unwrap_err().contains("is not a file"));
        check(&file, "FileOrCreate").unwrap();
        check(&file, "File").unwrap();
        assert!(check(&file, "Directory").unwrap_err().contains("is not a directory"));
        check(&directory, "DirectoryOrCreate").unwrap();
        check(&directory, "Directory").unwrap();
        assert!(check(&file, "Socket").is_err());
        assert!(check(&file, "Nonsense").is_err());
        check(&root.path().join("none"), "").unwrap();
    }

    #[test]
    fn empty_directories_are_open_to_all_and_survive_a_second_call() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("v");
        empty_dir(&directory, &EmptyDirVolumeSource::default(), None).unwrap();
        fs::write(directory.join("x"), "1").unwrap();
        empty_dir(&directory, &EmptyDirVolumeSource::default(), None).unwrap();
        assert!(directory.join("x").exists());
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o777);
    }
}
