//! The folder of snapshots: what is in it, how one comes into it, which go again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use skiff_kine::{Archive, SnapshotSummary};

/// A snapshot in the folder.
pub struct Found {
    pub name: String,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// Newest first.
pub fn list(folder: &Path) -> Result<Vec<Found>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (name, meta) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
        if meta.is_file() && !name.starts_with('.') {
            found.push(Found { name, bytes: meta.len(), modified: meta.modified()? });
        }
    }
    found.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| b.name.cmp(&a.name)));
    Ok(found)
}

/// Makes the folder, for its owner alone.
pub fn make_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("make {}", folder.display()))
}

/// Where a snapshot is written before it has its name; what a process that died left there is removed.
pub fn unready(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!(".unready-{}", std::process::id()));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(path),
    }
}

/// Gives a written snapshot its name, once it is verified. On failure nothing is left of it.
pub fn finish(unready: &Path, path: &Path) -> Result<SnapshotSummary> {
    let finished = (|| {
        if path.exists() {
            bail!("{} exists", path.display());
        }
        let summary = Archive::open(unready, false)?.verify()?;
        fs::rename(unready, path).with_context(|| format!("rename to {}", path.display()))?;
        let folder = path.parent().context("a snapshot has a folder")?;
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("sync {}", folder.display()))?;
        Ok(summary)
    })();
    if finished.is_err() {
        let _ = fs::remove_file(unready);
    }
    finished
}

/// Deletes what is called `prefix-…`, but for the newest `retain`; answers the names.
pub fn prune(folder: &Path, prefix: &str, retain: usize) -> Result<Vec<String>> {
    let begin = format!("{prefix}-");
    let mut deleted = Vec::new();
    for Found { name, .. } in list(folder)?.into_iter().filter(|found| found.name.starts_with(&begin)).skip(retain) {
        fs::remove_file(folder.join(&name)).with_context(|| format!("delete {name}"))?;
        deleted.push(name);
    }
    Ok(deleted)
}

pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_deletes_the_oldest_of_its_own_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, age: u64| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        };
        file("on-demand-a-1.db", 30);
        file("on-demand-a-2.db", 20);
        file("on-demand-a-3.db", 10);
        file("before-upgrade", 99);
        file("on-demander", 98);
        assert_eq!(prune(folder.path(), "on-demand", 2).unwrap(), ["on-demand-a-1.db"]);
        let names: Vec<String> = list(folder.path()).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["on-demand-a-3.db", "on-demand-a-2.db", "on-demander", "before-upgrade"]);
    }

    #[test]
    fn what_is_no_snapshot_gets_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let (unready, path) = (unready(folder.path()).unwrap(), folder.path().join("one.db"));
        fs::write(&unready, "half").unwrap();
        assert!(finish(&unready, &path).is_err());
        assert!(!unready.exists() && !path.exists());
    }
}
