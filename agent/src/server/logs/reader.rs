//! Reading and following a log. Pulled by the client: [`Reader::next`] reads only when somebody wants more.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use inotify::{EventStream, Inotify, WatchMask};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::format::Formatter;
use super::tail;
use crate::server::backend::{LogSource, StreamingBackend};
use crate::server::limits::{LOG_FOLLOW_RECHECK, LOG_READ_LEN};
use crate::server::options::LogOptions;

/// Why a follower woke up.
enum Wake {
    /// Something happened to the log's directory.
    Changed,
    Exited,
    Cancelled,
}

/// What a follower waits for.
struct Follow {
    events: EventStream<[u8; 4096]>,
    /// Resolves when the container has ended; `None` once it has.
    exited: Option<BoxFuture<'static, ()>>,
    token: CancellationToken,
}

impl Follow {
    fn new(source: &LogSource, backend: Arc<dyn StreamingBackend>, token: CancellationToken) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let directory = source.path.parent().unwrap_or(&source.path);
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
        inotify.watches().add(directory, mask)?;
        let container_id = source.container_id.clone();
        let exited = Box::pin(async move { backend.exited(&container_id).await });
        Ok(Follow { events: inotify.into_event_stream([0; 4096])?, exited: Some(exited), token })
    }

    async fn wait(&mut self) -> Wake {
        let exited = async {
            match &mut self.exited {
                Some(exited) => exited.await,
                None => std::future::pending().await,
            }
        };
        let wake = tokio::select! {
            () = self.token.cancelled() => Wake::Cancelled,
            _ = self.events.next() => Wake::Changed,
            () = exited => Wake::Exited,
            // No event comes for files that are changed behind this kernel's back.
            () = sleep(LOG_FOLLOW_RECHECK) => Wake::Changed,
        };
        if let Wake::Exited = wake {
            self.exited = None;
        }
        // One look at the file answers all events that are waiting.
        while let Some(Some(_)) = self.events.next().now_or_never() {}
        wake
    }
}

/// A log being read.
pub struct Reader {
    path: PathBuf,
    file: File,
    inode: u64,
    /// Files to read after this one, oldest first.
    later: VecDeque<PathBuf>,
    formatter: Formatter,
    follow: Option<Follow>,
    /// The log was rotated away; its file still has to be read to its end once.
    rotated: bool,
    finished: bool,
}

impl Reader {
    /// Opens the log at the place the options ask for.
    pub async fn open(
        source: LogSource,
        options: LogOptions,
        backend: Arc<dyn StreamingBackend>,
        token: CancellationToken,
    ) -> io::Result<Self> {
        // Watching starts before the first look, so that no change is missed.
        let follow = if options.follow { Some(Follow::new(&source, backend, token)?) } else { None };
        let (path, lines) = (source.path.clone(), options.tail_lines);
        let start = tokio::task::spawn_blocking(move || tail::find(&path, lines)).await??;
        let mut later = VecDeque::from(start.files);
        let first = later.pop_front().unwrap_or_else(|| source.path.clone());
        let mut file = File::open(first).await?;
        file.seek(SeekFrom::Start(start.offset)).await?;
        let inode = file.metadata().await?.ino();
        let formatter = Formatter::new(options);
        Ok(Reader { path: source.path, file, inode, later, formatter, follow, rotated: false, finished: false })
    }

    /// The next piece of text; `None` at the end, which for a follower is the end of the container.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut raw = Vec::with_capacity(LOG_READ_LEN);
        while !self.finished {
            raw.clear();
            let mut out = Vec::new();
            if self.file.read_buf(&mut raw).await? > 0 {
                self.formatter.push(&raw, &mut out);
                self.finished = self.formatter.is_finished();
            } else {
                self.end_of_file(&mut out).await?;
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }

    /// Decides how it goes on at the end of a file.
    async fn end_of_file(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(path) = self.later.pop_front() {
            self.formatter.end_of_file(out);
            return self.switch_to(path).await;
        }
        let Some(follow) = &mut self.follow else {
            self.formatter.end_of_file(out);
            self.finished = true;
            return Ok(());
        };
        if self.rotated {
            self.formatter.end_of_file(out);
            self.rotated = false;
            return self.switch_to(self.path.clone()).await;
        }
        if let Ok(metadata) = tokio::fs::metadata(&self.path).await
            && metadata.ino() != self.inode
        {
            // The runtime may have written to the old file until just now: read it to its end once more, then switch.
            self.rotated = true;
            return Ok(());
        }
        if follow.exited.is_none() {
            self.formatter.end_of_file(out);
            self.finished = true;
            return Ok(());
        }
        // After the end of the container the file is read once more, to its end.
        if let Wake::Cancelled = follow.wait().await {
            self.finished = true;
        }
        Ok(())
    }

    async fn switch_to(&mut self, path: PathBuf) -> io::Result<()> {
        self.file = File::open(path).await?;
        self.inode = self.file.metadata().await?.ino();
        Ok(())
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
