//! What all pod workers share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::{
    api::core::v1::{Node, Pod, Service},
    apimachinery::pkg::api::resource::Quantity,
};
use parking_lot::{Mutex, RwLock};
use skiff_api::GroupVersionResource;
use skiff_client::{EventRecorder, Store};
use tokio::sync::Semaphore;

use crate::{
    cgroups::PodCgroups,
    config::{AgentConfig, EventSinkFn},
    container_config::{dns::DnsSettings, downward::NodeFacts, resources::MachineLimits},
    cri::Cri,
    images::{ImageMounter, Puller},
    objects::ObjectCache,
    observed::ObservedPod,
    pleg::Pleg,
    pods::{
        admission::{self, NodeState, Rejection},
        spec,
    },
    probes::Prober,
    status::StatusWriter,
    volumes::VolumeHost,
};

/// Facts about the node that change while it runs.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub labels: BTreeMap<String, String>,
    pub allocatable: BTreeMap<String, Quantity>,
}

/// The shared parts of the agent.
pub struct Context {
    pub config: AgentConfig,
    pub cri: Cri,
    pub cgroups: PodCgroups,
    pub volumes: VolumeHost,
    pub objects: Arc<ObjectCache>,
    pub puller: Puller,
    /// Mounts images where the runtime cannot.
    pub image_mounter: Option<ImageMounter>,
    pub prober: Prober,
    pub status: StatusWriter,
    pub pleg: Arc<Pleg>,
    pub recorder: EventRecorder,
    pub machine: MachineLimits,
    pub services: Store,
    pub dns: DnsSettings,
    pub node: RwLock<NodeView>,
    pub network_ready: AtomicBool,
    /// Pods that this node accepted, for the resource and port checks.
    pub admitted: Mutex<HashMap<String, Arc<Pod>>>,
    /// Where progress is reported.
    pub events: EventSinkFn,
    /// Bounds how many pods are brought up at the same time.
    pub sync_slots: Semaphore,
}

impl Context {
    /// Facts that the downward API gives to a pod.
    pub fn facts(&self, pod: &Pod, observed: &ObservedPod) -> NodeFacts {
        let pod_ips = if spec::is_host_network(pod) {
            self.config.node_ips.clone()
        } else {
            observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
        };
        NodeFacts { host_ips: self.config.node_ips.clone(), pod_ips, allocatable: self.node.read().allocatable.clone() }
    }

    /// The services whose addresses a pod gets as variables.
    pub fn services_for(&self, pod: &Pod) -> Vec<Arc<Service>> {
        let own = self.services.list(Some(spec::namespace(pod)));
        let master = self.services.get("default", "kubernetes");
        let all = own.into_iter().chain(master);
        all.filter_map(|object| object.typed::<Service>().ok()).collect()
    }

    pub fn is_network_ready(&self) -> bool {
        self.network_ready.load(Ordering::Relaxed)
    }

    /// Accepts a pod and counts it, or says why not. One at a time, so that two never get the same room.
    pub fn try_admit(&self, uid: &str, pod: &Arc<Pod>) -> Result<(), Rejection> {
        let node = self.node.read().clone();
        {
            let mut admitted = self.admitted.lock();
            let others: Vec<Arc<Pod>> =
                admitted.iter().filter(|(other, _)| *other != uid).map(|(_, pod)| Arc::clone(pod)).collect();
            admission::admit(pod, &self.node_state(&node, &others))?;
            admitted.insert(uid.to_owned(), Arc::clone(pod));
        }
        self.weigh();
        Ok(())
    }

    /// Reads the node's labels from the API; keeps what is known when it does not answer.
    pub async fn read_labels(&self) {
        let nodes = GroupVersionResource::of::<Node>();
        match self.config.client.get(&nodes, None, &self.config.node_name).await {
            Ok(node) => self.node.write().labels = node.meta.labels.clone(),
            Err(error) => tracing::warn!(component = "node", %error, "read labels of this node"),
        }
    }

    /// Whether the node could take the pod if it were empty.
    pub fn fits_alone(&self, pod: &Pod) -> bool {
        let node = self.node.read().clone();
        admission::admit(pod, &self.node_state(&node, &[])).is_ok()
    }

    fn node_state<'a>(&'a self, node: &'a NodeView, others: &'a [Arc<Pod>]) -> NodeState<'a> {
        NodeState { name: &self.config.node_name, labels: &node.labels, allocatable: &node.allocatable, others }
    }

    /// Counts a pod among the accepted ones, or no longer.
    pub fn set_admitted(&self, uid: &str, pod: Option<Arc<Pod>>) {
        {
            let mut admitted = self.admitted.lock();
            match pod {
                Some(pod) => admitted.insert(uid.to_owned(), pod),
                None => admitted.remove(uid),
            };
        }
        self.weigh();
    }

    fn weigh(&self) {
        let all: Vec<Arc<Pod>> = self.admitted.lock().values().cloned().collect();
        if let Err(error) = self.cgroups.weigh_burstable(all.iter().map(Arc::as_ref)) {
            tracing::warn!(component = "cgroup", %error, "weigh burstable pods");
        }
    }
}
