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
    let store = snapshot.store(&resource)?;
    if let Some(found) = store.get(namespace, name) {
        return Some(found);
    }
    let mut changes = store.subscribe();
    let appeared = async {
        loop {
            if let Some(found) = store.get(namespace, name) {
                return Some(found);
            }
            match changes.next().await {
                Some(StoreEvent::Applied { .. } | StoreEvent::Deleted(_) | StoreEvent::Resync) => {}
                None => return None,
            }
        }
    };
    tokio::time::timeout(patience, appeared).await.ok().flatten()
}
