//! A backend in memory with real revision semantics: history, compaction and
//! watches that resume. Tests of the whole server run on it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use skiff_api::Revision;
use tokio::sync::watch;

use super::{Backend, Change, KeyValue, Listing, Put, Range, StorageError, Swap, WatchMessage, WatchStream};

#[derive(Default)]
struct State {
    /// Every version of every key; `None` marks a deletion.
    keys: BTreeMap<Arc<str>, Vec<(Revision, Option<Bytes>)>>,
    log: VecDeque<Logged>,
    compacted: Revision,
    revision: Revision,
}

/// A change, in little space: the key is shared.
struct Logged {
    key: Arc<str>,
    revision: Revision,
    value: Option<Bytes>,
    previous: Option<Bytes>,
}

impl Logged {
    fn change(&self) -> Change {
        Change {
            key: self.key.to_string(),
            revision: self.revision,
            value: self.value.clone(),
            previous: self.previous.clone(),
        }
    }
}

struct Inner {
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
}

/// The store; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct MemoryBackend(Arc<Inner>);

impl Default for MemoryBackend {
    fn default() -> Self {
        let state = State { revision: Revision(1), ..State::default() };
        MemoryBackend(Arc::new(Inner { state: Mutex::new(state), revision: watch::Sender::new(Revision(1)) }))
    }
}

impl State {
    fn current(&self, key: &str) -> Option<KeyValue> {
        self.at(key, self.revision)
    }

    fn at(&self, key: &str, revision: Revision) -> Option<KeyValue> {
        let versions = self.keys.get(key)?;
        let (revision, value) = versions.iter().rev().find(|(at, _)| *at <= revision)?;
        Some(KeyValue { key: key.to_owned(), value: value.clone()?, revision: *revision })
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) -> Revision {
        let previous = self.current(key).map(|kv| kv.value);
        self.revision = Revision(self.revision.0 + 1);
        let key = self.keys.get_key_value(key).map_or_else(|| Arc::from(key), |(key, _)| Arc::clone(key));
        let versions = self.keys.entry(Arc::clone(&key)).or_insert_with(|| Vec::with_capacity(1));
        versions.push((self.revision, value.clone()));
        self.log.push_back(Logged { key, revision: self.revision, value, previous });
        self.revision
    }
}

impl MemoryBackend {
    fn swap(&self, key: &str, expected: Option<Revision>, value: Option<Bytes>) -> Swap {
        let mut state = self.0.state.lock();
        let current = state.current(key);
        if current.as_ref().map(|kv| kv.revision) != expected {
            return Swap::Conflict(current);
        }
        let revision = state.write(key, value);
        drop(state);
        self.0.revision.send_replace(revision);
        Swap::Done(revision)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StorageError> {
        Ok(self.0.state.lock().current(key))
    }

    async fn list(&self, Range { prefix, after, limit, at }: Range<'_>) -> Result<Listing, StorageError> {
        let state = self.0.state.lock();
        let revision = at.unwrap_or(state.revision);
        if revision < state.compacted {
            return Err(StorageError::Compacted);
        }
        if revision > state.revision {
            return Err(StorageError::Future);
        }
        let from = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let limit = limit.unwrap_or(usize::MAX);
        let mut items: Vec<KeyValue> = state
            .keys
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, _)| state.at(key, revision))
            .take(limit.saturating_add(1))
            .collect();
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Listing { items, revision, more })
    }

    async fn put(&self, put: Put<'_>) -> Result<Swap, StorageError> {
        Ok(self.swap(put.key, put.expected, Some(put.value)))
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, StorageError> {
        Ok(self.swap(key, Some(expected), None))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StorageError> {
        if after < self.0.state.lock().compacted {
            return Err(StorageError::Compacted);
        }
        let receiver = self.0.revision.subscribe();
        let start = (self.clone(), receiver, prefix.to_owned(), after);
        Ok(Box::pin(stream::unfold(start, |(store, mut receiver, prefix, after)| async move {
            receiver.wait_for(|revision| *revision > after).await.ok()?;
            let (changes, last) = {
                let state = store.0.state.lock();
                let from = state.log.partition_point(|change| change.revision <= after);
                let logged = state.log.range(from..).filter(|logged| logged.key.starts_with(&prefix));
                let changes: Vec<Change> = logged.map(Logged::change).collect();
                (changes, state.revision)
            };
            let message =
                if changes.is_empty() { WatchMessage::Progress(last) } else { WatchMessage::Changes(changes) };
            Some((Ok(message), (store, receiver, prefix, last)))
        })))
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        Ok(self.0.state.lock().revision)
    }

    async fn compact(&self, before: Revision) -> Result<(), StorageError> {
        let mut state = self.0.state.lock();
        if before > state.revision {
            return Err(StorageError::Future);
        }
        state.compacted = state.compacted.max(before);
        state.log.retain(|change| change.revision > before);
        state.keys.retain(|_, versions| {
            let keep = versions.iter().rposition(|(revision, _)| *revision <= before).unwrap_or(0);
            versions.drain(..keep);
            !matches!(versions.as_slice(), [(_, None)])
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn put<'a>(key: &'a str, expected: Option<Revision>, value: &'static str) -> Put<'a> {
        Put { key, expected, value: Bytes::from(value), ttl: None }
    }

    #[tokio::test]
    async fn swaps_compare_revisions_and_history_can_be_read_until_compacted() {
        let store = MemoryBackend::default();
        let Swap::Done(first) = store.put(put("/a", None, "1")).await.unwrap() else { panic!() };
        assert!(matches!(store.put(put("/a", None, "x")).await.unwrap(), Swap::Conflict(Some(_))));
        let Swap::Done(second) = store.put(put("/a", Some(first), "2")).await.unwrap() else { panic!() };
        let old = store.list(Range { prefix: "/", at: Some(first), ..Range::default() }).await.unwrap();
        assert_eq!(old.items[0].value, "1");
        store.compact(second).await.unwrap();
        assert!(matches!(
            store.list(Range { prefix: "/", at: Some(first), ..Range::default() }).await,
            Err(StorageError::Compacted)
        ));
        assert!(store.watch("", first).await.is_err());
        assert_eq!(store.get("/a").await.unwrap().unwrap().value, "2");
    }

    #[tokio::test]
    async fn a_watch_replays_and_then_follows() {
        let store = MemoryBackend::default();
        let Swap::Done(first) = store.put(put("/a", None, "1")).await.unwrap() else { panic!() };
        let mut watch = store.watch("", Revision(1)).await.unwrap();
        let Some(Ok(WatchMessage::Changes(changes))) = watch.next().await else { panic!() };
        assert_eq!(changes[0].revision, first);
        store.delete("/a", first).await.unwrap();
        let Some(Ok(WatchMessage::Changes(changes))) = watch.next().await else { panic!() };
        assert_eq!((changes[0].value.clone(), changes[0].previous.clone()), (None, Some(Bytes::from("1"))));
    }
}
