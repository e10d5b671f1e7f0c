//! The scheduler's picture of nodes and the pods on them, kept up to date by
//! every change, and running ahead of the API by the bindings under way.
//!
//! Invariants: a pod counts on exactly one node; an assumed pod counts from the
//! moment of the decision until the API shows it or the binding fails; pods on
//! nodes not yet known are kept and counted when the node appears.

use std::{collections::HashMap, sync::Arc};

use skiff_api::Object;
use skiff_client::Snapshot;

use crate::{node_info::NodeInfo, plugins::View, pod_info::PodInfo};

#[derive(Default)]
pub struct Cache {
    nodes: Vec<Arc<NodeInfo>>,
    by_name: HashMap<String, usize>,
    /// Where each pod counts, by uid.
    placed: HashMap<String, String>,
    /// Pods whose node is not known, by node name.
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    assumed: HashMap<String, Arc<PodInfo>>,
    with_affinity: usize,
    with_anti_affinity: usize,
}

impl Cache {
    pub fn view<'a>(&'a self, world: &'a Snapshot) -> View<'a> {
        View {
            nodes: &self.nodes,
            world,
            has_anti_affinity: self.with_anti_affinity > 0,
            has_affinity: self.with_affinity > 0,
        }
    }

    /// Adds or replaces a node; an object that does not decode is reported and left out.
    pub fn put_node(&mut self, object: Arc<Object>) {
        let name = object.meta.name.clone();
        let result = match self.by_name.get(&name) {
            Some(index) => Arc::make_mut(&mut self.nodes[*index]).replace(object),
            None => NodeInfo::new(object).map(|mut node| {
                for pod in self.homeless.remove(&name).unwrap_or_default() {
                    node.add(pod);
                }
                self.by_name.insert(name, self.nodes.len());
                self.nodes.push(Arc::new(node));
            }),
        };
        if let Err(error) = result {
            tracing::error!(component = "scheduler", %error, "node does not decode");
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.by_name.remove(name) else { return };
        let node = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.by_name.insert(moved.name().to_owned(), index);
        }
        if !node.pods.is_empty() {
            self.homeless.insert(name.to_owned(), node.pods.clone());
        }
    }

    /// Counts a pod on its node, in place of an older state or an assumption.
    pub fn put_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.remove(pod.uid());
        self.place(pod, node);
    }

    /// Counts a pod on a node before the API does.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(pod.uid().to_owned(), Arc::clone(&pod));
        self.place(pod, node);
    }

    /// Takes back an assumption; nothing happens when the API has confirmed it.
    pub fn forget(&mut self, uid: &str) {
        if self.assumed.remove(uid).is_some() {
            self.remove_pod(uid);
        }
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains_key(uid)
    }

    /// Pods whose binding is under way, with their nodes.
    pub fn assumptions(&self) -> Vec<(Arc<PodInfo>, String)> {
        let with_node = |(uid, pod): (&String, &Arc<PodInfo>)| Some((Arc::clone(pod), self.placed.get(uid)?.clone()));
        self.assumed.iter().filter_map(with_node).collect()
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.take_out(pod.uid());
        self.count_affinity(&pod, true);
        self.placed.insert(pod.uid().to_owned(), node.to_owned());
        match self.by_name.get(node) {
            Some(index) => Arc::make_mut(&mut self.nodes[*index]).add(pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
    }

    /// Stops counting a pod; whether it counted.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        self.assumed.remove(uid);
        self.take_out(uid)
    }

    fn take_out(&mut self, uid: &str) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        let pod = match self.by_name.get(&node) {
            Some(index) => Arc::make_mut(&mut self.nodes[*index]).remove(uid),
            None => self.homeless.get_mut(&node).and_then(|pods| {
                let index = pods.iter().position(|pod| pod.uid() == uid)?;
                Some(pods.swap_remove(index))
            }),
        };
        if let Some(pod) = &pod {
            self.count_affinity(pod, false);
        }
        self.homeless.retain(|_, pods| !pods.is_empty());
        pod.is_some()
    }

    fn count_affinity(&mut self, pod: &PodInfo, add: bool) {
        let any = !pod.required_affinity.is_empty()
            || !pod.preferred_affinity.is_empty()
            || !pod.preferred_anti_affinity.is_empty();
        let change = |count: &mut usize, yes: bool| {
            if yes {
                *count = if add { *count + 1 } else { count.saturating_sub(1) };
            }
        };
        change(&mut self.with_affinity, any);
        change(&mut self.with_anti_affinity, !pod.required_anti_affinity.is_empty());
    }
}
