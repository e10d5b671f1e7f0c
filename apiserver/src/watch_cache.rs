//! The current objects of one resource and its recent changes.
//!
//! The dispatcher ([`crate::caches`]) is the one writer. A change enters the
//! store and the ring under one lock, so a subscriber that takes the lock sees
//! either both or neither: what it lists and what it is told afterwards fit
//! together without gap or repetition. A watcher is a cursor into the ring, not
//! a queue: one that falls behind the ring's tail is cut and must list again.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use skiff_api::{GroupResource, Object, Revision};
use skiff_client::{Store, StoreWriter, store};
use tokio::{sync::watch, time::Instant};

use crate::{
    indexes, limits,
    selection::Selection,
    storage::{self, Change, codec, handover::Handover},
};

/// One change of one object.
pub struct CacheEvent {
    pub revision: Revision,
    /// The new state; for a deletion the last state at the deletion's revision.
    pub object: Arc<Object>,
    /// The state before.
    pub old: Option<Arc<Object>>,
    pub deleted: bool,
    seen: Instant,
    /// `old` at this revision, for watchers whose selection it left.
    left: OnceLock<Option<Arc<Object>>>,
}

/// How a watcher sees a change.
#[derive(Clone, Debug)]
pub enum Seen {
    Added(Arc<Object>),
    Modified(Arc<Object>),
    Deleted(Arc<Object>),
}

impl CacheEvent {
    /// The change through a selection; `None` when it does not show.
    pub fn through(&self, selection: &Selection) -> Option<Seen> {
        let before = self.old.as_ref().is_some_and(|old| selection.matches(old));
        if self.deleted {
            return before.then(|| Seen::Deleted(Arc::clone(&self.object)));
        }
        match (before, selection.matches(&self.object)) {
            (false, true) => Some(Seen::Added(Arc::clone(&self.object))),
            (true, true) => Some(Seen::Modified(Arc::clone(&self.object))),
            (true, false) => self.left().map(Seen::Deleted),
            (false, false) => None,
        }
    }

    /// The same change of an object as it is seen in another version.
    pub fn showing(&self, object: Arc<Object>, old: Option<Arc<Object>>) -> CacheEvent {
        CacheEvent { object, old, left: OnceLock::new(), ..*self }
    }

    fn left(&self) -> Option<Arc<Object>> {
        let make = || {
            let old = self.old.as_ref()?;
            let json = codec::at_revision(old.json(), self.revision).ok()?;
            Object::from_json(json).ok().map(Arc::new)
        };
        self.left.get_or_init(make).clone()
    }

    /// Memory this event keeps alive: the superseded state with its parsed and
    /// typed forms, which are about twice its JSON. The new state is mostly alive
    /// in the store anyway.
    fn weight(&self) -> usize {
        const PARSED: usize = 1024;
        self.old.as_ref().map_or(0, |old| old.json().len() * 3 + PARSED) + size_of::<CacheEvent>()
    }
}

struct Ring {
    events: VecDeque<Arc<CacheEvent>>,
    /// Number of the first event in `events`, counted since the start.
    first: u64,
    bytes: usize,
    /// Number of the first event whose old object may still hold derived forms.
    warm: u64,
    /// Every change after this revision is in `events`.
    complete_after: Revision,
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn push(&mut self, event: CacheEvent) {
        self.bytes += event.weight();
        self.events.push_back(Arc::new(event));
        self.trim();
    }

    /// Lets the oldest go while there are too many.
    fn trim(&mut self) {
        while self.is_full() {
            let Some(gone) = self.events.pop_front() else { break };
            self.bytes -= gone.weight();
            self.first += 1;
            self.complete_after = gone.revision;
        }
    }

    /// Takes the derived forms from objects that are history: everybody who
    /// follows has seen them, and a pod's are several times its JSON.
    fn cool(&mut self) {
        self.warm = self.warm.max(self.first);
        while let Some(event) = self.events.get((self.warm - self.first) as usize) {
            if event.seen.elapsed() < limits::RING_WARM {
                break;
            }
            if let Some(old) = &event.old {
                old.forget_derived();
            }
            if event.deleted {
                event.object.forget_derived();
            }
            self.warm += 1;
        }
    }

