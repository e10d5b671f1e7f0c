//! Files that must be whole or absent: written beside and renamed, synced
//! first, with secrets readable by their owner only.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A file operation that failed, and on what.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError { action, path: path.to_owned(), source }
    }
}

/// Writes `content` with `mode`, atomically: readers see the old or the new file.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let fail = |action| move |source| FileError::new(action, path, source);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail("create folder of"))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = |file: &mut File| -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(fail("create"))?;
    let written = write(&mut file).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The temporary file is ours alone; leaving it would only waste space.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(fail("write"))
}

/// A file anyone may read.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_atomic(path, content, 0o644)
}

/// A file only root may read.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_atomic(path, content, 0o600)
}

/// Reads a secret; `None` when there is none yet.
pub fn read_secret(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_readable_by_their_owner_only_even_when_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/key");
        write_public(&path, b"old").unwrap();
        write_secret(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
