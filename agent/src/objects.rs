//! The config maps, secrets and trust bundles that pods of this node refer to.
//!
//! Config maps and secrets are watched by name for as long as some pod needs
//! them, because nodes may not list secrets; trust bundles are chosen by labels
//! and watched all together. A change wakes the pods concerned.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use skiff_api::{GroupVersionResource, Object};
use skiff_client::{Client, Reflector, Store, StoreEvent, store::store};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::limits;

/// Kind of an object that pods refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefKind {
    ConfigMap,
    Secret,
    TrustBundles,
}

impl RefKind {
    /// As in upstream's messages.
    fn word(self) -> &'static str {
        match self {
            RefKind::ConfigMap => "configmap",
            RefKind::Secret => "secret",
            RefKind::TrustBundles => "clustertrustbundle",
        }
    }
}

/// One object that a pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: RefKind,
    pub namespace: String,
    pub name: String,
}

impl ObjectRef {
    /// All trust bundles of the cluster.
    pub const fn trust_bundles() -> ObjectRef {
        ObjectRef { kind: RefKind::TrustBundles, namespace: String::new(), name: String::new() }
    }
}

/// An object could not be read in time.
#[derive(Debug, thiserror::Error)]
#[error("failed to sync {kind} cache: timed out waiting for the condition", kind = .0.kind.word())]
pub struct ObjectTimeout(ObjectRef);

struct Watched {
    store: Store,
    users: Arc<Mutex<HashSet<String>>>,
    token: CancellationToken,
}

/// Called with the uid of a pod whose objects changed.
pub type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// The watched objects.
pub struct ObjectCache {
    client: Client,
    wake: Wake,
    tasks: TaskTracker,
    token: CancellationToken,
    watched: Mutex<HashMap<ObjectRef, Watched>>,
}

impl ObjectCache {
    pub fn new(client: Client, wake: Wake, tasks: TaskTracker, token: CancellationToken) -> ObjectCache {
        ObjectCache { client, wake, tasks, token, watched: Mutex::default() }
    }

    /// Makes `wanted` the objects that a pod refers to.
    pub fn refer(&self, pod_uid: &str, wanted: &BTreeSet<ObjectRef>) {
        let mut watched = self.watched.lock();
        watched.retain(|reference, entry| {
            if wanted.contains(reference) {
                return true;
            }
            let mut users = entry.users.lock();
            users.remove(pod_uid);
            if users.is_empty() {
                entry.token.cancel();
            }
            !users.is_empty()
        });
        for reference in wanted {
            let entry = watched.entry(reference.clone()).or_insert_with(|| self.watch(reference));
            entry.users.lock().insert(pod_uid.to_owned());
        }
    }

    /// The pod no longer refers to anything.
    pub fn forget(&self, pod_uid: &str) {
        self.refer(pod_uid, &BTreeSet::new());
    }

    fn watch(&self, reference: &ObjectRef) -> Watched {
        let (writer, reader) = store(&[]);
        let by_name = |reflector: Reflector| {
            reflector.in_namespace(reference.namespace.clone()).fields(format!("metadata.name={}", reference.name))
        };
        let reflector = match reference.kind {
            RefKind::ConfigMap => by_name(Reflector::of::<ConfigMap>()),
            RefKind::Secret => by_name(Reflector::of::<Secret>()),
            RefKind::TrustBundles => {
                Reflector::new(GroupVersionResource::new("certificates.k8s.io", "v1", "clustertrustbundles"))
            }
        };
        let token = self.token.child_token();
        let users: Arc<Mutex<HashSet<String>>> = Arc::default();
        self.tasks.spawn(reflector.run(self.client.clone(), writer, token.clone()));
        let (mut changes, wake, affected, ended) =
            (reader.subscribe(), Arc::clone(&self.wake), Arc::clone(&users), token.clone());
        self.tasks.spawn(async move {
            loop {
                let event = tokio::select! {
                    () = ended.cancelled() => return,
                    event = changes.next() => event,
                };
                let Some(event) = event else { return };
                // An unchanged object is announced again after a new list; waking for it would be harmless.
                let _: &StoreEvent = &event;
                let uids: Vec<String> = affected.lock().iter().cloned().collect();
                uids.iter().for_each(|uid| wake(uid));
            }
        });
        Watched { store: reader, users, token }
    }

    /// What is watched for a reference, once it is known; `None` if no pod refers to it.
    async fn synced(&self, reference: &ObjectRef) -> Result<Option<Store>, ObjectTimeout> {
        let store = self.watched.lock().get(reference).map(|entry| entry.store.clone());
        if let Some(store) = &store
            && tokio::time::timeout(limits::OBJECT_WAIT, store.wait_synced()).await.is_err()
        {
            return Err(ObjectTimeout(reference.clone()));
        }
        Ok(store)
    }

    /// All trust bundles, for a pod that refers to them.
    pub async fn trust_bundles(&self) -> Result<Vec<Arc<Object>>, ObjectTimeout> {
        let store = self.synced(&ObjectRef::trust_bundles()).await?;
        Ok(store.map(|store| store.list(None)).unwrap_or_default())
    }

    /// The object, or `None` when it does not exist.
    pub async fn get<K>(&self, reference: &ObjectRef) -> Result<Option<Arc<K>>, ObjectTimeout>
    where
        K: DeserializeOwned + Send + Sync + 'static,
    {
        let Some(store) = self.synced(reference).await? else { return Ok(None) };
        let object = store.get(&reference.namespace, &reference.name);
        Ok(object.and_then(|object| match object.typed::<K>() {
            Ok(typed) => Some(typed),
            Err(error) => {
                tracing::error!(component = "objects", ?object, %error, "object does not decode");
                None
            }
        }))
    }
}
