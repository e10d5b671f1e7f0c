//! Puts the datastore under the API server: kine's store, or an etcd, as its `Backend`.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use skiff_api::Revision;
use skiff_apiserver::storage::{
    Backend, Change, KeyValue, Listing, Put, Range, StorageError, Swap, WatchMessage, WatchStream,
};
use skiff_kine::{
    Compare, DeleteRequest, Error, Etcd, EtcdWatcher, EventKind, KeyRange, LeaseId, Op, OpResponse, PutRequest,
    RangeEnd, RangeRequest, RangeResponse, Store, Txn, TxnResponse, WatchRequest, Watcher,
};

/// How often an idle watch says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// A store of this process, or an etcd that others run.
#[derive(Clone)]
pub enum Datastore {
    Store(Store),
    Etcd(Etcd),
}

/// A watch on either.
enum Watching {
    Store(Watcher),
    Etcd(Box<EtcdWatcher>),
}

/// The datastore as the API server sees it.
#[derive(Clone)]
pub struct KineBackend(pub Datastore);

impl Datastore {
    async fn get(&self, key: &str) -> skiff_kine::Result<Option<skiff_kine::KeyValue>> {
        match self {
            Datastore::Store(store) => {
                store.catch_up().await?;
                Ok(store.get(key.as_bytes()))
            }
            Datastore::Etcd(etcd) => etcd.get(key.as_bytes()).await,
        }
    }

    async fn range(&self, request: RangeRequest) -> skiff_kine::Result<RangeResponse> {
        match self {
            Datastore::Store(store) => store.range(request).await,
            Datastore::Etcd(etcd) => etcd.range(request).await,
        }
    }

    async fn txn(&self, txn: Txn) -> skiff_kine::Result<TxnResponse> {
        match self {
            Datastore::Store(store) => store.txn(txn).await,
            Datastore::Etcd(etcd) => etcd.txn(txn).await,
        }
    }

    async fn ttl_lease(&self, ttl: Duration) -> skiff_kine::Result<LeaseId> {
        match self {
            Datastore::Store(store) => store.ttl_lease(ttl).await,
            Datastore::Etcd(etcd) => etcd.ttl_lease(ttl).await,
        }
    }

    fn lost_lease(&self, id: LeaseId) {
        match self {
            Datastore::Store(store) => store.lost_lease(id),
            Datastore::Etcd(etcd) => etcd.lost_lease(id),
        }
    }

    async fn watch(&self, request: WatchRequest) -> skiff_kine::Result<Watching> {
        match self {
            Datastore::Store(store) => store.watch(request).map(Watching::Store),
            Datastore::Etcd(etcd) => {
                let mut watcher = etcd.watch(request);
                watcher.begin().await?;
                Ok(Watching::Etcd(Box::new(watcher)))
            }
        }
    }

    async fn current_revision(&self) -> skiff_kine::Result<skiff_kine::Revision> {
        match self {
            Datastore::Store(store) => {
                store.catch_up().await?;
                Ok(store.current_revision())
            }
            Datastore::Etcd(etcd) => etcd.current_revision().await,
        }
    }

    async fn compact(&self, before: skiff_kine::Revision) -> skiff_kine::Result<()> {
        match self {
            Datastore::Store(store) => store.compact(before, false).await,
            Datastore::Etcd(etcd) => etcd.compact(before, false).await,
        }
    }
}

impl Watching {
    async fn next(&mut self) -> skiff_kine::Result<skiff_kine::WatchMessage> {
        match self {
            Watching::Store(watcher) => watcher.next().await,
            Watching::Etcd(watcher) => watcher.next().await,
        }
    }
}

#[async_trait]
impl Backend for KineBackend {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StorageError> {
        self.0.get(key).await.map_err(storage_error)?.map(key_value).transpose()
    }

    async fn list(&self, Range { prefix, after, limit, at }: Range<'_>) -> Result<Listing, StorageError> {
        let mut range = KeyRange::prefix(prefix.to_owned());
        if let Some(after) = after {
            // The smallest key behind `after`.
            range.start = Bytes::from(format!("{after}\0"));
        }
        if matches!(&range.end, RangeEnd::Before(end) if *end <= range.start) {
            let revision = match at {
                Some(at) => at,
                None => self.current_revision().await?,
            };
            return Ok(Listing { items: Vec::new(), revision, more: false });
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

    async fn put(&self, Put { key, expected, value, ttl }: Put<'_>) -> Result<Swap, StorageError> {
        let mut put = PutRequest::new(key.to_owned(), value);
        let expected = expected.unwrap_or_default();
        let Some(ttl) = ttl else { return self.swap(key, expected, Op::Put(put)).await.map_err(storage_error)? };
        put.lease = self.0.ttl_lease(ttl).await.map_err(storage_error)?;
        match self.swap(key, expected, Op::Put(put.clone())).await {
            // Somebody revoked the lease that many keys share.
            Err(Error::LeaseNotFound) => {
                self.0.lost_lease(put.lease);
                put.lease = self.0.ttl_lease(ttl).await.map_err(storage_error)?;
                self.swap(key, expected, Op::Put(put)).await.map_err(storage_error)?
            }
            result => result.map_err(storage_error)?,
        }
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, StorageError> {
        let delete = DeleteRequest { range: KeyRange::key(key.to_owned()), prev_kv: false };
        self.swap(key, expected, Op::Delete(delete)).await.map_err(storage_error)?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StorageError> {
        let start = skiff_kine::Revision(after.0 + 1);
        let mut request = WatchRequest::new(KeyRange::prefix(prefix.to_owned()), start).with_prev_kv();
        request.progress_interval = Some(PROGRESS_INTERVAL);
        let watcher = self.0.watch(request).await.map_err(storage_error)?;
        Ok(Box::pin(stream::unfold(Some(watcher), next_message)))
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        Ok(Revision(self.0.current_revision().await.map_err(storage_error)?.0))
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        match self.0.compact(skiff_kine::Revision(before.0)).await {
            // Somebody else was faster: what we wanted is true.
            Ok(()) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(storage_error(error)),
        }
    }
}

impl KineBackend {
    /// Does `op` if the key's last change is `expected`; otherwise reads the key.
    async fn swap(&self, key: &str, expected: Revision, op: Op) -> skiff_kine::Result<Result<Swap, StorageError>> {
        let txn = Txn::new()
            .when(Compare::mod_revision(key.to_owned(), skiff_kine::Revision(expected.0)))
            .then(op)
            .otherwise(Op::Range(RangeRequest::new(KeyRange::key(key.to_owned()))));
        let TxnResponse { revision, succeeded, mut responses } = self.0.txn(txn).await?;
        if succeeded {
            return Ok(Ok(Swap::Done(Revision(revision.0))));
        }
        Ok(match responses.pop() {
            Some(OpResponse::Range(mut found)) => found.kvs.pop().map(key_value).transpose().map(Swap::Conflict),
            _ => Err(StorageError::Unavailable("the transaction gave no answer".to_owned())),
        })
    }
}

/// One step of a watch; after an error the stream is at its end.
async fn next_message(watcher: Option<Watching>) -> Option<(Result<WatchMessage, StorageError>, Option<Watching>)> {
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
