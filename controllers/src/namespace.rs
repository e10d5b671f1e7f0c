//! Empties namespaces that are being deleted, then lets them go.
//!
//! Invariants: pods go first, everything else only when no pod is left (so that
//! nothing a pod needs disappears before it), what other API servers serve
//! last; the conditions say what is still there; the `kubernetes` finalizer goes
//! only when nothing is.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;
use skiff_api::{GroupResource, GroupVersionResource, Object, builtin};
use skiff_client::{
    Context, Controller, DeleteOptions, EveryResource, ObjectRef, Operation, Outcome, PropagationPolicy, Snapshot,
    Trigger,
};

use crate::{
    condition::{self, Condition},
    seen::{self, Seen},
    write,
};

const FINALIZER: &str = "kubernetes";
const API_SERVICES: GroupResource = GroupResource::new("apiregistration.k8s.io", "apiservices");

pub struct NamespaceController;

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        // A server that answers again, or is given up, lets namespaces go.
        let closing = |_: Option<&Object>, _: Option<&Object>, world: &Snapshot| {
            let namespaces = world.store(&GroupResource::new("", "namespaces")).map(|store| store.list(None));
            let namespaces = namespaces.unwrap_or_default().into_iter();
            namespaces
                .filter(|namespace| namespace.meta.is_deleting())
                .map(|namespace| ObjectRef::of(&namespace))
                .collect()
        };
        vec![Trigger::itself::<Namespace>(), Trigger { resource: API_SERVICES, map: Box::new(closing) }]
    }

    /// Every change inside a namespace that is being deleted brings its end nearer.
    fn every_resource(&self) -> Option<EveryResource> {
        Some(Arc::new(|_, new: Option<&Object>, old: Option<&Object>, world: &Snapshot| {
            let Some(object) = new.or(old).filter(|object| !object.meta.namespace.is_empty()) else {
                return Vec::new();
            };
            let namespace = world.object::<Namespace>("", &object.meta.namespace);
            let ends = namespace.is_some_and(|namespace| namespace.meta.is_deleting());
            if ends { vec![ObjectRef::new("", object.meta.namespace.clone())] } else { Vec::new() }
        }))
    }

    fn workers(&self) -> usize {
        10
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(namespace) = seen::get::<Namespace>(world, "", &key.name) else { return outcome };
        let Ok(value) = namespace.object.value() else { return outcome };
        let finalizers = value["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !namespace.is_deleting() || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return outcome;
        }
        let content = Content::of(&key.name, world);
        let remote = remote_versions(world);
        let status = status(&namespace, &value, &content, &remote, context);
        let is_told = status.is_none();
        outcome.operations.extend(status);
        if content.resources.is_empty() {
            if !is_told {
                // The status write brings us back here.
                return outcome;
            }
            // Whatever was written while the namespace was closing is not in the
            // snapshot yet: one more sweep over everything, then the end.
            outcome.operations.extend(namespaced(world).into_iter().map(|resource| sweep(resource, &key.name)));
            outcome.operations.extend(remote.into_iter().map(|Remote { group, version, .. }| Operation::EmptyServed {
                group,
                version,
                namespace: key.name.clone(),
            }));
            outcome.push(finalize(&namespace, value, finalizers));
            return outcome;
        }
        let pods = GroupResource::new("", "pods");
        let due: Vec<_> = match content.resources.get(&pods) {
            Some(remaining) => vec![remaining],
            None => content.resources.values().collect(),
        };
        for remaining in due.into_iter().filter(|remaining| remaining.untouched > 0) {
            outcome.push(sweep(remaining.resource.clone(), &key.name));
        }
        outcome
    }
}

/// A group version that another API server serves.
struct Remote {
    group: String,
    version: String,
    available: bool,
}

/// All of them, in the order of their names.
fn remote_versions(world: &Snapshot) -> Vec<Remote> {
    let services = world.store(&API_SERVICES);
    let mut remote: Vec<Remote> = services
        .map(|store| store.list(None))
        .unwrap_or_default()
        .iter()
        .filter_map(|object| object.value().ok().filter(|service| service["spec"]["service"].is_object()))
        .map(|service| {
            let text = |name: &str| service["spec"][name].as_str().unwrap_or_default().to_owned();
            let mut conditions = service["status"]["conditions"].as_array().into_iter().flatten();
            let available =
                conditions.any(|condition| condition["type"] == "Available" && condition["status"] == "True");
            Remote { group: text("group"), version: text("version"), available }
        })
        .collect();
    remote.sort_by(|a, b| (&a.group, &a.version).cmp(&(&b.group, &b.version)));
    remote
}

/// What is left of one resource in a namespace.
struct Remaining {
    resource: GroupVersionResource,
    total: usize,
    /// Objects whose deletion has not begun.
    untouched: usize,
    finalizers: BTreeMap<String, usize>,
}

struct Content {
    resources: BTreeMap<GroupResource, Remaining>,
}

impl Content {
    fn of(namespace: &str, world: &Snapshot) -> Content {
        let mut resources = BTreeMap::new();
        for resource in world.resources() {
            let Some(store) = world.store(&resource) else { continue };
            let objects = store.list(Some(namespace));
            let Some(first) = objects.first() else { continue };
            let mut finalizers = BTreeMap::new();
            for finalizer in objects.iter().flat_map(|object| &object.meta.finalizers) {
                *finalizers.entry(finalizer.clone()).or_insert(0) += 1;
            }
            let remaining = Remaining {
                resource: version_of(&resource, Some(first)),
                total: objects.len(),
                untouched: objects.iter().filter(|object| !object.meta.is_deleting()).count(),
                finalizers,
            };
            resources.insert(resource, remaining);
        }
        Content { resources }
    }
}

