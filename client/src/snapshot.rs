//! What a component sees of the cluster: one store per resource it reads.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::Resource;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use skiff_api::{GroupResource, Object};
use tokio::sync::watch;

use crate::Store;

/// The stores of the resources a component reads; cheap to clone, shared.
/// Stores may be added later (custom resources appear at run time).
#[derive(Clone, Default)]
pub struct Snapshot(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stores: RwLock<HashMap<GroupResource, Store>>,
    /// Counts additions and removals of stores.
    generation: watch::Sender<u64>,
}

impl Snapshot {
    pub fn new() -> Self {
        Snapshot::default()
    }

    pub fn insert(&self, resource: GroupResource, store: Store) {
        self.0.stores.write().insert(resource, store);
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    pub fn remove(&self, resource: &GroupResource) {
        self.0.stores.write().remove(resource);
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// The store of a resource, if this snapshot has it.
    pub fn store(&self, resource: &GroupResource) -> Option<Store> {
        self.0.stores.read().get(resource).cloned()
    }

    /// All resources present.
    pub fn resources(&self) -> Vec<GroupResource> {
        self.0.stores.read().keys().cloned().collect()
    }

    /// Changes whenever a store is added or removed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// The store of a typed kind.
    pub fn store_of<K: Resource>(&self) -> Option<Store> {
        self.store(&GroupResource::of::<K>())
    }

    /// One object in typed form. An object that does not decode is reported and treated as absent.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<Arc<K>>
    where
        K: Resource + DeserializeOwned + Send + Sync + 'static,
    {
        typed(self.store_of::<K>()?.get(namespace, name)?)
    }

    /// The raw object behind [`Snapshot::get`].
    pub fn object<K: Resource>(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.store_of::<K>()?.get(namespace, name)
    }

    /// All objects of a kind in typed form, of one namespace or of all.
    pub fn list<K>(&self, namespace: Option<&str>) -> Vec<Arc<K>>
    where
        K: Resource + DeserializeOwned + Send + Sync + 'static,
    {
        let Some(store) = self.store_of::<K>() else { return Vec::new() };
        store.list(namespace).into_iter().filter_map(typed).collect()
    }

    /// Objects of a kind that name `uid` among their owners.
    pub fn owned_by<K>(&self, uid: &str) -> Vec<Arc<K>>
    where
        K: Resource + DeserializeOwned + Send + Sync + 'static,
    {
        let Some(store) = self.store_of::<K>() else { return Vec::new() };
        store.owned_by(uid).into_iter().filter_map(typed).collect()
    }
}

fn typed<K: DeserializeOwned + Send + Sync + 'static>(object: Arc<Object>) -> Option<Arc<K>> {
    match object.typed::<K>() {
        Ok(typed) => Some(typed),
        Err(error) => {
            tracing::error!(component = "snapshot", ?object, %error, "stored object does not decode");
            None
        }
    }
}
