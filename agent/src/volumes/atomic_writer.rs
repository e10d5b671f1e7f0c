//! Publishes a set of files so that readers see all old or all new ones.
//!
//! Files live in a directory named by time; `..data` is a symbolic link to it
//! and every visible name is a link through `..data`. Swapping that one link
//! publishes everything at once. Unchanged contents are not written again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, File>;

/// Whether a path may be published: relative, inside, and not one of our own names.
pub fn is_valid_path(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty()
        && !path.starts_with("..")
        && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Makes `payload` the content of `directory`; returns whether anything changed.
pub fn publish(directory: &Path, payload: &Payload) -> io::Result<bool> {
    if let Some(path) = payload.keys().find(|path| !is_valid_path(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {path}")));
    }
    let current = fs::read_link(directory.join(DATA)).ok().map(|name| directory.join(name));
    if let Some(current) = &current
        && is_same(current, payload)?
        && links_complete(directory, payload)
    {
        return Ok(false);
    }
    let fresh = make_directory(directory)?;
    for (path, file) in payload {
        write_file(&fresh, path, file)?;
    }
    let new_link = directory.join(DATA_NEW);
    remove_if_present(&new_link)?;
    symlink(fresh.file_name().unwrap_or_default(), &new_link)?;
    fs::rename(&new_link, directory.join(DATA))?;
    update_links(directory, payload)?;
    if let Some(current) = current.filter(|current| *current != fresh) {
        fs::remove_dir_all(current).or_else(ignore_missing)?;
    }
    Ok(true)
}

fn make_directory(directory: &Path) -> io::Result<PathBuf> {
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for number in rand::random::<u32>()..=u32::MAX {
        let path = directory.join(format!("{stamp}.{number}"));
        match fs::create_dir(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write_file(root: &Path, path: &str, file: &File) -> io::Result<()> {
    let target = root.join(path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
        for directory in parent.ancestors().take_while(|directory| *directory != root) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
    }
    fs::write(&target, &file.data)?;
    if file.uid.is_some() || file.gid.is_some() {
        skiff_host::fs::change_owner(&target, file.uid, file.gid)?;
    }
    // After the owner, because changing that clears special bits; and explicitly, because of the umask.
    fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))
}

fn is_same(current: &Path, payload: &Payload) -> io::Result<bool> {
    let mut present = BTreeSet::new();
    list_files(current, current, &mut present)?;
    let wanted: BTreeSet<PathBuf> = payload.keys().map(|path| normal(path)).collect();
    if present != wanted {
        return Ok(false);
    }
    for (path, file) in payload {
        let target = current.join(path);
        let metadata = fs::metadata(&target)?;
        let owner =
            file.uid.is_none_or(|uid| uid == metadata.uid()) && file.gid.is_none_or(|gid| gid == metadata.gid());
        if metadata.mode() & 0o7777 != file.mode || !owner || fs::read(&target)? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn normal(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

fn list_files(root: &Path, directory: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return ignore_missing(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list_files(root, &entry.path(), found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.insert(path.to_owned());
        }
    }
    Ok(())
}

/// First components of all paths: what is visible in the volume.
fn visible(payload: &Payload) -> BTreeSet<PathBuf> {
    payload
        .keys()
        .filter_map(|path| normal(path).components().next().map(|part| PathBuf::from(part.as_os_str())))
        .collect()
}

fn links_complete(directory: &Path, payload: &Payload) -> bool {
    visible(payload).iter().all(|name| fs::symlink_metadata(directory.join(name)).is_ok())
}

fn update_links(directory: &Path, payload: &Payload) -> io::Result<()> {
    let wanted = visible(payload);
    for name in &wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let own = name.to_string_lossy().starts_with("..");
        // What is no link of ours is a place for another volume to be mounted at.
        if !own && entry.file_type()?.is_symlink() && !wanted.contains(&name) {
            remove_if_present(&directory.join(name))?;
        }
    }
    Ok(())
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(ignore_missing)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { data: text.into(), mode: 0o640, uid: None, gid: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn read(directory: &Path, name: &str) -> String {
        fs::read_to_string(directory.join(name)).unwrap()
    }

    #[test]
    fn files_appear_change_and_vanish_together() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path();
        assert!(publish(directory, &payload(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert_eq!((read(directory, "a"), read(directory, "d/b")), ("1".into(), "2".into()));
        assert_eq!(fs::metadata(directory.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let before = fs::read_link(directory.join(DATA)).unwrap();
        assert!(!publish(directory, &payload(&[("a", "1"), ("d/b", "2")])).unwrap(), "unchanged");
        assert_eq!(fs::read_link(directory.join(DATA)).unwrap(), before);
        assert!(publish(directory, &payload(&[("a", "3"), ("c", "4")])).unwrap());
        assert_eq!((read(directory, "a"), read(directory, "c")), ("3".into(), "4".into()));
        assert!(fs::symlink_metadata(directory.join("d")).is_err());
        assert!(!directory.join(before).exists(), "old files are removed");
        assert!(publish(directory, &payload(&[])).unwrap());
        assert!(fs::symlink_metadata(directory.join("a")).is_err());
    }

    #[test]
    fn a_changed_mode_is_published() {
        let root = tempfile::tempdir().unwrap();
        publish(root.path(), &payload(&[("a", "1")])).unwrap();
        let mut other = payload(&[("a", "1")]);
        other.get_mut("a").unwrap().mode = 0o400;
        assert!(publish(root.path(), &other).unwrap());
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        for path in ["", "..", "../x", "a/../../b", "/etc/x", "..data"] {
            assert!(!is_valid_path(path), "{path}");
        }
        assert!(is_valid_path("a/b.txt"));
    }
}
