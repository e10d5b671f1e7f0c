//! Deletes what nobody owns any more, and what owners take with them.
//!
//! There is no graph to maintain: every store has an index of owners' uids, so
//! the dependents of an object are looked up when they are needed. A key names
//! one object of any resource: namespace, and `resource.group/name` as name.
//!
//! Invariants: an object is deleted only when none of its owners exists, and
//! the absence of each is confirmed by the API itself, not by a cache; an
//! owner of unknown kind counts as present.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionKind, GroupVersionResource, Object, OwnerReference, builtin};
use skiff_client::{
    Context, Controller, DeleteOptions, EveryResource, ObjectRef, Operation, Outcome, Patch, PropagationPolicy,
    Snapshot, Trigger,
};

use crate::{seen, write};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

pub struct GarbageCollector;

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn triggers(&self) -> Vec<Trigger> {
        Vec::new()
    }

    fn every_resource(&self) -> Option<EveryResource> {
        Some(Arc::new(keys))
    }

    fn workers(&self) -> usize {
        20
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some((resource, object)) = resolve(key, world) else { return outcome };
        let node = Node { resource, object };
        if node.object.meta.is_deleting() {
            node.finish_deletion(world, &mut outcome);
        } else if !node.object.meta.owner_references.is_empty() {
            node.check_owners(world, &mut outcome);
        }
        outcome
    }
}

/// Events are not collected: they expire.
fn is_ignored(resource: &GroupResource) -> bool {
    resource.resource == "events"
}

fn keys(resource: &GroupResource, new: Option<&Object>, old: Option<&Object>, world: &Snapshot) -> Vec<ObjectRef> {
    let Some(object) = new.or(old).filter(|_| !is_ignored(resource)) else { return Vec::new() };
    let mut keys = Vec::new();
    let has_finalizer = |name: &str| object.meta.finalizers.iter().any(|finalizer| finalizer == name);
    match new {
        Some(new) => {
            let ends = new.meta.is_deleting() && (has_finalizer(FOREGROUND) || has_finalizer(ORPHAN));
            let owners_changed = old.is_none_or(|old| old.meta.owner_references != new.meta.owner_references);
            if ends || (!new.meta.owner_references.is_empty() && !new.meta.is_deleting() && owners_changed) {
                keys.push(key(resource, new));
            }
            let began = new.meta.is_deleting() && old.is_none_or(|old| !old.meta.is_deleting());
            if began && has_finalizer(FOREGROUND) {
                keys.extend(dependents(new, world).iter().map(Node::key));
            }
            if let Some(old) = old.filter(|_| owners_changed) {
                keys.extend(waiting_owners(old, world));
            }
        }
        None => {
            keys.extend(dependents(object, world).iter().map(Node::key));
            keys.extend(waiting_owners(object, world));
        }
    }
    keys
}

/// Owners that may be waiting for this dependent to go.
fn waiting_owners(dependent: &Object, world: &Snapshot) -> Vec<ObjectRef> {
    let references = dependent.meta.owner_references.iter();
    references
        .filter_map(|reference| match find_owner(reference, dependent, world) {
            Owner::Present(node) if node.object.meta.is_deleting() => Some(node.key()),
            _ => None,
        })
        .collect()
}

fn key(resource: &GroupResource, object: &Object) -> ObjectRef {
    ObjectRef::new(object.meta.namespace.clone(), format!("{resource}/{}", object.meta.name))
}

fn resolve(key: &ObjectRef, world: &Snapshot) -> Option<(GroupResource, Arc<Object>)> {
    let (resource, name) = key.name.split_once('/')?;
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let resource = GroupResource { group: group.to_owned().into(), resource: resource.to_owned().into() };
    let object = world.store(&resource)?.get(&key.namespace, name)?;
    Some((resource, object))
}

/// An object and the resource it is stored under.
struct Node {
    resource: GroupResource,
    object: Arc<Object>,
}

/// What is known of an owner.
enum Owner {
    Present(Node),
    /// Not in the snapshot; to be confirmed at this place.
    Absent {
        resource: GroupVersionResource,
        namespace: Option<String>,
    },
    /// Of a kind that is not served here, or out of reach of the dependent.
    Unknown,
}

/// All objects that name `owner` among their owners.
fn dependents(owner: &Object, world: &Snapshot) -> Vec<Node> {
    let mut found = Vec::new();
    for resource in world.resources() {
        let Some(store) = world.store(&resource).filter(|_| !is_ignored(&resource)) else { continue };
        let objects = store.owned_by(owner.meta.uid.as_str()).into_iter();
        // A namespaced owner owns only within its namespace.
        let reachable =
            objects.filter(|object| owner.meta.namespace.is_empty() || object.meta.namespace == owner.meta.namespace);
        found.extend(reachable.map(|object| Node { resource: resource.clone(), object }));
    }
    found
}

/// The resource of a kind, and whether it is namespaced.
pub(crate) fn resource_of(kind: &GroupVersionKind, world: &Snapshot) -> Option<(GroupVersionResource, bool)> {
    let row = builtin().iter().find(|row| row.group == kind.group && row.kind == kind.kind && row.is_stored());
    if let Some(row) = row {
        return Some((row.gvr(), row.namespaced));
    }
    let definitions = seen::list::<CustomResourceDefinition>(world, None);
    let definition = definitions
        .iter()
        .map(|definition| &definition.typed.spec)
        .find(|spec| spec.group == kind.group && spec.names.kind == kind.kind)?;
    let resource = GroupVersionResource {
        group: kind.group.clone(),
        version: kind.version.clone(),
        resource: definition.names.plural.clone().into(),
    };
    Some((resource, definition.scope == "Namespaced"))
}

