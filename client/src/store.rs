//! The current objects of one resource, shared by everyone who reads them.
//!
//! A store has one writer ([`StoreWriter`]: the API server's watch cache, or a
//! reflector) and any number of readers ([`Store`]). Objects are immutable and
//! shared; readers take the lock only to find them. Invariants: the revision
//! never goes back; a change is visible before its event is delivered; a reader
//! that falls behind in its subscription is told to look at everything again
//! ([`StoreEvent::Resync`]), never silently skipped.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire},
        },
    },
};

use parking_lot::RwLock;
use skiff_api::{Object, ObjectKey, Revision};
use tokio::sync::{Notify, broadcast, watch};

/// Changes a subscriber may lag behind before it must resynchronise.
const SUBSCRIPTION_LEN: usize = 4096;

/// Derives index values of an object, for lookups other than by name.
#[derive(Clone, Copy)]
pub struct Index {
    pub name: &'static str,
    pub values: fn(&Object) -> Vec<String>,
}

/// Index over `metadata.ownerReferences[*].uid`; every store has it.
pub const BY_OWNER_UID: Index = Index {
    name: "owner-uid",
    values: |object| object.meta.owner_references.iter().map(|owner| owner.uid.0.clone()).collect(),
};

/// Index of pods over `spec.nodeName`; the API server's store of pods has it.
pub const PODS_BY_NODE: Index = Index {
    name: "pod-node",
    values: |object| {
        let pod = object.typed::<k8s_openapi::api::core::v1::Pod>().ok();
        let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
        node.filter(|node| !node.is_empty()).into_iter().collect()
    },
};

/// A change of a store.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// Added or changed; `old` is what it replaced.
    Applied { new: Arc<Object>, old: Option<Arc<Object>> },
    /// Removed; the last state, with the revision of the deletion.
    Deleted(Arc<Object>),
    /// Changes were missed or the whole content was replaced: look at everything.
    Resync,
}

/// An object in its place: by namespace and name, which it holds itself.
struct Placed(Arc<Object>);

/// What says where an object's place is.
trait Place {
    fn place(&self) -> (&str, &str);
}

impl Place for Placed {
    fn place(&self) -> (&str, &str) {
        (&self.0.meta.namespace, &self.0.meta.name)
    }
}

impl Place for (&str, &str) {
    fn place(&self) -> (&str, &str) {
        *self
    }
}

impl<'a> Borrow<dyn Place + 'a> for Placed {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Place + '_ {}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Placed {}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

#[derive(Default)]
struct Content {
    objects: BTreeSet<Placed>,
    indexes: HashMap<&'static str, HashMap<String, HashSet<ObjectKey>>>,
}

struct Shared {
    content: RwLock<Content>,
    indexes: Vec<Index>,
    revision: AtomicU64,
    /// Wakes who waits for a revision; costs nothing while nobody does.
    advanced: Notify,
    synced: watch::Sender<bool>,
    events: broadcast::Sender<StoreEvent>,
}

/// Reader of a store; cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

/// The one writer of a store.
pub struct StoreWriter(Arc<Shared>);

/// Makes an empty, unsynced store. [`BY_OWNER_UID`] is always added to `indexes`.
pub fn store(indexes: &[Index]) -> (StoreWriter, Store) {
    let mut all = vec![BY_OWNER_UID];
    all.extend_from_slice(indexes);
    let shared = Arc::new(Shared {
        content: RwLock::default(),
        indexes: all,
        revision: AtomicU64::new(Revision::ZERO.0),
        advanced: Notify::new(),
        synced: watch::Sender::new(false),
        events: broadcast::Sender::new(SUBSCRIPTION_LEN),
    });
    (StoreWriter(Arc::clone(&shared)), Store(shared))
}

impl Store {
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.content.read().get(namespace, name)
    }

    /// All objects in list order (namespace, name), or those of one namespace.
    pub fn list(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let content = self.0.content.read();
        match namespace {
            None => content.all().cloned().collect(),
            Some(namespace) => {
                let first = (namespace, "");
                content
                    .objects
                    .range::<dyn Place + '_, _>((Bound::Included(&first as &dyn Place), Bound::Unbounded))
                    .map(|Placed(object)| object)
                    .take_while(|object| object.meta.namespace == namespace)
                    .cloned()
                    .collect()
            }
        }
    }

