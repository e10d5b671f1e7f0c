//! Makes room for a pod by ending pods of lower priority: which node, which victims. Pure.

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use skiff_api::Selector;

use crate::{
    decision::{Diagnosis, Nominated, histogram},
    limits::PREEMPTION_CANDIDATES_MAX,
    node_info::NodeInfo,
    plugins::{Prepared, View},
    pod_info::{PodInfo, selector_of},
};

/// What preemption can do for a pod.
pub enum Preemption {
    Victims {
        node: String,
        victims: Vec<Arc<PodInfo>>,
    },
    /// The sentence that goes behind the diagnosis.
    Useless(String),
}

struct Candidate {
    node: String,
    /// Most important first.
    victims: Vec<Arc<PodInfo>>,
    budget_violations: usize,
}

/// Looks for the node where ending the least important pods makes room.
pub fn preempt(pod: &PodInfo, view: &View, diagnosis: &Diagnosis, nominated: &Nominated) -> Preemption {
    if pod.spec().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Preemption::Useless("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(pod, view) {
        let why = "preemption: not eligible due to a terminating pod on the nominated node.";
        return Preemption::Useless(why.to_owned());
    }
    if diagnosis.everywhere.is_some() {
        return useless(vec!["Preemption is not helpful for scheduling".to_owned(); diagnosis.nodes]);
    }
    let budgets = Budgets::new(view);
    let mut reasons = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    for (index, rejection) in &diagnosis.per_node {
        if !rejection.resolvable {
            reasons.push("Preemption is not helpful for scheduling".to_owned());
        } else if candidates.len() < PREEMPTION_CANDIDATES_MAX {
            match victims(pod, view, *index, &budgets, nominated) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => reasons.push(reason),
            }
        }
    }
    let best = candidates.into_iter().min_by(|a, b| rank(a).cmp(&rank(b)));
    match best {
        Some(best) => Preemption::Victims { node: best.node, victims: best.victims },
        None => useless(reasons),
    }
}

fn useless(reasons: Vec<String>) -> Preemption {
    let list = histogram(reasons.iter().map(String::as_str));
    Preemption::Useless(format!("preemption: 0/{} nodes are available: {list}.", reasons.len()))
}

/// Whether pods are leaving the node that was promised to this pod.
fn waits_for_victims(pod: &PodInfo, view: &View) -> bool {
    let node = view.nodes.iter().find(|node| node.name() == pod.nominated_node());
    node.is_some_and(|node| node.pods.iter().any(|other| other.is_deleting() && other.priority() < pod.priority()))
}

/// Fewest violated budgets, then the least important victims, then the fewest, then the youngest.
fn rank(candidate: &Candidate) -> impl Ord + use<> {
    let priorities = candidate.victims.iter().map(|victim| i64::from(victim.priority()));
    let highest = priorities.clone().max().unwrap_or(i64::MIN);
    // Shifted so that more victims of negative priority do not look better than fewer.
    let sum: i64 = priorities.map(|priority| priority + i64::from(i32::MAX) + 1).sum();
    let oldest = candidate
        .victims
        .iter()
        .filter(|victim| i64::from(victim.priority()) == highest)
        .filter_map(|victim| started(victim))
        .min();
    (candidate.budget_violations, highest, sum, candidate.victims.len(), std::cmp::Reverse(oldest))
}

fn started(pod: &PodInfo) -> Option<jiff::Timestamp> {
    pod.pod.status.as_ref()?.start_time.as_ref().map(|time| time.0)
}

