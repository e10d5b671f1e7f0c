//! Reading other objects from the watch caches, with a short patience for what
//! another writer made a moment ago.

use std::{sync::Arc, time::Duration};

use skiff_api::{GroupResource, Object};
use skiff_client::{Snapshot, StoreEvent};

/// One object of the caches.
pub fn find(snapshot: &Snapshot, resource: GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>> {
    snapshot.store(&resource)?.get(namespace, name)
}

/// All objects of a namespace (or of a cluster-scoped kind).
pub fn list(snapshot: &Snapshot, resource: GroupResource, namespace: Option<&str>) -> Vec<Arc<Object>> {
    snapshot.store(&resource).map(|store| store.list(namespace)).unwrap_or_default()
}

/// Like [`find`], but waits up to `patience` for the object to appear.
pub async fn find_soon(
    snapshot: &Snapshot,
    resource: GroupResource,
    namespace: &str,
    name: &str,
    patience: Duration,
) -> Option<Arc<Object>> {
    wait_until(snapshot, resource.clone(), namespace, name, patience, |object| object.is_some()).await;
    find(snapshot, resource, namespace, name)
}

/// Waits up to `patience` until `fits` is true of what the cache holds under that name.
pub async fn wait_until(
    snapshot: &Snapshot,
    resource: GroupResource,
    namespace: &str,
    name: &str,
    patience: Duration,
    fits: impl Fn(Option<&Object>) -> bool,
) {
    let Some(store) = snapshot.store(&resource) else { return };
    if fits(store.get(namespace, name).as_deref()) {
        return;
    }
    let mut changes = store.subscribe();
    let changed = async {
        while !fits(store.get(namespace, name).as_deref()) {
            match changes.next().await {
                Some(StoreEvent::Applied { .. } | StoreEvent::Deleted(_) | StoreEvent::Resync) => {}
                None => return,
            }
        }
    };
    // Running out of patience is an answer too: the caller looks again.
    let _ = tokio::time::timeout(patience, changed).await;
}
