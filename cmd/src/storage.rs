//! Puts the datastore under the API server: kine's store as its `Backend`.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use skiff_api::Revision;
use skiff_apiserver::storage::{Backend, Change, KeyValue, Listing, StorageError, Swap, WatchMessage, WatchStream};
use skiff_kine::{
    Compare, DeleteRequest, Error, EventKind, KeyRange, Op, OpResponse, PutRequest, RangeEnd, RangeRequest, Store, Txn,
    TxnResponse, WatchRequest, Watcher,
};

/// How often an idle watch says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// The datastore of this process.
#[derive(Clone)]
pub struct KineBackend(pub Store);

#[async_trait]
impl Backend for KineBackend {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StorageError> {
        self.0.get(key.as_bytes()).map(key_value).transpose()
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<Listing, StorageError> {
        let mut range = KeyRange::prefix(prefix.to_owned());
        if let Some(after) = after {
            // The smallest key behind `after`.
            range.start = Bytes::from(format!("{after}\0"));
        }
        if matches!(&range.end, RangeEnd::Before(end) if *end <= range.start) {
            return Ok(Listing { items: Vec::new(), revision: at.unwrap_or(self.revision()), more: false });
        }
        let mut request = RangeRequest::new(range);
        if let Some(limit) = limit {
            request = request.limit(limit);
        }
        if let Some(at) = at {
            request = request.at(skiff_kine::Revision(at.0));
        }
        let response = self.0.range(request).await.map_err(storage_error)?;
        let items = response.kvs.into_iter().map(key_value).collect::<Result<_, _>>()?;
        Ok(Listing { items, revision: at.unwrap_or(Revision(response.revision.0)), more: response.more })
    }

    async fn put(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Swap, StorageError> {
        let mut put = PutRequest::new(key.to_owned(), value);
        if let Some(ttl) = ttl {
            put.lease = self.0.ttl_lease(ttl).await.map_err(storage_error)?;
        }
        self.swap(key, expected.unwrap_or_default(), Op::Put(put)).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, StorageError> {
        let delete = DeleteRequest { range: KeyRange::key(key.to_owned()), prev_kv: false };
        self.swap(key, expected, Op::Delete(delete)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StorageError> {
        let start = skiff_kine::Revision(after.0 + 1);
        let mut request = WatchRequest::new(KeyRange::prefix(prefix.to_owned()), start).with_prev_kv();
        request.progress_interval = Some(PROGRESS_INTERVAL);
        let watcher = self.0.watch(request).map_err(storage_error)?;
        Ok(Box::pin(stream::unfold(Some(watcher), next_message)))
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        Ok(self.revision())
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        match self.0.compact(skiff_kine::Revision(before.0), false).await {
            // Somebody else was faster: what we wanted is true.
            Ok(()) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(storage_error(error)),
        }
    }
}

impl KineBackend {
    fn revision(&self) -> Revision {
        Revision(self.0.current_revision().0)
    }

    /// Does `op` if the key's last change is `expected`; otherwise reads the key.
    async fn swap(&self, key: &str, expected: Revision, op: Op) -> Result<Swap, StorageError> {
        let txn = Txn::new()
            .when(Compare::mod_revision(key.to_owned(), skiff_kine::Revision(expected.0)))
            .then(op)
            .otherwise(Op::Range(RangeRequest::new(KeyRange::key(key.to_owned()))));
        let TxnResponse { revision, succeeded, mut responses } = self.0.txn(txn).await.map_err(storage_error)?;
        if succeeded {
            return Ok(Swap::Done(Revision(revision.0)));
        }
        match responses.pop() {
            Some(OpResponse::Range(mut found)) => Ok(Swap::Conflict(found.kvs.pop().map(key_value).transpose()?)),
            _ => Err(StorageError::Unavailable("the transaction gave no answer".to_owned())),
        }
    }
}

/// One step of a watch; after an error the stream is at its end.
async fn next_message(watcher: Option<Watcher>) -> Option<(Result<WatchMessage, StorageError>, Option<Watcher>)> {
    let mut watcher = watcher?;
    match watcher.next().await {
        Ok(skiff_kine::WatchMessage::Progress(revision)) => {
            Some((Ok(WatchMessage::Progress(Revision(revision.0))), Some(watcher)))
        }
        Ok(skiff_kine::WatchMessage::Events(events)) => {
            let changes = events.iter().map(|event| change(event)).collect::<Result<Vec<_>, _>>();
            Some((changes.map(WatchMessage::Changes), Some(watcher)))
        }
        Err(error) => Some((Err(storage_error(error)), None)),
    }
}

fn change(event: &skiff_kine::Event) -> Result<Change, StorageError> {
    Ok(Change {
        key: text(&event.kv.key)?,
        revision: Revision(event.kv.mod_revision.0),
        value: (event.kind == EventKind::Put).then(|| event.kv.value.clone()),
        previous: event.prev_kv.as_ref().map(|previous| previous.value.clone()),
    })
}

fn key_value(kv: skiff_kine::KeyValue) -> Result<KeyValue, StorageError> {
    Ok(KeyValue { key: text(&kv.key)?, value: kv.value, revision: Revision(kv.mod_revision.0) })
}

fn text(key: &Bytes) -> Result<String, StorageError> {
    String::from_utf8(key.to_vec()).map_err(|_| StorageError::Unavailable(format!("key {key:?} is not text")))
}

fn storage_error(error: Error) -> StorageError {
    match error {
        Error::Compacted { .. } => StorageError::Compacted,
        Error::FutureRevision => StorageError::Future,
        Error::RequestTooLarge => StorageError::TooLarge,
        other => StorageError::Unavailable(other.to_string()),
    }
}