/// The resource with a version that is served: the preferred one, or the one objects have.
fn version_of(resource: &GroupResource, example: Option<&Object>) -> GroupVersionResource {
    let row = builtin().iter().find(|row| row.group_resource() == *resource);
    let version = match (row, example) {
        (Some(row), _) => row.version.clone(),
        (None, Some(object)) => {
            let version = object.api_version();
            version.rsplit_once('/').map_or(version, |(_, version)| version).to_owned().into()
        }
        (None, None) => "v1".into(),
    };
    GroupVersionResource { group: resource.group.clone(), version, resource: resource.resource.clone() }
}

/// All namespaced resources that are in the program and in the snapshot.
fn namespaced(world: &Snapshot) -> Vec<GroupVersionResource> {
    let rows = builtin().iter().filter(|row| row.namespaced && row.is_stored());
    let mut resources: Vec<GroupVersionResource> = rows
        .filter(|row| row.verbs.contains(skiff_api::Verb::DeleteCollection))
        .filter(|row| world.store(&row.group_resource()).is_some())
        .map(|row| row.gvr())
        .collect();
    // The table lists preferred versions first.
    let mut known = std::collections::HashSet::new();
    resources.retain(|resource| known.insert(resource.group_resource()));
    resources
}

fn sweep(resource: GroupVersionResource, namespace: &str) -> Operation {
    let options = DeleteOptions { propagation_policy: Some(PropagationPolicy::Background), ..DeleteOptions::default() };
    Operation::DeleteCollection { resource, namespace: Some(namespace.to_owned()), options }
}

fn finalize(namespace: &Seen<Namespace>, mut value: Value, mut finalizers: Vec<Value>) -> Operation {
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    value["spec"]["finalizers"] = finalizers.into();
    Operation::Update {
        resource: GroupVersionResource::of::<Namespace>(),
        namespace: None,
        name: namespace.name().to_owned(),
        subresource: Some("finalize"),
        body: value,
    }
}

fn status(
    namespace: &Seen<Namespace>,
    value: &Value,
    content: &Content,
    remote: &[Remote],
    context: &Context,
) -> Option<Operation> {
    let mut status = value["status"].clone();
    let mut conditions = condition::of(&status);
    for new in std::iter::once(discovery_condition(remote)).chain(conditions_of(content, context)) {
        condition::set(&mut conditions, new, context.now);
    }
    if !status.is_object() {
        status = serde_json::json!({});
    }
    status["phase"] = "Terminating".into();
    status["conditions"] = conditions.into();
    Some(write::update_status::<Namespace>(&namespace.object, write::with_status(&namespace.object, status)?))
}

fn conditions_of(content: &Content, context: &Context) -> Vec<Condition> {
    let mut kinds: Vec<String> = Vec::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for remaining in content.resources.values() {
        kinds.push(format!(
            "{}.{} has {} resource instances",
            remaining.resource.resource, remaining.resource.group, remaining.total
        ));
        for (finalizer, count) in &remaining.finalizers {
            *finalizers.entry(finalizer).or_insert(0) += count;
        }
    }
    let failed = match &context.last_failure {
        Some(failure) => {
            let message = format!("Failed to delete all resource types, 1 remaining: {}", failure.message);
            Condition::new("NamespaceDeletionContentFailure", "True", "ContentDeletionFailed", message)
        }
        None => {
            let message = "All content successfully deleted, may be waiting on finalization";
            Condition::new("NamespaceDeletionContentFailure", "False", "ContentDeleted", message)
        }
    };
    let remain = if kinds.is_empty() {
        let message = "All content successfully removed";
        Condition::new("NamespaceContentRemaining", "False", "ContentRemoved", message)
    } else {
        let message = format!("Some resources are remaining: {}", kinds.join(", "));
        Condition::new("NamespaceContentRemaining", "True", "SomeResourcesRemain", message)
    };
    let held = if finalizers.is_empty() {
        let message = "All content-preserving finalizers finished";
        Condition::new("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", message)
    } else {
        let list: Vec<String> =
            finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
        let message = format!("Some content in the namespace has finalizers remaining: {}", list.join(", "));
        Condition::new("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
    };
    vec![
        Condition::new(
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        failed,
        remain,
        held,
    ]
}

/// Whether all API servers could say what there is.
fn discovery_condition(remote: &[Remote]) -> Condition {
    const TYPE: &str = "NamespaceDeletionDiscoveryFailure";
    let silent = remote.iter().filter(|remote| !remote.available);
    let silent: Vec<String> = silent
        .map(|Remote { group, version, .. }| {
            format!("{group}/{version}: stale GroupVersion discovery: {group}/{version}")
        })
        .collect();
    if silent.is_empty() {
        return Condition::new(TYPE, "False", "ResourcesDiscovered", "All resources successfully discovered");
    }
    let message = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
        silent.len(),
        silent.join(", ")
    );
    Condition::new(TYPE, "True", "DiscoveryFailed", message)
}