    /// Whether the oldest event must go.
    fn is_full(&self) -> bool {
        let Some(oldest) = self.events.front() else { return false };
        let stale = self.bytes > limits::RING_BYTES_STALE && oldest.seen.elapsed() > limits::RING_FRESH;
        self.events.len() > limits::RING_EVENTS_MAX
            || (self.events.len() > limits::RING_EVENTS_MIN && (stale || self.bytes > limits::RING_BYTES_MAX))
    }

    /// Forgets everything; every watcher is cut because its cursor is now before the ring.
    fn reset(&mut self, revision: Revision) {
        self.first = self.end() + 1;
        self.events.clear();
        self.bytes = 0;
        self.complete_after = revision;
    }
}

/// Why a watch cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("too old resource version: {wanted} ({oldest})")]
    TooOld { wanted: Revision, oldest: Revision },
    /// The watcher is slower than the changes.
    #[error("watch was too slow")]
    TooSlow,
    /// The resource is no longer served, or the server stops.
    #[error("watch ended")]
    Closed,
}

const PODS: GroupResource = GroupResource::new("", "pods");

/// The cache of one resource.
pub struct WatchCache {
    pub resource: GroupResource,
    /// Prefix of the keys, with final slash.
    pub prefix: String,
    writer: StoreWriter,
    store: Store,
    ring: Mutex<Ring>,
    /// Number behind the last event; wakes watchers.
    end: watch::Sender<u64>,
    /// When watchers were woken last.
    woken: Mutex<Option<Instant>>,
}

/// How long watchers are left alone after they were woken.
fn pause(watchers: usize) -> Duration {
    let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
    let pause = limits::WAKE_PAUSE_PER_WATCHER.saturating_mul(watchers).min(limits::WAKE_PAUSE_MAX);
    if pause < limits::WAKE_PAUSE_MIN { Duration::ZERO } else { pause }
}

