//! An object together with its typed form, as reconcilers read them.

use std::sync::Arc;

use k8s_openapi::{Resource, api::core::v1::Pod};
use serde::de::DeserializeOwned;
use skiff_api::{Object, ObjectMeta};
use skiff_client::{Snapshot, store::PODS_BY_NODE};

/// A stored object: metadata and raw form from `object`, spec and status from `typed`.
pub struct Seen<K> {
    pub object: Arc<Object>,
    pub typed: Arc<K>,
}

impl<K> Clone for Seen<K> {
    fn clone(&self) -> Self {
        Seen { object: Arc::clone(&self.object), typed: Arc::clone(&self.typed) }
    }
}

impl<K> Seen<K> {
    pub fn meta(&self) -> &ObjectMeta {
        &self.object.meta
    }

    pub fn uid(&self) -> &str {
        self.object.meta.uid.as_str()
    }

    pub fn name(&self) -> &str {
        &self.object.meta.name
    }

    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    pub fn is_deleting(&self) -> bool {
        self.object.meta.is_deleting()
    }

    /// Whether the controller owner has this uid.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.object.meta.controller().is_some_and(|owner| owner.uid.as_str() == uid)
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static> Seen<K> {
    /// An object that does not decode is reported and treated as absent.
    pub fn new(object: Arc<Object>) -> Option<Seen<K>> {
        match object.typed::<K>() {
            Ok(typed) => Some(Seen { object, typed }),
            Err(error) => {
                tracing::error!(component = "controllers", ?object, %error, "stored object does not decode");
                None
            }
        }
    }
}

/// One object of a kind.
pub fn get<K>(world: &Snapshot, namespace: &str, name: &str) -> Option<Seen<K>>
where
    K: Resource + DeserializeOwned + Send + Sync + 'static,
{
    Seen::new(world.object::<K>(namespace, name)?)
}

/// All objects of a kind, of one namespace or of all.
pub fn list<K>(world: &Snapshot, namespace: Option<&str>) -> Vec<Seen<K>>
where
    K: Resource + DeserializeOwned + Send + Sync + 'static,
{
    let Some(store) = world.store_of::<K>() else { return Vec::new() };
    store.list(namespace).into_iter().filter_map(Seen::new).collect()
}

/// The pods of a node.
pub fn pods_of_node(world: &Snapshot, node: &str) -> Vec<Seen<Pod>> {
    let Some(store) = world.store_of::<Pod>() else { return Vec::new() };
    let mut pods: Vec<Seen<Pod>> = store.by_index(&PODS_BY_NODE, node).into_iter().filter_map(Seen::new).collect();
    // Indexes are unordered; outcomes should not be.
    pods.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
    pods
}
