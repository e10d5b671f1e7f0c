//! The queue between events and workers: each key at most once waiting, never
//! handled twice at the same time, with delays and exponential back-off.
//!
//! Invariants: a key added while it is being handled is handed out again after
//! [`WorkQueue::done`]; of several delays for one key the shortest wins. The
//! queue holds each key once, so it is bounded by the number of objects that
//! exist.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    limits::{BACKOFF_MAX, BACKOFF_MIN},
    metrics::{self, QueueMetrics},
};

struct State<K> {
    ready: VecDeque<K>,
    /// Keys that wait in `ready`, or must return to it when their worker is done.
    dirty: HashSet<K>,
    /// And since when.
    processing: HashMap<K, Instant>,
    delayed: BTreeMap<(Instant, u64), K>,
    delays: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
}

/// A shared queue of keys.
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    metrics: Option<Arc<QueueMetrics>>,
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashMap::new(),
            delayed: BTreeMap::new(),
            delays: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        };
        WorkQueue { state: Mutex::new(state), changed: Notify::new(), metrics: None }
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub fn new() -> Self {
        WorkQueue::default()
    }

    /// A queue whose counters show under a name.
    pub fn named(name: &str) -> Self {
        WorkQueue { metrics: Some(metrics::queue(name)), ..WorkQueue::default() }
    }

    fn count(&self, count: impl FnOnce(&QueueMetrics)) {
        if let Some(metrics) = &self.metrics {
            count(metrics);
        }
    }

    /// Queues a key unless it waits already.
    pub fn add(&self, key: K) {
        let mut state = self.state.lock();
        if state.add(key) {
            let depth = state.ready.len();
            drop(state);
            self.count(|metrics| {
                metrics.adds.fetch_add(1, Ordering::Relaxed);
                metrics.depth.store(i64::try_from(depth).unwrap_or(i64::MAX), Ordering::Relaxed);
            });
            self.changed.notify_one();
        }
    }

    /// Queues a key after a delay, or earlier if an earlier delay is set.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        let due = Instant::now() + delay;
        if let Some(have) = state.delays.get(&key).copied() {
            if have.0 <= due {
                return;
            }
            state.delayed.remove(&have);
        }
        state.sequence += 1;
        let at = (due, state.sequence);
        state.delayed.insert(at, key.clone());
        state.delays.insert(key, at);
        drop(state);
        self.changed.notify_one();
    }

    /// Queues a key after its back-off, which doubles with every call until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) {
        self.count(|metrics| {
            metrics.retries.fetch_add(1, Ordering::Relaxed);
        });
        let failures = {
            let mut state = self.state.lock();
            let count = state.failures.entry(key.clone()).or_insert(0);
            *count += 1;
            *count
        };
        self.add_after(key, backoff(BACKOFF_MIN, BACKOFF_MAX, failures - 1));
    }

    /// Ends the back-off of a key.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// The next key; its owner must call [`WorkQueue::done`].
    pub async fn next(&self) -> K {
        loop {
            let notified = self.changed.notified();
            let due = {
                let mut state = self.state.lock();
                state.move_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone(), Instant::now());
                    let depth = i64::try_from(state.ready.len()).unwrap_or(i64::MAX);
                    self.count(|metrics| metrics.depth.store(depth, Ordering::Relaxed));
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.first_key_value().map(|((due, _), _)| *due)
            };
            match due {
                None => notified.await,
                Some(due) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// Ends the handling of a key.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        if let Some(since) = state.processing.remove(key) {
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.count(|metrics| {
                metrics.handled.fetch_add(1, Ordering::Relaxed);
                metrics.handled_micros.fetch_add(micros, Ordering::Relaxed);
            });
        }
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Keys ready to be handled.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether a key became ready.
    fn add(&mut self, key: K) -> bool {
        if let Some(at) = self.delays.remove(&key) {
            self.delayed.remove(&at);
        }
        if !self.dirty.insert(key.clone()) || self.processing.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn move_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.delays.remove(&key);
            self.add(key);
        }
    }
}

/// `min * 2^attempt`, at most `max`, spread by up to a quarter so that many failures do not return together.
pub fn backoff(min: Duration, max: Duration, attempt: u32) -> Duration {
    let exact = min.saturating_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).min(max);
    exact.mul_f64(1.0 - rand::random::<f64>() * 0.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_handed_out_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert!(tokio::time::timeout(Duration::from_secs(5), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_handled_returns_after_done() {
        let queue = WorkQueue::new();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        assert!(tokio::time::timeout(Duration::from_secs(5), queue.next()).await.is_err());
        queue.done(&key);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_wins() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(1));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 1);
        queue.done(&"a");
        assert!(tokio::time::timeout(Duration::from_secs(120), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_doubles_until_forgotten() {
        let queue = WorkQueue::new();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            let key = queue.next().await;
            queue.done(&key);
            waits.push(start.elapsed());
        }
        assert!(waits[7] > waits[0] * 50, "{waits:?}");
        queue.forget(&"a");
        let start = Instant::now();
        queue.add_rate_limited("a");
        queue.next().await;
        assert!(start.elapsed() <= Duration::from_millis(7));
    }

    #[test]
    fn back_off_stays_within_its_bounds() {
        for attempt in 0..100 {
            let wait = backoff(BACKOFF_MIN, BACKOFF_MAX, attempt);
            assert!(wait <= BACKOFF_MAX && wait >= BACKOFF_MIN.mul_f64(0.74));
        }
    }
}
