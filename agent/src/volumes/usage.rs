//! How much the volumes of pods hold: a claim as much as its file system says, a volume of the pod's own as
//! much as a walk through it finds.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use skiff_host::fs::FsUsage;

/// Where a volume of a pod lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub volume: String,
    /// Name of the claim behind it.
    pub claim: Option<String>,
    pub path: PathBuf,
    /// Whether what it holds is ephemeral storage of its pod.
    pub is_ephemeral: bool,
}

/// What a volume holds, of what its file system has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    pub place: Place,
    pub fs: FsUsage,
    pub used: Used,
}

/// Bytes on disk and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

/// Measures a volume, visiting no more than `entries_max` entries, which are taken from it; `None` if that does not
/// suffice or the volume is gone.
pub fn measure(place: Place, entries_max: &mut usize) -> Option<VolumeUsage> {
    let fs = skiff_host::fs::usage(&place.path).ok()?;
    let used = match place.claim {
        Some(_) => Used {
            bytes: fs.capacity_bytes.saturating_sub(fs.available_bytes),
            inodes: fs.inodes.saturating_sub(fs.inodes_free),
        },
        None => walk(&place.path, entries_max)?,
    };
    Some(VolumeUsage { place, fs, used })
}

/// What lies below a directory on its own file system, itself too; what vanishes meanwhile does not count.
pub fn walk(directory: &Path, entries_max: &mut usize) -> Option<Used> {
    let Ok(root) = fs::symlink_metadata(directory) else { return Some(Used::default()) };
    let mut used = Used { bytes: root.blocks() * 512, inodes: 1 };
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            *entries_max = entries_max.checked_sub(1)?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev() {
                continue;
            }
            used.bytes += metadata.blocks() * 512;
            used.inodes += 1;
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_counts_what_lies_below_and_ends_at_its_bound() {
        let root = tempfile::tempdir().unwrap();
        let empty = walk(root.path(), &mut 0).unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/b/file"), vec![1; 64 << 10]).unwrap();
        std::os::unix::fs::symlink("/usr", root.path().join("link")).unwrap();
        let mut left = 4;
        let used = walk(root.path(), &mut left).unwrap();
        assert!(used.bytes >= empty.bytes + (64 << 10) && used.bytes < 1 << 20, "{used:?}");
        assert_eq!((used.inodes, left), (5, 0));
        assert_eq!(walk(root.path(), &mut 3), None);
        assert_eq!(walk(&root.path().join("none"), &mut 0), Some(Used::default()));
    }

    #[test]
    fn a_claim_holds_what_its_file_system_says() {
        let root = tempfile::tempdir().unwrap();
        let place = |claim: Option<&str>, path: PathBuf| Place {
            volume: "v".into(),
            claim: claim.map(str::to_owned),
            path,
            is_ephemeral: false,
        };
        let claim = measure(place(Some("c"), root.path().into()), &mut 0).unwrap();
        assert_eq!(claim.used.bytes, claim.fs.capacity_bytes - claim.fs.available_bytes);
        assert_eq!(measure(place(None, root.path().into()), &mut 0).unwrap().used.inodes, 1);
        assert_eq!(measure(place(None, root.path().join("none")), &mut 9), None);
    }
}
