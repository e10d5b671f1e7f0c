//! The ring of recent events, and who waits for which keys.
//!
//! Watchers pull: the hub holds one mark per watcher ("there may be something from this
//! revision on") and wakes it. No event is queued per watcher, so a slow one costs nothing
//! but the ring it shares, and reads the log when the ring has moved on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::kv::Event;
use crate::limits::{RING_BYTES_MAX, RING_EVENTS_MAX, WATCH_BATCH_BYTES, WATCH_BATCH_EVENTS};
use crate::range::{KeyRange, RangeEnd};
use crate::revision::Revision;

type WatcherId = u64;

/// What a watcher finds when it looks.
pub(crate) enum Poll {
    /// Matching events, and where to go on if there may be more.
    Events(Vec<Arc<Event>>, Option<Revision>),
    /// The ring no longer reaches back to the first revision; the second is the newest published.
    Replay(Revision, Revision),
    /// Nothing up to and including this revision.
    Synced(Revision),
    /// The store is closed.
    Closed,
}

struct Slot {
    range: KeyRange,
    /// Nothing below is of interest.
    start: Revision,
    /// There may be unread events from here on.
    pending: Option<Revision>,
    wake: Arc<Notify>,
}

/// Ring and watchers; one lock, held briefly.
pub(crate) struct Hub {
    state: Mutex<State>,
}

struct State {
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// The ring holds every event from this revision on.
    oldest: Revision,
    /// The last published revision.
    revision: Revision,
    slots: HashMap<WatcherId, Slot>,
    interests: Interests,
    next_id: WatcherId,
    closed: bool,
}

/// Watchers by what they watch.
#[derive(Default)]
struct Interests {
    keys: HashMap<Bytes, Vec<WatcherId>>,
    prefixes: HashMap<Bytes, Vec<WatcherId>>,
    /// How many prefixes of each length there are.
    lengths: BTreeMap<usize, usize>,
    others: Vec<(KeyRange, WatcherId)>,
}

/// A registered watcher; unregisters when dropped.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    id: WatcherId,
    pub(crate) wake: Arc<Notify>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        if let Some(slot) = state.slots.remove(&self.id) {
            state.interests.remove(&slot.range, self.id);
        }
    }
}

impl Hub {
    pub(crate) fn new(revision: Revision) -> Hub {
        Hub {
            state: Mutex::new(State {
                ring: VecDeque::new(),
                ring_bytes: 0,
                oldest: revision.next(),
                revision,
                slots: HashMap::new(),
                interests: Interests::default(),
                next_id: 0,
                closed: false,
            }),
        }
    }

    /// Registers interest in `range` from `start` on; 0 means everything after now.
    /// Returns the last revision published before.
    pub(crate) fn subscribe(self: &Arc<Self>, range: KeyRange, start: Revision) -> (Subscription, Revision) {
        let mut state = self.state.lock();
        let published = state.revision;
        let start = if start.0 == 0 { published.next() } else { start };
        let id = state.next_id;
        state.next_id += 1;
        let wake = Arc::new(Notify::new());
        state.interests.add(&range, id);
        let pending = (start <= published).then_some(start);
        state.slots.insert(id, Slot { range, start, pending, wake: wake.clone() });
        (Subscription { hub: self.clone(), id, wake }, published)
    }

    /// Adds committed events in revision order and wakes who waits for them.
    pub(crate) fn publish(&self, events: Vec<Event>, revision: Revision) {
        let mut state = self.state.lock();
        let mut woken = Vec::new();
        for event in events {
            let at = event.kv.mod_revision;
            state.interests.matching(&event.kv.key, &mut woken);
            for id in woken.drain(..) {
                if let Some(slot) = state.slots.get_mut(&id)
                    && at >= slot.start
                    && slot.pending.is_none()
                {
                    slot.pending = Some(at);
                    slot.wake.notify_one();
                }
            }
            state.ring_bytes += event.weight();
            state.ring.push_back(Arc::new(event));
        }
        state.revision = revision;
        state.trim();
    }

