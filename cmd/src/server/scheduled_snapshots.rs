//! Snapshots of the datastore by the clock, of which the newest are kept.
//!
//! A snapshot that fails is logged, and the next one comes at its time: the cluster does not end with
//! its backup. Times are those of the host's time zone.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use jiff::{Timestamp, tz::TimeZone};
use skiff_controllers::cron_schedule::Schedule;
use skiff_kine::Store;
use tokio_util::sync::CancellationToken;

use crate::snapshots;

/// The clock may be set meanwhile: so often the time left is taken anew.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// What to take when, and how much of it to keep.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    pub schedule: Schedule,
    /// Snapshots kept; 0 keeps all.
    pub retention: usize,
    pub folder: PathBuf,
    /// How their names begin; the node's name and the time follow.
    pub name: String,
    pub compress: bool,
}

impl SnapshotSettings {
    /// Takes snapshots until the token is cancelled.
    pub async fn run(self, store: Store, node_name: String, token: CancellationToken) {
        let zone = TimeZone::system();
        let mut done = Timestamp::now();
        loop {
            let Some(next) = self.schedule.next(done, &zone) else {
                tracing::warn!(component = "datastore", "the snapshot schedule never comes round");
                return token.cancelled().await;
            };
            while let Ok(left) = Duration::try_from(next.duration_since(Timestamp::now()))
                && !left.is_zero()
            {
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(left.min(SLEEP_MAX)) => {}
                }
            }
            tokio::select! {
                () = token.cancelled() => return,
                taken = self.take(&store, &node_name) => match taken {
                    Ok(path) => tracing::info!(component = "datastore", path = %path.display(), "took a snapshot"),
                    Err(error) => tracing::error!(component = "datastore", error = format!("{error:#}"), "no snapshot was taken"),
                },
            }
            done = Timestamp::now().max(next);
        }
    }

    /// One snapshot, verified and under its name; then the oldest go.
    async fn take(&self, store: &Store, node_name: &str) -> Result<PathBuf> {
        let snapshot = store.snapshot().await?;
        let prefix = format!("{}-{node_name}", self.name);
        let (folder, compress, retention) = (self.folder.clone(), self.compress, self.retention);
        let write = move || -> Result<PathBuf> {
            snapshots::make_folder(&folder)?;
            let path = folder.join(file_name(&prefix, SystemTime::now(), compress));
            let unready = snapshots::unready(&folder)?;
            let saved = if compress { snapshot.save_packed(&unready) } else { snapshot.save(&unready) };
            saved.with_context(|| format!("write {}", unready.display()))?;
            snapshots::finish(&unready, &path)?;
            if retention > 0 {
                for name in snapshots::prune(&folder, &prefix, retention)? {
                    tracing::info!(component = "datastore", name, "deleted an old snapshot");
                }
            }
            Ok(path)
        };
        tokio::task::spawn_blocking(write).await?
    }
}

fn file_name(prefix: &str, time: SystemTime, compress: bool) -> String {
    let end = if compress { ".db.zst" } else { ".db" };
    format!("{prefix}-{}{end}", snapshots::unix_seconds(time))
}

/// A name is no path, and is not hidden.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && Path::new(name).components().count() == 1 && !name.contains('/')
}

#[cfg(test)]
mod tests {
    use skiff_kine::{Archive, PutRequest, StoreOptions};

    use super::*;

    fn settings(folder: &Path, compress: bool) -> SnapshotSettings {
        let schedule = Schedule::parse("0 */12 * * *").unwrap();
        SnapshotSettings {
            schedule,
            retention: 2,
            folder: folder.join("snapshots"),
            name: "etcd-snapshot".into(),
            compress,
        }
    }

    #[tokio::test]
    async fn a_snapshot_is_verified_named_and_old_ones_go() {
        for compress in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(StoreOptions::sqlite(folder.path().join("state.db"))).await.unwrap();
            store.put(PutRequest::new("a", "1")).await.unwrap();
            let settings = settings(folder.path(), compress);
            snapshots::make_folder(&settings.folder).unwrap();
            for (name, age) in
                [("etcd-snapshot-n1-1.db", 30), ("etcd-snapshot-n1-2.db", 20), ("etcd-snapshot-n2-1.db", 90)]
            {
                let file = std::fs::File::create(settings.folder.join(name)).unwrap();
                file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            }
            let path = settings.take(&store, "n1").await.unwrap();
            assert_eq!(path.to_string_lossy().ends_with(".zst"), compress);
            let summary = Archive::open(&path, false).unwrap().verify().unwrap();
            assert_eq!((summary.revision, summary.keys), (store.current_revision(), 1));
            let names: Vec<String> = snapshots::list(&settings.folder).unwrap().into_iter().map(|s| s.name).collect();
            let own = path.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(names, [own.as_str(), "etcd-snapshot-n1-2.db", "etcd-snapshot-n2-1.db"], "another node's stay");
            store.close().await.unwrap();
        }
    }

    #[test]
    fn names_are_no_paths() {
        assert!(is_name("etcd-snapshot"));
        for wrong in ["", ".", "..", ".hidden", "a/b", "/a", "a/"] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