impl WatchCache {
    pub fn new(resource: GroupResource) -> WatchCache {
        let (writer, store) = store::store(indexes::of(&resource));
        let ring = Ring { events: VecDeque::new(), first: 0, bytes: 0, warm: 0, complete_after: Revision(u64::MAX) };
        WatchCache {
            prefix: storage::resource_prefix(&resource),
            resource,
            writer,
            store,
            ring: Mutex::new(ring),
            end: watch::Sender::new(0),
            woken: Mutex::default(),
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Objects of a selection in list order, and the revision they show.
    pub fn list(&self, selection: &Selection) -> (Vec<Arc<Object>>, Revision) {
        let (objects, revision) = {
            let _ring = self.ring.lock();
            (self.candidates(selection), self.store.revision())
        };
        (objects.into_iter().filter(|object| selection.matches(object)).collect(), revision)
    }

    /// A superset of a selection, found by the narrowest access path.
    fn candidates(&self, selection: &Selection) -> Vec<Arc<Object>> {
        if let (Some(name), Some(namespace)) = (selection.field("metadata.name"), &selection.namespace) {
            return self.store.get(namespace, name).into_iter().collect();
        }
        if self.resource == PODS
            && let Some(node) = selection.field("spec.nodeName")
            && !node.is_empty()
        {
            let mut pods = self.store.by_index(&indexes::PODS_BY_NODE, node);
            pods.sort_by(|a, b| (&a.meta.namespace, &a.meta.name).cmp(&(&b.meta.namespace, &b.meta.name)));
            return pods;
        }
        self.store.list(selection.namespace.as_deref())
    }

    /// Changes after a revision, from the ring and then live.
    pub fn subscribe(self: &Arc<Self>, after: Revision) -> Result<Watcher, WatchError> {
        let ring = self.ring.lock();
        if after < ring.complete_after {
            return Err(WatchError::TooOld { wanted: after, oldest: ring.complete_after });
        }
        let skip = ring.events.partition_point(|event| event.revision <= after);
        let next = ring.first + skip as u64;
        Ok(Watcher { cache: Arc::clone(self), next, after, wake: self.end.subscribe() })
    }

    /// The objects of a selection, their revision, and the changes from there on.
    pub fn list_and_subscribe(self: &Arc<Self>, selection: &Selection) -> (Vec<Arc<Object>>, Revision, Watcher) {
        let (objects, revision, watcher) = {
            let ring = self.ring.lock();
            let after = self.store.revision();
            let watcher = Watcher { cache: Arc::clone(self), next: ring.end(), after, wake: self.end.subscribe() };
            (self.candidates(selection), after, watcher)
        };
        (objects.into_iter().filter(|object| selection.matches(object)).collect(), revision, watcher)
    }

    /// Whether nothing of this resource changed after `revision`.
    pub fn unchanged_since(&self, revision: Revision) -> bool {
        let ring = self.ring.lock();
        match ring.events.back() {
            Some(last) => last.revision <= revision,
            None => ring.complete_after <= revision,
        }
    }

    /// Replaces everything: after start, or when the history was lost.
    pub(crate) fn load(&self, objects: Vec<Arc<Object>>, revision: Revision) {
        let mut ring = self.ring.lock();
        ring.reset(revision);
        self.writer.replace(objects, revision);
        self.end.send_replace(ring.end());
    }

    /// Takes in one change, as the object its writer handed over or decoded; [`WatchCache::wake`] tells the watchers. An
    /// undecodable value is reported and the object treated as absent, because
    /// nothing can be done with it.
    pub(crate) fn apply(&self, change: &Change, handover: &Handover) {
        let mut ring = self.ring.lock();
        // Already part of what was loaded (or nothing is loaded yet).
        if change.revision <= ring.complete_after {
            return;
        }
        let Some(key) = split_key(&change.key, &self.prefix) else { return };
        let old = self.store.get(key.0, key.1);
        let state = match &change.value {
            Some(value) => match handover.take(value) {
                Some(encoded) => encoded.at(change.revision),
                None => codec::decode(value, change.revision).map(Arc::new),
            },
            None => match old.as_ref() {
                Some(old) => codec::at_revision(old.json(), change.revision).and_then(Object::from_json).map(Arc::new),
                None => return,
            },
        };
        let object = match state {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(component = "watch-cache", key = change.key, %error, "stored value does not decode");
                return;
            }
        };
        let deleted = change.value.is_none();
        if deleted {
            self.writer.delete(Arc::clone(&object));
        } else {
            self.writer.apply(Arc::clone(&object));
        }
        ring.push(CacheEvent {
            revision: change.revision,
            object,
            old,
            deleted,
            seen: Instant::now(),
            left: OnceLock::new(),
        });
    }

    /// Wakes the watchers for what has been taken in, or says when that is due.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut woken = self.woken.lock();
        let due = woken.map(|at| at + pause(self.end.receiver_count())).filter(|due| *due > now);
        if due.is_none() {
            *woken = Some(now);
            let end = self.ring.lock().end();
            self.end.send_replace(end);
        }
        due
    }

    /// Everything up to `revision` has been seen.
    pub(crate) fn advance(&self, revision: Revision) {
        let mut ring = self.ring.lock();
        // A burst of this resource may be followed by silence: what makes events old is the life of the others.
        ring.trim();
        ring.cool();
        self.writer.advance(revision);
    }

    /// Cuts all watchers: the resource is no longer served.
    pub(crate) fn close(&self) {
        let mut ring = self.ring.lock();
        ring.reset(Revision(u64::MAX));
        self.end.send_replace(ring.end());
    }
}

/// Namespace and name in a key.
fn split_key<'a>(key: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = key.strip_prefix(prefix)?;
    Some(rest.split_once('/').unwrap_or(("", rest)))
}

/// A cursor into the changes of a cache.
pub struct Watcher {
    cache: Arc<WatchCache>,
    next: u64,
    /// Changes up to here are known to the client, even if this cache has yet to see them.
    after: Revision,
    wake: watch::Receiver<u64>,
}

