//! What to create and delete, node by node.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;
use skiff_client::{Context, Outcome};

use super::{
    backoff::Backoff,
    nodes::{Demands, Fit, assign},
};
use crate::{
    deployment::scaled,
    history::{Current, REVISION_HASH},
    pod::{self, Availability},
    seen::Seen,
    template, write,
};

/// Most pods created in one outcome.
const BURST_MAX: usize = 250;

/// A node, or a place where one was, with the daemon's pods there.
pub struct Place {
    pub node: String,
    pub fit: Fit,
    /// Oldest first.
    pub pods: Vec<Seen<Pod>>,
}

/// The pods of one daemon set, by node.
pub struct Daemons<'a> {
    set: &'a Seen<DaemonSet>,
    value: &'a Value,
    current: &'a Current,
    context: &'a Context,
    places: BTreeMap<String, Place>,
}

impl<'a> Daemons<'a> {
    pub fn new(
        set: &'a Seen<DaemonSet>,
        value: &'a Value,
        current: &'a Current,
        nodes: Vec<Seen<Node>>,
        pods: Vec<Seen<Pod>>,
        context: &'a Context,
    ) -> Daemons<'a> {
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        if let Some(spec) = &set.typed.spec.template.spec {
            let demands = Demands::new(spec);
            for node in nodes {
                let place = Place { node: node.name().to_owned(), fit: demands.fit(&node), pods: Vec::new() };
                places.insert(place.node.clone(), place);
            }
        }
        for pod in pods {
            let node = target_node(&pod);
            let nowhere = Fit { should_run: false, may_stay: false };
            let place = places.entry(node.clone());
            place.or_insert(Place { node, fit: nowhere, pods: Vec::new() }).pods.push(pod);
        }
        for place in places.values_mut() {
            place.pods.sort_by(|a, b| {
                let created = |pod: &Seen<Pod>| pod.meta().creation_timestamp.clone();
                created(a).cmp(&created(b)).then_with(|| a.name().cmp(b.name()))
            });
        }
        Daemons { set, value, current, context, places }
    }

    /// The nodes that exist, and pods that are assigned to none.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    pub fn is_current(&self, pod: &Seen<Pod>) -> bool {
        let hash = pod.meta().labels.get(REVISION_HASH);
        hash.is_some_and(|hash| *hash == self.current.hash || self.current.twins.contains(hash))
    }

    pub fn availability(&self, pod: &Seen<Pod>) -> Availability {
        let min_ready_seconds = self.set.typed.spec.min_ready_seconds.unwrap_or(0);
        pod::availability(&pod.typed, min_ready_seconds, self.context.now)
    }

    fn is_available(&self, pod: &Seen<Pod>) -> bool {
        self.availability(pod) == Availability::Available
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.set.typed.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    /// (surge, unavailable) in pods.
    fn allowances(&self) -> (i32, i32) {
        let desired = self.places().filter(|place| place.fit.should_run).count() as i32;
        let rolling =
            self.set.typed.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let surge = surge.map_or(0, |surge| scaled(surge, desired, true));
        let one = IntOrString::Int(1);
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&one);
        let unavailable = scaled(unavailable, desired, true);
        (surge, if surge == 0 { unavailable.max(1) } else { unavailable })
    }

    /// One live pod where there should be one, none where there should not.
    pub fn manage(&self, backoff: &Backoff, outcome: &mut Outcome) {
        let mut missing = Vec::new();
        let surging = self.is_rolling() && self.allowances().0 > 0;
        for place in self.places() {
            let live: Vec<&Seen<Pod>> = place.pods.iter().filter(|pod| !pod.is_deleting()).collect();
            if place.fit.should_run && place.pods.is_empty() {
                missing.push(place.node.clone());
                continue;
            }
            if !place.fit.may_stay {
                live.iter().for_each(|pod| self.delete(pod, outcome));
                continue;
            }
            let (failed, mut running): (Vec<_>, Vec<_>) =
                live.into_iter().partition(|pod| pod::phase(&pod.typed) == "Failed");
            for pod in failed {
                let generation = self.set.meta().generation;
                if let Some(rest) = backoff.ask(self.set.uid(), generation, &place.node, self.context.now) {
                    let rest = Duration::try_from(rest).unwrap_or_default();
                    outcome.requeue_after = Some(outcome.requeue_after.map_or(rest, |have| have.min(rest)));
                    continue;
                }
                let message = format!(
                    "Found failed daemon pod {}/{} on node {}, will try to kill it",
                    pod.namespace(),
                    pod.name(),
                    place.node
                );
                outcome.events.push(write::warning(&self.set.object, "FailedDaemonPod", message));
                self.delete(pod, outcome);
            }
            if place.pods.iter().all(|pod| pod::phase(&pod.typed) == "Succeeded") && place.fit.should_run {
                // A daemon that ended by itself is replaced, too.
                running.drain(..).for_each(|pod| self.delete(pod, outcome));
            }
            let keep = usize::from(surging) + 1;
            let superfluous: Vec<_> = running.into_iter().skip(keep).collect();
            superfluous.into_iter().for_each(|pod| self.delete(pod, outcome));
        }
        for node in missing.into_iter().take(BURST_MAX) {
            self.create(&node, outcome);
        }
    }

    /// Replaces pods of older templates within the allowances.
    pub fn update(&self, outcome: &mut Outcome) {
        if !self.is_rolling() {
            return;
        }
        let (surge, unavailable) = self.allowances();
        if surge > 0 { self.update_with_surge(surge, outcome) } else { self.update_in_place(unavailable, outcome) }
    }

    fn update_in_place(&self, allowed: i32, outcome: &mut Outcome) {
        let mut unavailable = 0;
        let mut healthy = Vec::new();
        for place in self.places().filter(|place| place.fit.should_run) {
            let (new, old) = self.newest_and_oldest(place);
            match (new, old) {
                (Some(new), _) => unavailable += i32::from(!self.is_available(new)),
                (None, None) => unavailable += 1,
                (None, Some(old)) if !self.is_available(old) => {
                    // Replacing what does not work costs nothing.
                    self.delete_if_alive(old, outcome);
                    unavailable += 1;
                }
                (None, Some(old)) if old.is_deleting() => unavailable += 1,
                (None, Some(old)) => healthy.push(old),
            }
        }
        let budget = usize::try_from(allowed - unavailable).unwrap_or(0);
        for old in healthy.into_iter().take(budget) {
            self.delete_if_alive(old, outcome);
        }
    }

    fn update_with_surge(&self, allowed: i32, outcome: &mut Outcome) {
        let mut surging = 0;
        let mut waiting = Vec::new();
        for place in self.places().filter(|place| place.fit.should_run) {
            match self.newest_and_oldest(place) {
                (Some(new), Some(old)) if self.is_available(new) => self.delete_if_alive(old, outcome),
                (Some(_), Some(old)) if !self.is_available(old) => self.delete_if_alive(old, outcome),
                (Some(_), Some(_)) => surging += 1,
                (None, Some(old)) if !self.is_available(old) || old.is_deleting() => {
                    self.create(&place.node, outcome);
                }
                (None, Some(_)) => waiting.push(&place.node),
                _ => {}
            }
        }
        let budget = usize::try_from(allowed - surging).unwrap_or(0);
        for node in waiting.into_iter().take(budget) {
            self.create(node, outcome);
        }
    }

    /// A pod of the present template and one of another.
    fn newest_and_oldest<'p>(&self, place: &'p Place) -> (Option<&'p Seen<Pod>>, Option<&'p Seen<Pod>>) {
        let alive = || place.pods.iter().filter(|pod| !pod::is_terminal(&pod.typed));
        (alive().find(|pod| self.is_current(pod)), alive().find(|pod| !self.is_current(pod)))
    }

    fn delete_if_alive(&self, pod: &Seen<Pod>, outcome: &mut Outcome) {
        if !pod.is_deleting() {
            self.delete(pod, outcome);
        }
    }

    fn delete(&self, pod: &Seen<Pod>, outcome: &mut Outcome) {
        outcome.push(write::delete::<Pod>(&pod.object));
        let message = format!("Deleted pod: {}", pod.name());
        outcome.events.push(write::normal(&self.set.object, "SuccessfulDelete", message));
    }

    fn create(&self, node: &str, outcome: &mut Outcome) {
        let index = outcome.operations.len();
        let name = template::pod_name(&self.set.object, self.context.now, index);
        let mut pod = template::pod(&self.set.object, &self.value["spec"]["template"], &name);
        let generation = self.value["metadata"]["annotations"]["deprecated.daemonset.template.generation"].as_str();
        if let Some(generation) = generation {
            pod["metadata"]["labels"]["pod-template-generation"] = generation.into();
        }
        pod["metadata"]["labels"][REVISION_HASH] = self.current.hash.as_str().into();
        if let Some(spec) = &self.set.typed.spec.template.spec {
            assign(&mut pod, spec, node);
        }
        outcome.push(write::create::<Pod>(self.set.namespace(), pod));
        let message = format!("Created pod: {name}");
        outcome.events.push(write::normal(&self.set.object, "SuccessfulCreate", message));
    }
}

/// The node a pod is on, or is meant for.
fn target_node(pod: &Seen<Pod>) -> String {
    let name = pod::node_name(&pod.typed);
    if !name.is_empty() {
        return name.to_owned();
    }
    let affinity = pod.typed.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required
        .into_iter()
        .flat_map(|selector| &selector.node_selector_terms)
        .flat_map(|term| term.match_fields.iter().flatten());
    let values: BTreeSet<&String> = fields
        .filter(|field| field.key == "metadata.name" && field.operator == "In")
        .flat_map(|field| field.values.iter().flatten())
        .collect();
    values.first().map(|name| (*name).clone()).unwrap_or_default()
}