    /// Objects whose index `name` holds `value`; unordered. A store without
    /// the index is searched through.
    pub fn by_index(&self, index: &Index, value: &str) -> Vec<Arc<Object>> {
        let content = self.0.content.read();
        if !self.0.indexes.iter().any(|have| have.name == index.name) {
            let holds = |object: &&Arc<Object>| (index.values)(object).iter().any(|have| have == value);
            return content.all().filter(holds).cloned().collect();
        }
        let Some(keys) = content.indexes.get(index.name).and_then(|values| values.get(value)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|key| content.get(&key.namespace, &key.name)).collect()
    }

    /// Objects that name `uid` among their owners.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Object>> {
        self.by_index(&BY_OWNER_UID, uid)
    }

    /// Whether both are readers of one store.
    pub fn is_same(&self, other: &Store) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn len(&self) -> usize {
        self.0.content.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision this store has caught up with.
    pub fn revision(&self) -> Revision {
        Revision(self.0.revision.load(Acquire))
    }

    /// Waits until the store has caught up with `revision`.
    pub async fn wait_for(&self, revision: Revision) {
        self.wait_until(|store| store.revision() >= revision).await;
    }

    /// Waits until `condition` holds, looking again after every change of the revision.
    pub async fn wait_until(&self, condition: impl Fn(&Store) -> bool) {
        loop {
            // Listening before looking, so that no change falls between the two.
            let mut advanced = std::pin::pin!(self.0.advanced.notified());
            advanced.as_mut().enable();
            if condition(self) {
                return;
            }
            advanced.await;
        }
    }

    /// Waits until the first complete list has arrived.
    pub async fn wait_synced(&self) {
        let mut receiver = self.0.synced.subscribe();
        let _ = receiver.wait_for(|synced| *synced).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Changes from now on. Subscribe first, then list, to miss nothing.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.0.events.subscribe())
    }
}

impl StoreWriter {
    /// A reader of this store.
    pub fn reader(&self) -> Store {
        Store(Arc::clone(&self.0))
    }

    /// Adds or replaces one object and advances the revision to the object's.
    pub fn apply(&self, object: Arc<Object>) {
        let old = self.0.content.write().insert(&self.0.indexes, Arc::clone(&object));
        self.advance(object.revision);
        let _ = self.0.events.send(StoreEvent::Applied { new: object, old });
    }

    /// Removes an object; `last` carries the revision of the deletion.
    pub fn delete(&self, last: Arc<Object>) {
        self.0.content.write().remove(&self.0.indexes, &last);
        self.advance(last.revision);
        let _ = self.0.events.send(StoreEvent::Deleted(last));
    }

    /// Replaces the whole content, as after a list, and marks the store synced.
    pub fn replace(&self, objects: Vec<Arc<Object>>, revision: Revision) {
        {
            let mut content = self.0.content.write();
            *content = Content::default();
            for object in objects {
                content.insert(&self.0.indexes, object);
            }
        }
        self.advance(revision);
        self.0.synced.send_replace(true);
        let _ = self.0.events.send(StoreEvent::Resync);
    }

    /// Records that everything up to `revision` has been seen (a bookmark).
    pub fn advance(&self, revision: Revision) {
        if self.0.revision.fetch_max(revision.0, AcqRel) < revision.0 {
            self.0.advanced.notify_waiters();
        }
    }
}

