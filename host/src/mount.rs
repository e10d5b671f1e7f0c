//! Mounts: tmpfs, bind and their removal.
//!
//! Targets are always paths that we created below our own data directory.
//! Unmounting what is not mounted is success, so that teardown can be repeated.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a fresh tmpfs; `options` is the text of `mount -o`, for example `size=64m`.
pub fn mount_tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).map_err(io::Error::from)
}

/// Makes `source` appear at `target`, with everything mounted below it.
pub fn bind_mount(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, bind, None::<&str>)?;
    if read_only {
        let remount = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, remount, None::<&str>)?;
    }
    Ok(())
}

/// Binds an open file or directory, so that the path it was reached by cannot be swapped in between.
pub fn bind_mount_fd(source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    bind_mount(Path::new(&format!("/proc/self/fd/{}", source.as_raw_fd())), target, false)
}

/// Detaches a mount; the kernel finishes it when the last user is gone.
pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// All mount points at or below `directory`, deepest (latest) first.
pub fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parse_mount_points(&std::fs::read_to_string("/proc/self/mountinfo")?, directory))
}

/// Whether something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(mounts_below(path)?.iter().any(|mounted| mounted == path))
}

/// Whether an overlay can be mounted with its upper layer below `directory`.
pub fn supports_overlay(directory: &Path) -> bool {
    let base = directory.join(format!(".overlay-{}", std::process::id()));
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| base.join(name));
    let made = [&lower, &upper, &work, &merged].into_iter().all(|path| std::fs::create_dir_all(path).is_ok());
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let works = made
        && mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).is_ok()
        && unmount(&merged).is_ok();
    // A leftover directory costs nothing; the next start uses another name.
    let _ = std::fs::remove_dir_all(&base);
    works
}

fn parse_mount_points(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(directory)).collect();
    below.reverse();
    below
}

/// The kernel writes blanks and backslashes of paths as octal escapes.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_below_a_directory_come_deepest_first_and_unescaped() {
        let text = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /d/p rw - tmpfs t rw\n3 2 0:3 / /d/p/a\\040b rw - tmpfs t rw\n\
                    4 1 0:4 / /d/pq rw - tmpfs t rw\n";
        let below = parse_mount_points(text, Path::new("/d/p"));
        assert_eq!(below, [PathBuf::from("/d/p/a b"), PathBuf::from("/d/p")]);
    }

    #[test]
    fn unmounting_what_is_not_mounted_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        unmount(directory.path()).unwrap();
    }
}
