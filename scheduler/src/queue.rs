//! Pods waiting for a node: ready ones by priority, failed ones until their
//! back-off is over, refused ones until something happens that may help them.
//!
//! Invariants: a pod is in exactly one place; nothing is polled: a refused pod
//! moves when an event concerns a plugin that refused it, or after a long wait
//! as a safety net.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    limits::{BACKOFF_MAX, BACKOFF_MIN, UNSCHEDULABLE_WAIT_MAX},
    plugins::Plugin,
    pod_info::PodInfo,
};

/// What happened that may help a refused pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    NodeChanged,
    PodPlaced,
    PodRemoved,
    VolumeChanged,
    NamespaceChanged,
}

impl Cause {
    fn helps(self, plugin: Plugin) -> bool {
        use Plugin::*;
        match self {
            Cause::NodeChanged => true,
            Cause::PodPlaced | Cause::NamespaceChanged => matches!(plugin, InterPodAffinity | PodTopologySpread),
            Cause::PodRemoved => {
                matches!(plugin, NodeResourcesFit | NodePorts | PodTopologySpread | InterPodAffinity | VolumeBinding)
            }
            Cause::VolumeChanged => plugin == VolumeBinding,
        }
    }
}

/// Order of ready pods: priority, then age in the queue.
type ReadyKey = (Reverse<i32>, u64);

enum Place {
    Ready(ReadyKey),
    BackingOff(Instant, u64),
    /// Refused by these plugins; tried again at the latest then.
    Refused {
        by: BTreeSet<Plugin>,
        until: Instant,
    },
    Gated,
    /// With the scheduler, or being bound.
    Out,
}

struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    /// Position among equals: when the pod first came.
    sequence: u64,
    attempts: u32,
    /// When the back-off of the last attempt ends.
    backoff_until: Instant,
}

#[derive(Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    ready: BTreeMap<ReadyKey, String>,
    backing_off: BTreeMap<(Instant, u64), String>,
    refused: BTreeMap<(Instant, u64), String>,
    sequence: u64,
}

impl Queue {
    /// Adds a pod, or takes over its new state; `spec_changed` says whether the
    /// change may help a refused pod.
    pub fn put(&mut self, pod: Arc<PodInfo>, spec_changed: bool, now: Instant) {
        let uid = pod.uid().to_owned();
        let gated = pod.is_gated();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.sequence += 1;
            let entry = Entry { pod, place: Place::Gated, sequence: self.sequence, attempts: 0, backoff_until: now };
            self.entries.insert(uid.clone(), entry);
            if !gated {
                self.make_ready(&uid);
            }
            return;
        };
        entry.pod = pod;
        match entry.place {
            Place::Gated if !gated => self.make_ready(&uid),
            Place::Refused { .. } if spec_changed => self.release(&uid, now),
            _ => {}
        }
    }

    pub fn remove(&mut self, uid: &str) {
        self.take_from_place(uid);
        self.entries.remove(uid);
    }

    /// The most urgent ready pod; it stays known until it is removed or given back.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, uid) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Out;
        entry.attempts += 1;
        Some(Arc::clone(&entry.pod))
    }

    /// Gives back a pod that no node takes.
    pub fn refuse(&mut self, uid: &str, by: BTreeSet<Plugin>, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.backoff_until = now + backoff(entry.attempts);
        let until = now + UNSCHEDULABLE_WAIT_MAX;
        entry.place = Place::Refused { by, until };
        self.refused.insert((until, entry.sequence), uid.to_owned());
    }

    /// Gives back a pod whose placing failed for a passing reason.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.backoff_until = now + backoff(entry.attempts);
            self.release(uid, now);
        }
    }

    /// Moves the refused pods that `cause` may help.
    pub fn wake(&mut self, cause: Cause, now: Instant) {
        let is_helped = |uid: &&String| match self.entries.get(*uid).map(|entry| &entry.place) {
            Some(Place::Refused { by, .. }) => by.is_empty() || by.iter().any(|plugin| cause.helps(*plugin)),
            _ => false,
        };
        let helped: Vec<String> = self.refused.values().filter(is_helped).cloned().collect();
        for uid in helped {
            self.release(&uid, now);
        }
    }

    /// Moves pods whose time has come; gives the next time to look.
    pub fn advance(&mut self, now: Instant) -> Option<Instant> {
        while let Some(entry) = self.backing_off.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let uid = entry.remove();
            self.make_ready(&uid);
        }
        while let Some(entry) = self.refused.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let uid = entry.remove();
            self.make_ready(&uid);
        }
        let first = |map: &BTreeMap<(Instant, u64), String>| map.keys().next().map(|(until, _)| *until);
        first(&self.backing_off).into_iter().chain(first(&self.refused)).min()
    }

    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(uid).map(|entry| &entry.pod)
    }

    pub fn uids(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Out of refusal or hands: ready, or backing off if that is not over.
    fn release(&mut self, uid: &str, now: Instant) {
        self.take_from_place(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.backoff_until <= now {
            return self.make_ready(uid);
        }
        let key = (entry.backoff_until, entry.sequence);
        entry.place = Place::BackingOff(key.0, key.1);
        self.backing_off.insert(key, uid.to_owned());
    }

    fn make_ready(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let key = (Reverse(entry.pod.priority()), entry.sequence);
        entry.place = Place::Ready(key);
        self.ready.insert(key, uid.to_owned());
    }

    fn take_from_place(&mut self, uid: &str) {
        match self.entries.get(uid).map(|entry| &entry.place) {
            Some(Place::Ready(key)) => {
                self.ready.remove(key);
            }
            Some(Place::BackingOff(until, sequence)) => {
                self.backing_off.remove(&(*until, *sequence));
            }
            Some(Place::Refused { until, .. }) => {
                let sequence = self.entries.get(uid).map_or(0, |entry| entry.sequence);
                self.refused.remove(&(*until, sequence));
            }
            _ => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_api::Object;

    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": name},
            "spec": {"containers": [], "priority": priority}});
        Arc::new(PodInfo::new(Arc::new(Object::from_value(&value).unwrap())).unwrap())
    }

    #[test]
    fn higher_priority_comes_first_and_equals_in_order_of_arrival() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.put(pod(name, priority), false, now);
        }
        let order: Vec<String> = std::iter::from_fn(|| queue.pop()).map(|pod| pod.name().to_owned()).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn only_a_helpful_event_wakes_a_refused_pod_and_not_before_its_back_off() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", 0), false, now);
        queue.pop();
        queue.refuse("a", BTreeSet::from([Plugin::NodeResourcesFit]), now);
        queue.wake(Cause::PodPlaced, now);
        assert_eq!(queue.advance(now + Duration::from_secs(2)), Some(now + UNSCHEDULABLE_WAIT_MAX));
        queue.wake(Cause::PodRemoved, now);
        assert!(!queue.has_ready());
        queue.advance(now + BACKOFF_MIN);
        assert!(queue.has_ready());
    }

    #[test]
    fn a_gated_pod_waits_for_its_gates() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let gated = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "a"},
            "spec": {"containers": [], "schedulingGates": [{"name": "x"}]}});
        let gated = Arc::new(PodInfo::new(Arc::new(Object::from_value(&gated).unwrap())).unwrap());
        queue.put(gated, false, now);
        assert!(!queue.has_ready());
        queue.put(pod("a", 0), true, now);
        assert!(queue.has_ready());
    }
}
