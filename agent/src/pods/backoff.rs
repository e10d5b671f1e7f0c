//! Growing waits per key, driven by a clock that the caller passes in.
//!
//! The wait counts from the event that caused it (a container's end). A key
//! that stayed quiet for twice the longest wait starts over.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

#[derive(Clone, Copy, Debug)]
struct Entry {
    wait: Duration,
    updated: Timestamp,
}

/// Waits per key.
#[derive(Clone, Debug)]
pub struct BackOff {
    first: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

impl BackOff {
    pub fn new(first: Duration, max: Duration) -> BackOff {
        BackOff { first, max, entries: HashMap::new() }
    }

    /// How long is still to wait after an event at `since`, and the whole wait; `None` when one may go on.
    pub fn remaining(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key).filter(|entry| !self.is_stale(entry, since))?;
        let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let left = entry.wait.checked_sub(passed)?;
        (!left.is_zero()).then_some((left, entry.wait))
    }

    /// Notes that one goes on now after an event at `since`: the next wait is longer.
    pub fn next(&mut self, key: &str, since: Timestamp, now: Timestamp) {
        let wait = match self.entries.get(key) {
            Some(entry) if !self.is_stale(entry, since) => (entry.wait * 2).min(self.max),
            _ => self.first,
        };
        self.entries.insert(key.to_owned(), Entry { wait, updated: now });
    }

    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }

    fn is_stale(&self, entry: &Entry, since: Timestamp) -> bool {
        let quiet = since.duration_since(entry.updated);
        quiet > SignedDuration::try_from(self.max * 2).unwrap_or(SignedDuration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn waits_double_up_to_the_bound_and_start_over_after_quiet() {
        let mut backoff = BackOff::new(Duration::from_secs(10), Duration::from_secs(300));
        assert_eq!(backoff.remaining("k", at(0), at(0)), None, "first restart is immediate");
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoff.next("k", at(now), at(now));
            now += 1;
            let (left, whole) = backoff.remaining("k", at(now), at(now)).unwrap();
            assert_eq!(left, whole);
            waits.push(whole.as_secs());
            now += i64::try_from(whole.as_secs()).unwrap();
            assert_eq!(backoff.remaining("k", at(now - 300), at(now)), None);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + 601;
        assert_eq!(backoff.remaining("k", at(later), at(later)), None);
        backoff.next("k", at(later), at(later));
        assert_eq!(backoff.remaining("k", at(later), at(later)).unwrap().1.as_secs(), 10);
    }
}
