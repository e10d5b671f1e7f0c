//! What a component sees of the cluster: one store per resource it reads.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::Resource;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use skiff_api::{GroupResource, Object};

use crate::Store;

/// The stores of the resources a component reads; cheap to clone, shared.
/// Stores may be added later (custom resources appear at run time).
#[derive(Clone, Default)]
pub struct Snapshot(Arc<RwLock<HashMap<GroupResource, Store>>>);

impl Snapshot {
    pub fn new() -> Self {
        Snapshot::default()
    }

    pub fn insert(&self, resource: GroupResource, store: Store) {
        self.0.write().insert(resource, store);
    }

    pub fn remove(&self, resource: &GroupResource) {
        self.0.write().remove(resource);
    }

    /// The store of a resource, if this snapshot has it.
    pub fn store(&self, resource: &GroupResource) -> Option<Store> {
        self.0.read().get(resource).cloned()
    }

    /// All resources present.
    pub fn resources(&self) -> Vec<GroupResource> {
        self.0.read().keys().cloned().collect()
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
