//! Waits for files to change, by inotify on their directories: volumes of
//! ConfigMaps replace a link beside the files, never the files themselves.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{sleep, timeout};

/// Changes come in groups (a ConfigMap volume renames several entries).
const SETTLE: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 4096;

/// Waits for changes in directories.
pub struct FileWatch {
    events: EventStream<[u8; BUFFER_BYTES]>,
    /// Kept to extend the set.
    watches: inotify::Watches,
    directories: BTreeSet<PathBuf>,
}

impl FileWatch {
    pub fn new() -> io::Result<FileWatch> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let events = inotify.into_event_stream([0; BUFFER_BYTES])?;
        Ok(FileWatch { events, watches, directories: BTreeSet::new() })
    }

    /// Watches the directories of these files too; directories that do not exist are left out.
    pub fn extend<'a>(&mut self, files: impl Iterator<Item = &'a Path>, directories: impl Iterator<Item = &'a Path>) {
        let parents = files.filter_map(Path::parent);
        for directory in parents.chain(directories).map(Path::to_owned).collect::<BTreeSet<_>>() {
            let mask = WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::MOVED_FROM
                | WatchMask::DELETE
                | WatchMask::CLOSE_WRITE;
            if !self.directories.contains(&directory) && self.watches.add(&directory, mask).is_ok() {
                self.directories.insert(directory);
            }
        }
    }

    /// Waits for the next change and until things are quiet again.
    pub async fn changed(&mut self) -> io::Result<()> {
        if self.events.next().await.transpose()?.is_none() {
            return std::future::pending().await;
        }
        sleep(SETTLE).await;
        while let Ok(Some(event)) = timeout(Duration::ZERO, self.events.next()).await {
            event?;
        }
        Ok(())
    }
}
