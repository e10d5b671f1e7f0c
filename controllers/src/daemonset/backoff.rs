//! How long a failed pod stays before it is replaced: longer each time on the
//! same node, so that a daemon that a node refuses does not keep everybody busy.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

const FIRST: SignedDuration = SignedDuration::from_secs(1);
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

/// A set at a generation on a node.
type Key = (String, i64, String);

/// Pauses by set and node; what has been quiet for long is forgotten.
#[derive(Default)]
pub struct Backoff {
    pauses: Mutex<HashMap<Key, (SignedDuration, Timestamp)>>,
}

impl Backoff {
    /// `None` when a failed pod may be replaced now, which is noted; else how long to wait.
    pub fn ask(&self, set_uid: &str, generation: i64, node: &str, now: Timestamp) -> Option<SignedDuration> {
        let mut pauses = self.pauses.lock();
        pauses.retain(|_, (_, since)| now.duration_since(*since) < LONGEST * 2);
        let key = (set_uid.to_owned(), generation, node.to_owned());
        let next = match pauses.get(&key) {
            None => FIRST,
            Some((pause, since)) => {
                let rest = *pause - now.duration_since(*since);
                if rest.is_positive() {
                    return Some(rest);
                }
                (*pause * 2).min(LONGEST)
            }
        };
        pauses.insert(key, (next, now));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_on_a_node_waits_twice_as_long_up_to_a_bound() {
        let backoff = Backoff::default();
        let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut waits = Vec::new();
        assert_eq!(backoff.ask("set", 1, "a", now), None);
        for _ in 0..12 {
            let wait = backoff.ask("set", 1, "a", now).unwrap();
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(backoff.ask("set", 1, "a", now), None);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(backoff.ask("set", 1, "b", now), None, "another node");
        assert_eq!(backoff.ask("set", 2, "a", now), None, "another template");
        now += SignedDuration::from_hours(1);
        assert_eq!(backoff.ask("set", 1, "a", now), None, "forgotten");
    }
}