impl Watcher {
    /// At most `limit` further events; empty when there are none yet.
    pub fn take(&mut self, limit: usize) -> Result<Vec<Arc<CacheEvent>>, WatchError> {
        self.wake.borrow_and_update();
        let ring = self.cache.ring.lock();
        if self.next < ring.first {
            return Err(if ring.complete_after == Revision(u64::MAX) {
                WatchError::Closed
            } else {
                WatchError::TooSlow
            });
        }
        let skip = usize::try_from(self.next - ring.first).unwrap_or(usize::MAX);
        let events: Vec<_> = ring.events.iter().skip(skip).take(limit).cloned().collect();
        self.next += events.len() as u64;
        Ok(events)
    }

    /// Whether the client knows this change already.
    pub fn knows(&self, event: &CacheEvent) -> bool {
        event.revision <= self.after
    }

    /// Waits until there may be further events.
    pub async fn changed(&mut self) {
        // The sender lives in `cache`, so the channel cannot close.
        let _ = self.wake.changed().await;
    }

    /// The revision this watcher has seen everything up to; `None` when events wait.
    pub fn caught_up(&self) -> Option<Revision> {
        let ring = self.cache.ring.lock();
        (self.next == ring.end()).then(|| self.cache.store.revision())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::json;
    use skiff_api::ResourceRegistry;

    use super::*;

    fn change(name: &str, label: Option<&str>, revision: u64) -> Change {
        let value = label.map(|label| {
            codec::encode(&json!({"kind": "ConfigMap", "apiVersion": "v1",
                "metadata": {"name": name, "namespace": "n", "labels": {"l": label}}}))
        });
        let key = format!("/registry/configmaps/n/{name}");
        Change { key, revision: Revision(revision), value, previous: None }
    }

    fn cache() -> Arc<WatchCache> {
        let cache = Arc::new(WatchCache::new(GroupResource::new("", "configmaps")));
        cache.load(Vec::new(), Revision(1));
        cache
    }

    fn selection(labels: &str) -> Selection {
        let row = ResourceRegistry::builtin().lookup("", "v1", "configmaps").unwrap();
        Selection::parse(&row, None, labels, "").unwrap()
    }

    fn text(seen: &Seen) -> String {
        match seen {
            Seen::Added(object) => format!("ADDED {} {}", object.meta.name, object.revision),
            Seen::Modified(object) => format!("MODIFIED {} {}", object.meta.name, object.revision),
            Seen::Deleted(object) => {
                format!("DELETED {} {} {:?}", object.meta.name, object.revision, object.meta.labels)
            }
        }
    }

    #[test]
    fn few_watchers_are_woken_at_once_and_many_not_too_often() {
        assert_eq!((pause(0), pause(99)), (Duration::ZERO, Duration::ZERO));
        assert_eq!(pause(1000), Duration::from_millis(10));
        assert_eq!(pause(usize::MAX), limits::WAKE_PAUSE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_wakes_many_watchers_twice() {
        let cache = cache();
        let mut watchers: Vec<Watcher> = (0..1000).map(|_| cache.subscribe(Revision(1)).unwrap()).collect();
        cache.apply(&change("a", Some("a"), 2), &Handover::default());
        assert_eq!(cache.wake(), None, "the first change goes out at once");
        watchers[0].changed().await;
        assert_eq!(watchers[0].take(10).unwrap().len(), 1);
        cache.apply(&change("b", Some("a"), 3), &Handover::default());
        cache.apply(&change("c", Some("a"), 4), &Handover::default());
        let due = cache.wake().expect("those behind it wait for each other");
        assert!(watchers[0].changed().now_or_never().is_none());
        tokio::time::sleep_until(due).await;
        assert_eq!(cache.wake(), None);
        watchers[0].changed().await;
        assert_eq!(watchers[0].take(10).unwrap().len(), 2);
    }

    #[test]
    fn leaving_a_selection_is_a_deletion_and_returning_an_addition() {
        let cache = cache();
        let mut watcher = cache.subscribe(Revision(1)).unwrap();
        for (label, revision) in [(Some("a"), 2), (Some("a"), 3), (Some("b"), 4), (Some("a"), 5), (None, 6)] {
            cache.apply(&change("x", label, revision), &Handover::default());
        }
        let selection = selection("l=a");
        let seen: Vec<String> =
            watcher.take(100).unwrap().iter().filter_map(|event| event.through(&selection)).map(|s| text(&s)).collect();
        assert_eq!(
            seen,
            ["ADDED x 2", "MODIFIED x 3", "DELETED x 4 {\"l\": \"a\"}", "ADDED x 5", "DELETED x 6 {\"l\": \"a\"}"]
        );
        assert_eq!(watcher.caught_up(), Some(Revision(6)));
    }

    #[test]
    fn a_watch_resumes_inside_the_ring_and_not_before_it() {
        let cache = cache();
        for revision in 2..(limits::RING_EVENTS_MAX as u64 + 10) {
            cache.apply(&change("x", Some("a"), revision), &Handover::default());
        }
        assert!(matches!(cache.subscribe(Revision(3)), Err(WatchError::TooOld { .. })));
        let mut watcher = cache.subscribe(Revision(limits::RING_EVENTS_MAX as u64)).unwrap();
        assert_eq!(watcher.take(1000).unwrap().len(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_shrinks_when_its_events_are_old() {
        let cache = cache();
        let large = "x".repeat(8000);
        for revision in 2..1002 {
            let value = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"k": large},
                "metadata": {"name": "x", "namespace": "n"}});
            let key = "/registry/configmaps/n/x".to_owned();
            let value = Some(codec::encode(&value));
            cache.apply(&Change { key, revision: Revision(revision), value, previous: None }, &Handover::default());
        }
        assert!(cache.subscribe(Revision(2)).is_ok(), "fresh events stay");
        tokio::time::advance(limits::RING_FRESH * 2).await;
        cache.advance(Revision(1500));
        assert!(cache.subscribe(Revision(800)).is_err(), "old events go although this resource is silent");
        cache.apply(&change("y", Some("a"), 1502), &Handover::default());
        assert!(cache.subscribe(Revision(1001 - limits::RING_EVENTS_MIN as u64 + 2)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn history_keeps_its_bytes_and_not_its_typed_forms() {
        let cache = cache();
        cache.apply(&change("x", Some("a"), 2), &Handover::default());
        let first = cache.store().get("n", "x").unwrap();
        let typed = Arc::downgrade(&first.typed::<serde_json::Value>().unwrap());
        cache.advance(Revision(3));
        tokio::time::advance(limits::RING_WARM * 2).await;
        cache.advance(Revision(4));
        assert!(typed.upgrade().is_some(), "the present object keeps them");
        cache.apply(&change("x", Some("b"), 5), &Handover::default());
        cache.advance(Revision(5));
        assert!(typed.upgrade().is_some(), "those who follow may still ask");
        tokio::time::advance(limits::RING_WARM * 2).await;
        cache.advance(Revision(6));
        assert!(typed.upgrade().is_none());
        assert_eq!(cache.subscribe(Revision(2)).unwrap().take(10).unwrap().len(), 1, "the event itself stays");
    }

    #[test]
    fn a_slow_watcher_is_cut() {
        let cache = cache();
        let mut watcher = cache.subscribe(Revision(1)).unwrap();
        for revision in 2..(limits::RING_EVENTS_MAX as u64 + 10) {
            cache.apply(&change("x", Some("a"), revision), &Handover::default());
        }
        assert_eq!(watcher.take(1).map(|_| ()), Err(WatchError::TooSlow));
    }

    #[test]
    fn a_reload_cuts_watchers() {
        let cache = cache();
        let mut watcher = cache.subscribe(Revision(1)).unwrap();
        cache.load(Vec::new(), Revision(9));
        assert_eq!(watcher.take(1).map(|_| ()), Err(WatchError::TooSlow));
        assert!(cache.subscribe(Revision(9)).is_ok());
        assert!(cache.subscribe(Revision(8)).is_err());
    }
}