    /// Goes on at `revision` after events that nobody has seen and nobody can see any more: every
    /// watcher reads on in the log, where it is told.
    pub(crate) fn jump(&self, revision: Revision) {
        let mut state = self.state.lock();
        let first = state.revision.next();
        state.ring.clear();
        state.ring_bytes = 0;
        state.oldest = revision.next();
        state.revision = revision;
        for slot in state.slots.values_mut() {
            if slot.start <= revision && slot.pending.is_none() {
                slot.pending = Some(first.max(slot.start));
                slot.wake.notify_one();
            }
        }
    }

    /// Wakes everybody for the last time.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.slots.values().for_each(|slot| slot.wake.notify_one());
    }
}

impl Subscription {
    /// Looks for events from `cursor` on, or else from the hub's mark.
    pub(crate) fn poll(&self, cursor: Option<Revision>) -> Poll {
        let mut guard = self.hub.state.lock();
        let state = &mut *guard;
        if state.closed {
            return Poll::Closed;
        }
        let Some(slot) = state.slots.get_mut(&self.id) else { return Poll::Closed };
        let pending = slot.pending.take();
        let Some(from) = cursor.or(pending) else { return Poll::Synced(state.revision) };
        if from < state.oldest {
            return Poll::Replay(from, state.revision);
        }
        let (events, more) = state.ring_from(from, &state.slots[&self.id].range);
        if events.is_empty() {
            return Poll::Synced(state.revision);
        }
        Poll::Events(events, more)
    }
}

impl State {
    /// Matching events of the ring, whole revisions, up to about one delivery.
    fn ring_from(&self, from: Revision, range: &KeyRange) -> (Vec<Arc<Event>>, Option<Revision>) {
        let start = self.ring.partition_point(|event| event.kv.mod_revision < from);
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut bytes = 0;
        for event in self.ring.range(start..) {
            let at = event.kv.mod_revision;
            let full = events.len() >= WATCH_BATCH_EVENTS || bytes >= WATCH_BATCH_BYTES;
            if full && events.last().is_some_and(|last| last.kv.mod_revision < at) {
                return (events, Some(at));
            }
            if range.contains(&event.kv.key) {
                bytes += event.weight();
                events.push(event.clone());
            }
        }
        (events, None)
    }

    /// Drops whole revisions from the front until the bounds hold.
    fn trim(&mut self) {
        while self.ring.len() > RING_EVENTS_MAX || self.ring_bytes > RING_BYTES_MAX {
            let Some(front) = self.ring.front() else { return };
            let revision = front.kv.mod_revision;
            while let Some(event) = self.ring.front()
                && event.kv.mod_revision == revision
            {
                self.ring_bytes -= event.weight();
                self.ring.pop_front();
            }
            self.oldest = revision.next();
        }
    }
}

impl Interests {
    fn add(&mut self, range: &KeyRange, id: WatcherId) {
        if range.end == RangeEnd::Single {
            self.keys.entry(range.start.clone()).or_default().push(id);
        } else if let Some(prefix) = range.as_prefix() {
            let ids = self.prefixes.entry(prefix.clone()).or_default();
            if ids.is_empty() {
                *self.lengths.entry(prefix.len()).or_default() += 1;
            }
            ids.push(id);
        } else {
            self.others.push((range.clone(), id));
        }
    }

    fn remove(&mut self, range: &KeyRange, id: WatcherId) {
        if range.end == RangeEnd::Single {
            remove_from(&mut self.keys, &range.start, id);
        } else if let Some(prefix) = range.as_prefix() {
            if remove_from(&mut self.prefixes, &prefix, id)
                && let Some(count) = self.lengths.get_mut(&prefix.len())
            {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&prefix.len());
                }
            }
        } else {
            self.others.retain(|(_, other)| *other != id);
        }
    }

    fn matching(&self, key: &Bytes, ids: &mut Vec<WatcherId>) {
        ids.extend(self.keys.get(key).into_iter().flatten());
        for length in self.lengths.keys().take_while(|length| **length <= key.len()) {
            ids.extend(self.prefixes.get(&key[..*length]).into_iter().flatten());
        }
        ids.extend(self.others.iter().filter(|(range, _)| range.contains(key)).map(|(_, id)| id));
    }
}

