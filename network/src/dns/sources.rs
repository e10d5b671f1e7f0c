//! Where the cluster's objects come from: watches on the API, one set per
//! distinct setting of the `kubernetes` plugin, kept over reloads.

use std::{path::Path, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use skiff_client::{Access, Client, ClientError, Reflector, Snapshot, Store, store::store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    index::{self, ClusterIndex, Sources},
    kubernetes::{KubernetesConfig, PodMode},
};

/// What makes two settings need different watches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    labels: Option<String>,
    namespaces: Vec<String>,
    kubeconfig: Option<(String, Option<String>)>,
    endpoint_pod_names: bool,
    needs_pods: bool,
}

/// The running watches.
pub struct Watches {
    /// Stores given from outside, in place of watches of our own.
    snapshot: Option<Snapshot>,
    known: Vec<(Key, Arc<ClusterIndex>)>,
    tasks: JoinSet<()>,
    token: CancellationToken,
}

/// No way to the API.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("kubernetes plugin: neither in a cluster (KUBERNETES_SERVICE_HOST is not set) nor a kubeconfig given")]
    NotInCluster,
    #[error("kubernetes plugin: {0}")]
    Client(#[from] ClientError),
}

impl Watches {
    pub fn new(snapshot: Option<Snapshot>, token: CancellationToken) -> Watches {
        Watches { snapshot, known: Vec::new(), tasks: JoinSet::new(), token }
    }

    /// The index for a setting, begun if there is none yet.
    pub fn index_for(&mut self, config: &KubernetesConfig) -> Result<Arc<ClusterIndex>, SourceError> {
        let key = Key {
            labels: config.labels.clone(),
            namespaces: config.namespaces.clone(),
            kubeconfig: config.kubeconfig.clone(),
            endpoint_pod_names: config.endpoint_pod_names,
            needs_pods: config.pods == PodMode::Verified,
        };
        if let Some((_, index)) = self.known.iter().find(|(known, _)| *known == key) {
            return Ok(Arc::clone(index));
        }
        let sources = match self.snapshot.clone() {
            Some(snapshot) => from_snapshot(&snapshot, &key),
            None => self.watch(&key)?,
        };
        let index = Arc::new(ClusterIndex::default());
        let (followed, token) = (Arc::clone(&index), self.token.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = index::follow(sources, followed) => {}
            }
        });
        self.known.push((key, Arc::clone(&index)));
        Ok(index)
    }

    fn watch(&mut self, key: &Key) -> Result<Sources, SourceError> {
        let access = match &key.kubeconfig {
            Some((path, context)) => Access::from_kubeconfig(Path::new(path), context.as_deref())?,
            None => {
                let variable = |name| std::env::var(name).map_err(|_| SourceError::NotInCluster);
                Access::in_cluster(&variable("KUBERNETES_SERVICE_HOST")?, &variable("KUBERNETES_SERVICE_PORT")?)?
            }
        };
        let client = Client::new(access.transport()?, "skiff-dns");
        let (tasks, token) = (&mut self.tasks, &self.token);
        let mut follow = |reflector: Reflector| reflector.spawn(client.clone(), &[], tasks, token.clone());
        let services = match &key.labels {
            Some(labels) => Reflector::of::<Service>().labels(labels),
            None => Reflector::of::<Service>(),
        };
        Ok(Sources {
            services: follow(services),
            slices: follow(Reflector::of::<EndpointSlice>()),
            namespaces: follow(Reflector::of::<Namespace>()),
            pods: key.needs_pods.then(|| follow(Reflector::of::<Pod>())),
            pod_names: key.endpoint_pod_names,
            only: key.namespaces.clone(),
        })
    }
}

fn from_snapshot(snapshot: &Snapshot, key: &Key) -> Sources {
    // A store that is not there stays empty and unsynced, which shows in readiness.
    let or_empty = |found: Option<Store>| found.unwrap_or_else(|| store(&[]).1);
    Sources {
        services: or_empty(snapshot.store_of::<Service>()),
        slices: or_empty(snapshot.store_of::<EndpointSlice>()),
        namespaces: or_empty(snapshot.store_of::<Namespace>()),
        pods: key.needs_pods.then(|| or_empty(snapshot.store_of::<Pod>())),
        pod_names: key.endpoint_pod_names,
        only: key.namespaces.clone(),
    }
}
