//! Container logs: parse the runtime's format, find the tail without reading everything, follow across rotation.
//!
//! [`record`] and [`format`] are pure; [`tail`] finds where to begin; [`reader`] does the I/O and is pulled by the client's
//! connection: no task, no queue, nothing read ahead of the client.

pub mod format;
pub mod reader;
pub mod record;
pub mod tail;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::backend::{LogSource, StreamingBackend};
use super::options::LogOptions;
use reader::Reader;

/// Opens a log and returns its text in pieces. The first piece is read at once if the log does not have to be waited for, so
/// that a log that cannot be read is an error here.
pub async fn open(
    source: LogSource,
    options: LogOptions,
    backend: Arc<dyn StreamingBackend>,
    token: CancellationToken,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let follow = options.follow;
    let mut reader = Reader::open(source, options, backend, token).await?;
    let first = if follow { None } else { reader.next().await? };
    let finished = !follow && first.is_none();
    let rest = futures_util::stream::unfold((reader, finished), |(mut reader, finished)| async move {
        if finished {
            return None;
        }
        match reader.next().await {
            Ok(Some(piece)) => Some((Ok(piece), (reader, false))),
            Ok(None) => None,
            Err(error) => Some((Err(error), (reader, true))),
        }
    });
    Ok(futures_util::stream::iter(first.map(Ok)).chain(rest))
}