/// True if the entry is gone.
fn remove_from(map: &mut HashMap<Bytes, Vec<WatcherId>>, key: &Bytes, id: WatcherId) -> bool {
    let Some(ids) = map.get_mut(key) else { return false };
    ids.retain(|other| *other != id);
    let gone = ids.is_empty();
    if gone {
        map.remove(key);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{EventKind, KeyValue};

    fn put(key: &str, revision: u64) -> Event {
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            mod_revision: Revision(revision),
            version: 1,
            ..KeyValue::default()
        };
        Event { kind: EventKind::Put, kv, prev_kv: None }
    }

    fn keys(poll: Poll) -> Vec<Bytes> {
        match poll {
            Poll::Events(events, _) => events.iter().map(|e| e.kv.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn each_kind_of_range_sees_its_keys_and_no_others() {
        let hub = Arc::new(Hub::new(Revision(1)));
        let of = |range| hub.subscribe(range, Revision(0)).0;
        let key = of(KeyRange::key("/a/1"));
        let prefix = of(KeyRange::prefix("/a/"));
        let between = of(KeyRange::between("/a/2", "/b/2"));
        let all = of(KeyRange::all());
        for (revision, name) in [(2, "/a/1"), (3, "/a/2"), (4, "/b/1"), (5, "/c")] {
            hub.publish(vec![put(name, revision)], Revision(revision));
        }
        assert_eq!(keys(key.poll(None)), ["/a/1"]);
        assert_eq!(keys(prefix.poll(None)), ["/a/1", "/a/2"]);
        assert_eq!(keys(between.poll(None)), ["/a/2", "/b/1"]);
        assert_eq!(keys(all.poll(None)).len(), 4);
        assert!(matches!(key.poll(None), Poll::Synced(Revision(5))));
    }

    #[test]
    fn an_idle_watcher_is_not_sent_to_the_log_when_the_ring_moves_on() {
        let hub = Arc::new(Hub::new(Revision(1)));
        let idle = hub.subscribe(KeyRange::key("quiet"), Revision(0)).0;
        let slow = hub.subscribe(KeyRange::key("busy"), Revision(0)).0;
        for revision in 2..RING_EVENTS_MAX as u64 + 100 {
            hub.publish(vec![put("busy", revision)], Revision(revision));
        }
        assert!(matches!(slow.poll(None), Poll::Replay(Revision(2), _)));
        assert!(matches!(idle.poll(None), Poll::Synced(_)));
    }

    #[test]
    fn one_revision_is_delivered_whole() {
        let hub = Arc::new(Hub::new(Revision(1)));
        let all = hub.subscribe(KeyRange::all(), Revision(0)).0;
        let many = (0..WATCH_BATCH_EVENTS + 50).map(|i| put(&i.to_string(), 2)).collect();
        hub.publish(many, Revision(2));
        hub.publish(vec![put("next", 3)], Revision(3));
        let Poll::Events(events, more) = all.poll(None) else { panic!("events") };
        assert_eq!((events.len(), more), (WATCH_BATCH_EVENTS + 50, Some(Revision(3))));
        assert_eq!(keys(all.poll(more)), ["next"]);
    }

    #[test]
    fn a_dropped_watcher_leaves_nothing_behind() {
        let hub = Arc::new(Hub::new(Revision(1)));
        let ranges = [KeyRange::key("a"), KeyRange::prefix("a"), KeyRange::between("a", "c"), KeyRange::all()];
        for range in ranges {
            drop(hub.subscribe(range, Revision(0)));
        }
        let state = hub.state.lock();
        let interests = &state.interests;
        assert!(state.slots.is_empty() && interests.keys.is_empty());
        assert!(interests.prefixes.is_empty() && interests.lengths.is_empty());
        assert!(interests.others.is_empty());
    }
}
