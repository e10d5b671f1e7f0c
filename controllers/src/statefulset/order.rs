//! What to do next, number by number.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use skiff_client::Outcome;

use super::{Pass, identity::ordinal};
use crate::{
    deployment::scaled,
    history::REVISION_HASH,
    pod::{self, Availability},
    seen::Seen,
    write,
};

impl Pass<'_> {
    /// Puts the next steps into `outcome`.
    pub(super) fn act(&self, pods: Vec<Seen<Pod>>, current_replicas: i32, outcome: &mut Outcome) {
        let range = self.first_ordinal()..self.first_ordinal() + self.wanted();
        let mut by_ordinal: BTreeMap<i32, Seen<Pod>> = BTreeMap::new();
        for pod in pods {
            if let Some(number) = ordinal(self.set.name(), pod.name()) {
                by_ordinal.insert(number, pod);
            }
        }
        let (kept, condemned): (BTreeMap<_, _>, BTreeMap<_, _>) =
            by_ordinal.into_iter().partition(|(number, _)| range.contains(number));
        for (pods, is_condemned) in [(&kept, false), (&condemned, true)] {
            pods.iter().for_each(|(number, pod)| self.retain_claims(*number, pod, is_condemned, outcome));
        }
        let first_unhealthy =
            kept.values().chain(condemned.values()).find(|pod| !self.is_healthy(pod)).map(|pod| pod.name().to_owned());
        if !self.raise(&range, &kept, current_replicas, outcome) {
            return;
        }
        if !self.lower(&condemned, first_unhealthy.as_deref(), outcome) {
            return;
        }
        if self.is_rolling() {
            self.roll(&range, &kept, outcome);
        }
    }

    fn is_ordered(&self) -> bool {
        self.set.typed.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_healthy(&self, pod: &Seen<Pod>) -> bool {
        !pod.is_deleting() && self.availability(pod) != Availability::Unready
    }

    /// Brings every number to life; false when later steps must wait.
    fn raise(
        &self,
        range: &std::ops::Range<i32>,
        kept: &BTreeMap<i32, Seen<Pod>>,
        current_replicas: i32,
        outcome: &mut Outcome,
    ) -> bool {
        for number in range.clone() {
            let Some(pod) = kept.get(&number) else {
                self.create(number, current_replicas, outcome);
                if self.is_ordered() {
                    return false;
                }
                continue;
            };
            if pod::is_terminal(&pod.typed) {
                // The number gets a new pod once this one is gone.
                if !pod.is_deleting() {
                    self.delete(pod, outcome);
                }
                if self.is_ordered() {
                    return false;
                }
                continue;
            }
            if pod::phase(&pod.typed) == "Pending" {
                self.create_claims(number, outcome);
            }
            let waits = pod.is_deleting() || self.availability(pod) != Availability::Available;
            if waits && self.is_ordered() {
                return false;
            }
        }
        true
    }

    /// Ends surplus numbers from the highest; false when later steps must wait.
    fn lower(
        &self,
        condemned: &BTreeMap<i32, Seen<Pod>>,
        first_unhealthy: Option<&str>,
        outcome: &mut Outcome,
    ) -> bool {
        for pod in condemned.values().rev() {
            if pod.is_deleting() {
                if self.is_ordered() {
                    return false;
                }
                continue;
            }
            let is_available = self.availability(pod) == Availability::Available;
            if self.is_ordered() && !is_available && first_unhealthy != Some(pod.name()) {
                return false;
            }
            self.delete(pod, outcome);
            if self.is_ordered() {
                return false;
            }
        }
        true
    }

    /// Replaces pods of older revisions from the highest number down to the partition.
    fn roll(&self, range: &std::ops::Range<i32>, kept: &BTreeMap<i32, Seen<Pod>>, outcome: &mut Outcome) {
        let rolling =
            self.set.typed.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let allowed = rolling
            .and_then(|rolling| rolling.max_unavailable.as_ref())
            .map_or(1, |most| scaled(most, self.wanted(), true).max(1));
        let mut unavailable = 0;
        for number in range.clone().rev().take_while(|number| *number >= range.start + partition) {
            let Some(pod) = kept.get(&number) else {
                unavailable += 1;
                continue;
            };
            let is_updated = pod.meta().labels.get(REVISION_HASH) == Some(&self.update.name);
            let is_available = !pod.is_deleting() && self.availability(pod) == Availability::Available;
            if !is_available {
                unavailable += 1;
            }
            if !is_updated && !pod.is_deleting() && (unavailable < allowed || (!is_available && unavailable <= allowed))
            {
                self.delete(pod, outcome);
                if is_available {
                    unavailable += 1;
                }
            }
            if unavailable >= allowed {
                return;
            }
        }
    }

    fn create(&self, number: i32, current_replicas: i32, outcome: &mut Outcome) {
        self.create_claims(number, outcome);
        let name = self.pod_name(number);
        outcome.push(write::create::<Pod>(self.set.namespace(), self.body(number, current_replicas)));
        match &self.context.last_failure {
            Some(failure) => {
                let message =
                    format!("create Pod {name} in StatefulSet {} failed error: {}", self.set.name(), failure.message);
                outcome.events.push(write::warning(&self.set.object, "FailedCreate", message));
            }
            None => {
                let message = format!("create Pod {name} in StatefulSet {} successful", self.set.name());
                outcome.events.push(write::normal(&self.set.object, "SuccessfulCreate", message));
            }
        }
    }

    fn delete(&self, pod: &Seen<Pod>, outcome: &mut Outcome) {
        outcome.push(write::delete::<Pod>(&pod.object));
        let message = format!("delete Pod {} in StatefulSet {} successful", pod.name(), self.set.name());
        outcome.events.push(write::normal(&self.set.object, "SuccessfulDelete", message));
    }
}