/// The smallest set of less important pods on a node whose end makes room.
fn victims(
    pod: &PodInfo,
    view: &View,
    index: usize,
    budgets: &Budgets,
    nominated: &Nominated,
) -> Result<Candidate, String> {
    let original = &view.nodes[index];
    let mut trial = Trial::new(pod, view, index, nominated);
    let mut lower: Vec<Arc<PodInfo>> =
        original.pods.iter().filter(|other| other.priority() < pod.priority()).cloned().collect();
    if lower.is_empty() {
        return Err("No preemption victims found for incoming pod".to_owned());
    }
    for other in &lower {
        trial.node.remove(other.uid());
    }
    trial.fits()?;
    // Most important first: they are the first to be spared.
    lower.sort_by(|a, b| b.priority().cmp(&a.priority()).then_with(|| started(a).cmp(&started(b))));
    let (protected, free) = budgets.split(lower);
    let mut victims = Vec::new();
    let mut budget_violations = 0;
    for other in protected {
        if !trial.spare(&other) {
            budget_violations += 1;
            victims.push(other);
        }
    }
    victims.extend(free.into_iter().filter(|other| !trial.spare(other)));
    victims.sort_by_key(|victim| std::cmp::Reverse(victim.priority()));
    Ok(Candidate { node: original.name().to_owned(), victims, budget_violations })
}

/// One node with pods taken away, among all others as they are.
struct Trial<'a> {
    pod: &'a PodInfo,
    view: &'a View<'a>,
    index: usize,
    nominated: &'a Nominated,
    node: NodeInfo,
    /// Whether other pods matter beyond the room they take.
    is_social: bool,
}

impl<'a> Trial<'a> {
    fn new(pod: &'a PodInfo, view: &'a View<'a>, index: usize, nominated: &'a Nominated) -> Trial<'a> {
        let spreads = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_ref()).is_some();
        let is_social = view.has_anti_affinity
            || spreads
            || !pod.required_affinity.is_empty()
            || !pod.required_anti_affinity.is_empty();
        Trial { pod, view, index, nominated, node: NodeInfo::clone(&view.nodes[index]), is_social }
    }

    fn fits(&self) -> Result<(), String> {
        let reason = |rejection: crate::plugins::Rejection| rejection.reasons.join(", ");
        let changed: Vec<Arc<NodeInfo>>;
        let mut view = *self.view;
        if self.is_social {
            let mut nodes = self.view.nodes.to_vec();
            nodes[self.index] = Arc::new(self.node.clone());
            changed = nodes;
            view.nodes = &changed;
        }
        let prepared = Prepared::new(self.pod, &view).map_err(reason)?;
        self.nominated.filter(&prepared, self.pod, &self.node).map_err(reason)
    }

    /// Puts a pod back if there is room for both; whether it could stay.
    fn spare(&mut self, other: &Arc<PodInfo>) -> bool {
        self.node.add(Arc::clone(other));
        let stays = self.fits().is_ok();
        if !stays {
            self.node.remove(other.uid());
        }
        stays
    }
}

/// The disruption budgets, with what they still allow.
struct Budgets(Vec<Budget>);

struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i32,
    /// Pods whose disruption is counted already.
    disrupted: HashSet<String>,
}

impl Budgets {
    fn new(view: &View) -> Budgets {
        let store = view.world.store_of::<PodDisruptionBudget>();
        let objects = store.map(|store| store.list(None)).unwrap_or_default();
        let budgets = objects.into_iter().filter_map(|object| {
            let budget = object.typed::<PodDisruptionBudget>().ok()?;
            let spec = budget.spec.as_ref()?;
            let status = budget.status.as_ref();
            Some(Budget {
                namespace: object.meta.namespace.clone(),
                selector: selector_of(spec.selector.as_ref()),
                allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
                disrupted: status
                    .and_then(|status| status.disrupted_pods.as_ref())
                    .map(|pods| pods.keys().cloned().collect())
                    .unwrap_or_default(),
            })
        });
        Budgets(budgets.collect())
    }

    /// Pods whose end would violate a budget, and the others.
    fn split(&self, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut allowed: Vec<i32> = self.0.iter().map(|budget| budget.allowed).collect();
        pods.into_iter().partition(|pod| {
            let mut violates = false;
            for (budget, allowed) in self.0.iter().zip(&mut allowed) {
                let concerns = budget.namespace == pod.namespace()
                    && !budget.disrupted.contains(pod.name())
                    && !budget.selector.is_everything()
                    && budget.selector.matches(pod.labels());
                if concerns {
                    *allowed -= 1;
                    violates |= *allowed < 0;
                }
            }
            violates
        })
    }
}
