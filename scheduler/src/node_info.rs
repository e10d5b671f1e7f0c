//! A node with the pods on it and what they take, kept up to date pod by pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use skiff_api::{DecodeError, Object};

use crate::{
    pod_info::{Labels, PodInfo},
    resources::Resources,
};

/// A node as decisions read it.
#[derive(Clone)]
pub struct NodeInfo {
    pub object: Arc<Object>,
    pub node: Arc<Node>,
    pub allocatable: Resources,
    /// Sum of what the pods ask for.
    pub requested: Resources,
    /// The same with assumptions for pods that ask for nothing.
    pub assumed_requested: Resources,
    pub pods: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    pub fn new(object: Arc<Object>) -> Result<NodeInfo, DecodeError> {
        let node = object.typed::<Node>()?;
        let allocatable = allocatable(&node);
        Ok(NodeInfo {
            object,
            node,
            allocatable,
            requested: Resources::default(),
            assumed_requested: Resources::default(),
            pods: Vec::new(),
        })
    }

    /// Takes over a changed node object; the pods stay.
    pub fn replace(&mut self, object: Arc<Object>) -> Result<(), DecodeError> {
        let node = object.typed::<Node>()?;
        self.allocatable = allocatable(&node);
        self.node = node;
        self.object = object;
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.object.meta.name
    }

    pub fn labels(&self) -> &Labels {
        &self.object.meta.labels
    }

    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    pub fn is_unschedulable(&self) -> bool {
        self.node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true))
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.assumed_requested.add(&pod.assumed_requests);
        self.pods.push(pod);
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let index = self.pods.iter().position(|pod| pod.uid() == uid)?;
        let pod = self.pods.swap_remove(index);
        self.requested.subtract(&pod.requests);
        self.assumed_requested.subtract(&pod.assumed_requests);
        Some(pod)
    }
}

fn allocatable(node: &Node) -> Resources {
    Resources::from_list(node.status.as_ref().and_then(|status| status.allocatable.as_ref()))
}