impl Content {
    fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.iter().map(|Placed(object)| object)
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects.get(&(namespace, name) as &dyn Place).map(|Placed(object)| Arc::clone(object))
    }

    fn insert(&mut self, indexes: &[Index], object: Arc<Object>) -> Option<Arc<Object>> {
        let old = self.objects.replace(Placed(Arc::clone(&object))).map(|Placed(old)| old);
        for index in indexes {
            let before = old.as_ref().map(|old| (index.values)(old)).unwrap_or_default();
            let after = (index.values)(&object);
            if before != after {
                self.take_out(index, before, &object);
                self.put_in(index, after, &object);
            }
        }
        old
    }

    fn remove(&mut self, indexes: &[Index], last: &Object) {
        let place = (last.meta.namespace.as_str(), last.meta.name.as_str());
        let Some(Placed(old)) = self.objects.take(&place as &dyn Place) else { return };
        for index in indexes {
            self.take_out(index, (index.values)(&old), &old);
        }
    }

    fn put_in(&mut self, index: &Index, values: Vec<String>, object: &Object) {
        for value in values {
            self.indexes.entry(index.name).or_default().entry(value).or_default().insert(object.key());
        }
    }

    fn take_out(&mut self, index: &Index, values: Vec<String>, object: &Object) {
        let Some(all) = self.indexes.get_mut(index.name) else { return };
        for value in values {
            let Some(keys) = all.get_mut(&value) else { continue };
            keys.remove(&object.key());
            if keys.is_empty() {
                all.remove(&value);
            }
        }
    }
}

/// A bounded stream of changes.
pub struct Subscription(broadcast::Receiver<StoreEvent>);

impl Subscription {
    /// The next change; [`StoreEvent::Resync`] after falling behind; `None` when the store is gone.
    pub async fn next(&mut self) -> Option<StoreEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(StoreEvent::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, revision: u64, owner: &str) -> Arc<Object> {
        let value = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": name, "namespace": "n", "resourceVersion": revision.to_string(),
            "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner}]}});
        Arc::new(Object::from_value(&value).unwrap())
    }

    #[test]
    fn owner_index_follows_changes() {
        let (writer, store) = store(&[]);
        writer.apply(object("a", 1, "u1"));
        writer.apply(object("a", 2, "u2"));
        assert!(store.owned_by("u1").is_empty());
        assert_eq!(store.owned_by("u2").len(), 1);
        writer.delete(object("a", 3, "u2"));
        assert!(store.owned_by("u2").is_empty());
        assert_eq!(store.revision(), Revision(3));
    }

    #[test]
    fn lists_are_in_order_and_keep_to_their_namespace() {
        let (writer, store) = store(&[]);
        let names = [("b", "a"), ("a", "z"), ("a", "b"), ("aa", "c"), ("", "x")];
        for (number, (namespace, name)) in names.iter().enumerate() {
            let value = serde_json::json!({"metadata": {"namespace": namespace, "name": name,
                "resourceVersion": (number + 1).to_string()}});
            writer.apply(Arc::new(Object::from_value(&value).unwrap()));
        }
        let list = |namespace: Option<&str>| {
            let list = store.list(namespace);
            list.iter().map(|object| object.key().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(list(None), ["x", "a/b", "a/z", "aa/c", "b/a"]);
        assert_eq!(list(Some("a")), ["a/b", "a/z"]);
        assert!(list(Some("c")).is_empty());
        assert!(store.get("a", "z").is_some() && store.get("a", "c").is_none());
        writer.delete(store.get("a", "b").unwrap());
        assert_eq!((list(Some("a")), store.len()), (vec!["a/z".to_owned()], 4));
    }

    #[tokio::test]
    async fn who_waits_for_a_revision_is_woken_by_it() {
        let (writer, store) = store(&[]);
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.wait_for(Revision(7)).await }
        });
        tokio::task::yield_now().await;
        writer.advance(Revision(6));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        writer.apply(object("a", 7, "u"));
        waiting.await.unwrap();
        writer.advance(Revision(3));
        assert_eq!(store.revision(), Revision(7), "it never goes back");
        store.wait_until(|store| store.len() == 1).await;
    }

    #[tokio::test]
    async fn a_lagging_subscriber_is_told_to_resync() {
        let (writer, store) = store(&[]);
        let mut subscription = store.subscribe();
        for revision in 1..=(SUBSCRIPTION_LEN as u64 + 10) {
            writer.apply(object("a", revision, "u"));
        }
        assert!(matches!(subscription.next().await, Some(StoreEvent::Resync)));
    }
}
