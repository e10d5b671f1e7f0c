//! What a controller is: a pure function from a key and the state of the world
//! to the things that should be done about it.
//!
//! A reconciler has no client, no clock and no await inside. The runner calls
//! it, carries out the operations, waits until the snapshot has caught up with
//! its own last write before calling it again for the same key (which replaces
//! upstream's expectations), and retries with back-off and jitter.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use skiff_api::{GroupResource, GroupVersionResource, Object, ObjectReference, Status, Uid};

use crate::{DeleteOptions, Patch, Snapshot};

/// The key a controller works on: usually namespace and name of its main kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
}

impl ObjectRef {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectRef { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(object: &Object) -> Self {
        ObjectRef::new(object.meta.namespace.clone(), object.meta.name.clone())
    }
}

/// Says which keys to look at when an object of `resource` changes. `map` gets
/// the new and the old state (one of them absent on add and delete), and is
/// called once per object when the controller starts or must resynchronise.
pub struct Trigger {
    pub resource: GroupResource,
    #[allow(clippy::type_complexity)]
    pub map: Box<dyn Fn(Option<&Object>, Option<&Object>, &Snapshot) -> Vec<ObjectRef> + Send + Sync>,
}

impl Trigger {
    /// The object itself is the key.
    pub fn itself<K: k8s_openapi::Resource>() -> Trigger {
        Trigger::new::<K>(|new, old, _| new.or(old).map(ObjectRef::of).into_iter().collect())
    }

    pub fn new<K: k8s_openapi::Resource>(
        map: impl Fn(Option<&Object>, Option<&Object>, &Snapshot) -> Vec<ObjectRef> + Send + Sync + 'static,
    ) -> Trigger {
        Trigger { resource: GroupResource::of::<K>(), map: Box::new(map) }
    }

    /// The controller owner of kind `owner_kind`, of the new and the old state.
    pub fn owner<K: k8s_openapi::Resource>(owner_kind: &'static str) -> Trigger {
        Trigger::new::<K>(move |new, old, _| {
            let mut keys: Vec<ObjectRef> = [new, old]
                .into_iter()
                .flatten()
                .filter_map(|object| {
                    let owner = object.meta.controller()?;
                    (owner.kind == owner_kind)
                        .then(|| ObjectRef::new(object.meta.namespace.clone(), owner.name.clone()))
                })
                .collect();
            keys.dedup();
            keys
        })
    }
}

/// Says which keys to look at when an object of any resource changes.
pub type EveryResource =
    Arc<dyn Fn(&GroupResource, Option<&Object>, Option<&Object>, &Snapshot) -> Vec<ObjectRef> + Send + Sync>;

/// One write to the API.
#[derive(Clone, Debug)]
pub enum Operation {
    Create {
        resource: GroupVersionResource,
        namespace: Option<String>,
        body: Value,
    },
    /// Replaces an object; `subresource` is usually `None` or `Some("status")`.
    Update {
        resource: GroupVersionResource,
        namespace: Option<String>,
        name: String,
        subresource: Option<&'static str>,
        body: Value,
    },
    Patch {
        resource: GroupVersionResource,
        namespace: Option<String>,
        name: String,
        subresource: Option<&'static str>,
        patch: Patch,
    },
    Delete {
        resource: GroupVersionResource,
        namespace: Option<String>,
        name: String,
        options: DeleteOptions,
    },
    DeleteCollection {
        resource: GroupVersionResource,
        namespace: Option<String>,
        options: DeleteOptions,
    },
    /// Deletes what another server serves of a group version in a namespace, as
    /// its discovery tells; fails while something is left there.
    EmptyServed {
        group: String,
        version: String,
        namespace: String,
    },
    /// POST to a subresource such as `eviction` or `binding`.
    CreateSubresource {
        resource: GroupVersionResource,
        namespace: Option<String>,
        name: String,
        subresource: &'static str,
        body: Value,
    },
    /// Asks the API itself whether an object is gone, and ends the outcome
    /// quietly when it is not: for decisions that must not rest on a cache that
    /// may be behind. The object counts as gone when the name has another uid; an empty uid means any object.
    RequireAbsent {
        resource: GroupVersionResource,
        namespace: Option<String>,
        name: String,
        uid: Uid,
    },
}

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

/// An Event to record; repeats are counted, not multiplied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    pub regarding: ObjectReference,
    pub event_type: EventType,
    pub reason: String,
    pub message: String,
}

/// What should happen now. Operations run in order and stop at the first
/// failure, except that deleting what is gone and creating what exists count as done.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub operations: Vec<Operation>,
    pub events: Vec<EventRecord>,
    /// Look again after this long, even if nothing changes.
    pub requeue_after: Option<Duration>,
    /// Try again with back-off: the world is not yet as it must be for a decision.
    pub retry: Option<String>,
}

impl Outcome {
    pub fn done() -> Outcome {
        Outcome::default()
    }

    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }
}

/// What a reconciler may know besides the snapshot.
#[derive(Clone, Debug)]
pub struct Context {
    pub now: Timestamp,
    /// Why the last attempt for this key failed (quota, validation, ...), so
    /// that a status condition can say it.
    pub last_failure: Option<Arc<Status>>,
}

/// A controller: its name, what wakes it, and what it decides.
pub trait Controller: Send + Sync + 'static {
    /// Upstream's name, for example `replicaset-controller`.
    fn name(&self) -> &'static str;

    /// The component its events come from, where upstream's has another name for that.
    fn event_component(&self) -> &'static str {
        self.name()
    }

    /// What wakes it.
    fn triggers(&self) -> Vec<Trigger>;

    /// Resources read besides those of the triggers; all of them are synced before the first call.
    fn reads(&self) -> Vec<GroupResource> {
        Vec::new()
    }

    /// Wakes it for every resource of the snapshot, including those added
    /// later. The map also gets the resource.
    fn every_resource(&self) -> Option<EveryResource> {
        None
    }

    /// Keys handled at the same time.
    fn workers(&self) -> usize {
        4
    }

    /// Decides. Called for one key at a time; the same key never concurrently.
    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome;
}
