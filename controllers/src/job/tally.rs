//! Counts the ends of a job's pods, each exactly once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{
    BACKOFF_MAX, BACKOFF_MIN, INDEX_FAILURE_COUNT, INDEX_IGNORED_COUNT, Indexes, Pass, ended_at, has_finalizer,
    index_of, policy,
};
use crate::{pod, seen::Seen};

pub struct Tally {
    /// Counters as the status will show them.
    pub counted_succeeded: i32,
    pub counted_failed: i32,
    /// Counters with the ends still being booked.
    pub succeeded: i32,
    failed: i32,
    /// Failed pods that the pod failure policy takes out of the count: they are let go uncounted.
    ignored: BTreeSet<String>,
    listed_succeeded: BTreeSet<String>,
    listed_failed: BTreeSet<String>,
    /// Uids that the stored status lists already.
    stored: BTreeSet<String>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// Ends of failed pods since the last success.
    failures: Vec<Timestamp>,
    index_failures: BTreeMap<u32, IndexFailure>,
    /// Failed pods that are held until their index has another, which takes over their count; true for those that count.
    delayed: BTreeMap<String, bool>,
}

/// The last failed pod of an index.
struct IndexFailure {
    uid: String,
    /// Failures of the index up to and with this pod, and those that a policy does not count.
    failures: i32,
    ignored: i32,
    ended: Option<Timestamp>,
}

impl IndexFailure {
    fn of(pod: &Seen<Pod>, is_ignored: bool) -> IndexFailure {
        let before = |name: &str| pod.meta().annotations.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        IndexFailure {
            uid: pod.uid().to_owned(),
            failures: before(INDEX_FAILURE_COUNT) + i32::from(!is_ignored),
            ignored: before(INDEX_IGNORED_COUNT) + i32::from(is_ignored),
            ended: ended_at(pod),
        }
    }

    fn all(&self) -> i32 {
        self.failures + self.ignored
    }

    fn is_before(&self, other: &IndexFailure) -> bool {
        self.all() <= other.all() && self.ended <= other.ended
    }
}

impl Tally {
    pub(super) fn new(pass: &Pass) -> Tally {
        let status = &pass.value["status"];
        let number = |field: &str| status[field].as_i64().unwrap_or(0) as i32;
        let bound = pass.spec.completions.unwrap_or(0).max(0) as u32;
        let indexes = |field: &str| {
            let text = status[field].as_str().unwrap_or_default();
            text.parse::<Indexes>().unwrap_or_default().below(bound)
        };
        let mut tally = Tally {
            counted_succeeded: number("succeeded"),
            counted_failed: number("failed"),
            succeeded: 0,
            failed: 0,
            ignored: BTreeSet::new(),
            listed_succeeded: BTreeSet::new(),
            listed_failed: BTreeSet::new(),
            stored: BTreeSet::new(),
            completed: indexes("completedIndexes"),
            failed_indexes: indexes("failedIndexes"),
            failures: Vec::new(),
            index_failures: BTreeMap::new(),
            delayed: BTreeMap::new(),
        };
        tally.book(pass);
        for pod in &pass.pods {
            tally.note(pod, pass);
        }
        if pass.spec.backoff_limit_per_index.is_some() {
            tally.hold_last(pass);
        }
        tally.succeeded = if pass.is_indexed() {
            tally.completed.len() as i32
        } else {
            tally.counted_succeeded + tally.listed_succeeded.len() as i32
        };
        if pass.is_indexed() {
            tally.counted_succeeded = tally.completed.len() as i32;
        }
        let held = tally.delayed.values().filter(|counts| **counts).count();
        tally.failed = tally.counted_failed + (tally.listed_failed.len() + held) as i32;
        tally.note_recent_failures(pass);
        tally
    }

    /// Moves uids whose finalizer is gone from the lists to the counters.
    fn book(&mut self, pass: &Pass) {
        let listed = &pass.value["status"]["uncountedTerminatedPods"];
        for (field, is_success) in [("succeeded", true), ("failed", false)] {
            for uid in listed[field].as_array().into_iter().flatten().filter_map(Value::as_str) {
                self.stored.insert(uid.to_owned());
                let held = pass.pods.iter().any(|pod| pod.uid() == uid && has_finalizer(pod));
                match (held, is_success) {
                    (true, true) => drop(self.listed_succeeded.insert(uid.to_owned())),
                    (true, false) => drop(self.listed_failed.insert(uid.to_owned())),
                    (false, true) => self.counted_succeeded += 1,
                    (false, false) => self.counted_failed += 1,
                }
            }
        }
    }

