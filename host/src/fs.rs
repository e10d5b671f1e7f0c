//! File system questions and the safe resolution of untrusted paths.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};

/// Size and use of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The file system that holds `path`.
pub fn usage(path: &Path) -> io::Result<FsUsage> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(FsUsage {
        capacity_bytes: stat.f_blocks * stat.f_frsize,
        available_bytes: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

/// The magic number of the file system at `path`.
pub fn file_system_magic(path: &Path) -> io::Result<i64> {
    Ok(rustix::fs::statfs(path)?.f_type as i64)
}

/// Opens `relative` below `root` without ever leaving `root`: symbolic links
/// are followed only while they stay inside. For paths that containers control.
pub fn open_beneath(root: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let directory = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    Ok(rustix::fs::openat2(
        directory,
        relative,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// Creates the missing directories of `relative` below `root` (mode 0750), never leaving `root`.
pub fn create_directories_beneath(root: &Path, relative: &Path) -> io::Result<()> {
    let mut done = std::path::PathBuf::new();
    for part in relative.components() {
        let parent = open_beneath(root, &done)?;
        match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        done.push(part);
    }
    Ok(())
}

/// Whether an open descriptor is a directory.
pub fn is_directory(file: &impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Changes owner and group (`None` keeps), not following symbolic links.
pub fn change_owner(path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    Ok(rustix::fs::chownat(CWD, path, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn resolution_follows_links_inside_and_refuses_links_that_leave() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("data")).unwrap();
        std::fs::write(root.path().join("data/key"), "v").unwrap();
        symlink("data/key", root.path().join("inside")).unwrap();
        symlink("/etc/passwd", root.path().join("absolute")).unwrap();
        symlink("../../etc", root.path().join("above")).unwrap();
        assert!(open_beneath(root.path(), Path::new("inside")).is_ok());
        assert!(open_beneath(root.path(), Path::new("absolute")).is_err());
        assert!(open_beneath(root.path(), Path::new("above/passwd")).is_err());
        assert!(open_beneath(root.path(), Path::new("..")).is_err());
        create_directories_beneath(root.path(), Path::new("a/b")).unwrap();
        assert!(root.path().join("a/b").is_dir());
        assert!(create_directories_beneath(root.path(), Path::new("above/x")).is_err());
    }
}