fn find_owner(reference: &OwnerReference, dependent: &Object, world: &Snapshot) -> Owner {
    let kind = GroupVersionKind::parse(&reference.api_version, &reference.kind);
    let Some((resource, namespaced)) = resource_of(&kind, world) else { return Owner::Unknown };
    if namespaced && dependent.meta.namespace.is_empty() {
        return Owner::Unknown;
    }
    let Some(store) = world.store(&resource.group_resource()) else { return Owner::Unknown };
    let namespace = if namespaced { dependent.meta.namespace.as_str() } else { "" };
    match store.get(namespace, &reference.name) {
        Some(object) if object.meta.uid == reference.uid => {
            Owner::Present(Node { resource: resource.group_resource(), object })
        }
        _ => Owner::Absent { resource, namespace: namespaced.then(|| namespace.to_owned()) },
    }
}

impl Node {
    fn key(&self) -> ObjectRef {
        key(&self.resource, &self.object)
    }

    /// The resource in the version the object has.
    fn gvr(&self) -> GroupVersionResource {
        let version = self.object.api_version();
        let version = version.rsplit_once('/').map_or(version, |(_, version)| version);
        GroupVersionResource {
            group: self.resource.group.clone(),
            version: version.to_owned().into(),
            resource: self.resource.resource.clone(),
        }
    }

    fn has_finalizer(&self, name: &str) -> bool {
        self.object.meta.finalizers.iter().any(|finalizer| finalizer == name)
    }

    fn is_deleting_dependents(&self) -> bool {
        self.object.meta.is_deleting() && self.has_finalizer(FOREGROUND)
    }

    fn merge(&self, metadata: Value) -> Operation {
        let mut metadata = metadata;
        metadata["resourceVersion"] = self.object.meta.resource_version.as_str().into();
        let patch = Patch::Merge(json!({"metadata": metadata}));
        write::patch_of(self.gvr(), &self.object, None, patch)
    }

    fn without_finalizer(&self, name: &str) -> Operation {
        let rest: Vec<&String> = self.object.meta.finalizers.iter().filter(|finalizer| *finalizer != name).collect();
        self.merge(json!({"finalizers": rest}))
    }

    fn with_owners(&self, owners: Vec<&OwnerReference>) -> Operation {
        self.merge(json!({"ownerReferences": owners}))
    }

    fn delete(&self, policy: PropagationPolicy) -> Operation {
        let options = DeleteOptions {
            propagation_policy: Some(policy),
            resource_version: Some(self.object.meta.resource_version.clone()),
            ..DeleteOptions::with_uid(&self.object.meta.uid)
        };
        Operation::Delete {
            resource: self.gvr(),
            namespace: write::namespace_of(&self.object),
            name: self.object.meta.name.clone(),
            options,
        }
    }

    /// The object is being deleted and may wait for us: orphan its dependents, or wait for their end.
    fn finish_deletion(&self, world: &Snapshot, outcome: &mut Outcome) {
        if self.has_finalizer(ORPHAN) {
            for dependent in dependents(&self.object, world) {
                let owners = dependent.object.meta.owner_references.iter();
                let owners = owners.filter(|owner| owner.uid != self.object.meta.uid).collect();
                outcome.push(dependent.with_owners(owners));
            }
            outcome.push(self.without_finalizer(ORPHAN));
        } else if self.has_finalizer(FOREGROUND) {
            let blocked = dependents(&self.object, world).iter().any(|dependent| {
                let owners = dependent.object.meta.owner_references.iter();
                owners
                    .filter(|owner| owner.uid == self.object.meta.uid)
                    .any(|owner| owner.block_owner_deletion == Some(true))
            });
            if !blocked {
                outcome.push(self.without_finalizer(FOREGROUND));
            }
        }
    }

    /// Keeps the object while it has an owner, cuts ties to owners that are gone, deletes it when none is left.
    fn check_owners(&self, world: &Snapshot, outcome: &mut Outcome) {
        let mut solid = false;
        let mut waiting = false;
        let mut absent: BTreeMap<&str, Operation> = BTreeMap::new();
        let mut leaving: Vec<&str> = Vec::new();
        for reference in &self.object.meta.owner_references {
            match find_owner(reference, &self.object, world) {
                Owner::Unknown => solid = true,
                Owner::Present(owner) if owner.is_deleting_dependents() => {
                    waiting = true;
                    leaving.push(reference.uid.as_str());
                }
                Owner::Present(_) => solid = true,
                Owner::Absent { resource, namespace } => {
                    leaving.push(reference.uid.as_str());
                    let check = Operation::RequireAbsent {
                        resource,
                        namespace,
                        name: reference.name.clone(),
                        uid: reference.uid.clone(),
                    };
                    absent.insert(reference.uid.as_str(), check);
                }
            }
        }
        if leaving.is_empty() {
            return;
        }
        outcome.operations.extend(absent.into_values());
        if solid {
            let owners = self.object.meta.owner_references.iter();
            outcome.push(self.with_owners(owners.filter(|owner| !leaving.contains(&owner.uid.as_str())).collect()));
            return;
        }
        let own = if waiting { dependents(&self.object, world) } else { Vec::new() };
        if own.iter().any(Node::is_deleting_dependents) {
            // A cycle of objects that wait for each other: this one stops blocking.
            let mut owners = self.object.meta.owner_references.clone();
            owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
            outcome.push(self.with_owners(owners.iter().collect()));
        }
        outcome.push(self.delete(if !own.is_empty() || self.has_finalizer(FOREGROUND) {
            PropagationPolicy::Foreground
        } else if self.has_finalizer(ORPHAN) {
            PropagationPolicy::Orphan
        } else {
            PropagationPolicy::Background
        }));
    }
}