    /// Takes in one pod.
    fn note(&mut self, pod: &Seen<Pod>, pass: &Pass) {
        let index = if pass.is_indexed() { index_of(pod) } else { None };
        let bound = pass.spec.completions.unwrap_or(0).max(0) as u32;
        if pass.is_indexed() && index.is_none_or(|index| index >= bound) {
            return;
        }
        let succeeded = pod::phase(&pod.typed) == "Succeeded";
        // Without a failure policy a pod being deleted counts as failed at once.
        let waits_for_end =
            pass.spec.pod_failure_policy.is_some() || pass.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let failed = pod::phase(&pod.typed) == "Failed" || (pod.is_deleting() && !succeeded && !waits_for_end);
        if failed && let Some(index) = index {
            let failure = IndexFailure::of(pod, policy::is_ignored(&pass.spec, pod));
            let limit = pass.spec.backoff_limit_per_index;
            if policy::fails_index(&pass.spec, pod) || limit.is_some_and(|limit| failure.failures > limit) {
                self.failed_indexes.insert(index);
            }
            if self.index_failures.get(&index).is_none_or(|last| last.is_before(&failure)) {
                self.index_failures.insert(index, failure);
            }
        }
        if !has_finalizer(pod) || self.stored.contains(pod.uid()) {
            return;
        }
        if succeeded {
            if let Some(index) = index {
                self.completed.insert(index);
            }
            self.listed_succeeded.insert(pod.uid().to_owned());
        } else if failed {
            let list = if policy::is_ignored(&pass.spec, pod) { &mut self.ignored } else { &mut self.listed_failed };
            list.insert(pod.uid().to_owned());
        }
    }

    /// Takes the last failed pod of every index that is to have another out of
    /// the books: should it vanish first, nobody would know how often the index failed.
    fn hold_last(&mut self, pass: &Pass) {
        let active: Indexes = pass.active().into_iter().filter_map(index_of).collect();
        for (index, last) in &self.index_failures {
            if active.contains(*index) || self.completed.contains(*index) || self.failed_indexes.contains(*index) {
                continue;
            }
            if self.listed_failed.contains(&last.uid) && !self.stored.contains(&last.uid) {
                self.listed_failed.remove(&last.uid);
                self.delayed.insert(last.uid.clone(), true);
            } else if self.ignored.remove(&last.uid) {
                self.delayed.insert(last.uid.clone(), false);
            }
        }
    }

    /// The job ends, so no index gets another pod.
    pub fn hold_no_more(&mut self) {
        for (uid, counts) in std::mem::take(&mut self.delayed) {
            if counts {
                self.listed_failed.insert(uid)
            } else {
                self.ignored.insert(uid)
            };
        }
    }

    fn note_recent_failures(&mut self, pass: &Pass) {
        let ends = |phase: &str| -> Vec<Timestamp> {
            pass.pods.iter().filter(|pod| pod::phase(&pod.typed) == phase).filter_map(ended_at).collect()
        };
        let last_success = ends("Succeeded").into_iter().max();
        self.failures =
            ends("Failed").into_iter().filter(|end| last_success.is_none_or(|success| *end > success)).collect();
    }

    pub fn failures_that_count(&self) -> i32 {
        self.failed
    }

    /// How many pods failed since the last success, and when the last of them did.
    pub fn recent_failures(&self) -> Option<(u32, Timestamp)> {
        let last = self.failures.iter().max()?;
        Some((self.failures.len() as u32, *last))
    }

    /// How often an index failed: counted, and by a policy not counted.
    pub fn failures_of(&self, index: u32) -> (i32, i32) {
        self.index_failures.get(&index).map_or((0, 0), |last| (last.failures, last.ignored))
    }

    pub fn backoff_of(&self, index: u32, now: Timestamp) -> Option<SignedDuration> {
        let last = self.index_failures.get(&index)?;
        let pause = BACKOFF_MIN.saturating_mul(1 << (last.all() - 1).clamp(0, 8)).min(BACKOFF_MAX);
        let rest = pause - now.duration_since(last.ended?);
        rest.is_positive().then_some(rest)
    }

    /// Whether a pod may be let go: the stored status lists it, or it does not count.
    pub fn is_booked(&self, uid: &str) -> bool {
        self.stored.contains(uid) || self.ignored.contains(uid)
    }

    pub fn uncounted_is_empty(&self) -> bool {
        self.listed_succeeded.is_empty() && self.listed_failed.is_empty()
    }

    pub fn uncounted(&self) -> Value {
        let mut lists = json!({});
        for (field, list) in [("succeeded", &self.listed_succeeded), ("failed", &self.listed_failed)] {
            if !list.is_empty() {
                lists[field] = json!(list);
            }
        }
        lists
    }
}
