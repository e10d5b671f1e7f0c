//! A cluster in memory for tests: carries out what reconcilers decide, plays
//! scheduler and node, and keeps a transcript.
//!
//! It is not an API server: no validation, no defaulting. It knows uids,
//! resource versions, generations, deletion with finalizers, and merges.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionResource, Object, Revision, Status, builtin};
use skiff_client::{
    Context, Controller, EventType, ObjectRef, Operation, Outcome, Patch, PropagationPolicy, Snapshot, StoreWriter,
    store::store,
};

/// Rounds after which a simulation that does not come to rest is broken.
const ROUNDS_MAX: usize = 200;

pub struct Simulation {
    pub world: Snapshot,
    writers: BTreeMap<GroupResource, StoreWriter>,
    revision: u64,
    pub now: Timestamp,
    pub log: Vec<String>,
    last_failure: BTreeMap<(&'static str, ObjectRef), Arc<Status>>,
    /// Creates of this resource are refused with this message.
    pub refuse: Option<(&'static str, &'static str)>,
}

impl Simulation {
    /// A world with all resources and these objects (a YAML stream).
    pub fn new(objects: &str) -> Simulation {
        let world = Snapshot::new();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut simulation = Simulation {
            world,
            writers: BTreeMap::new(),
            revision: 1,
            now,
            log: Vec::new(),
            last_failure: BTreeMap::new(),
            refuse: None,
        };
        builtin().iter().filter(|row| row.is_stored()).for_each(|row| simulation.serve(row.group_resource()));
        for document in objects.split("\n---") {
            let value: Value = serde_saphyr::from_str(document).unwrap();
            if !value.is_null() {
                simulation.put(value);
            }
        }
        simulation
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn resource_of(value: &Value) -> GroupResource {
        let api_version = value["apiVersion"].as_str().unwrap();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let row = builtin().iter().find(|row| row.group == group && row.kind == value["kind"].as_str().unwrap());
        row.unwrap_or_else(|| panic!("unknown kind {value}")).group_resource()
    }

    /// Stores an object, filling in what an API server would.
    pub fn put(&mut self, value: Value) {
        self.put_in(Self::resource_of(&value), value);
    }

    /// Adds a resource that is not built in.
    pub fn serve(&mut self, resource: GroupResource) {
        let (writer, reader) = store(&[]);
        writer.replace(Vec::new(), Revision(1));
        self.world.insert(resource.clone(), reader);
        self.writers.insert(resource, writer);
    }

    /// Stores an object of a resource.
    pub fn put_in(&mut self, resource: GroupResource, mut value: Value) {
        self.revision += 1;
        let metadata = &mut value["metadata"];
        if metadata["name"].is_null() {
            metadata["name"] = format!("{}{}", metadata["generateName"].as_str().unwrap(), self.revision).into();
        }
        if metadata["uid"].is_null() {
            let name = metadata["name"].as_str().unwrap();
            metadata["uid"] = format!("uid-{name}-{}", self.revision).into();
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = crate::write::time(self.now).into();
        }
        if metadata["generation"].is_null() {
            metadata["generation"] = 1.into();
        }
        metadata["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(Object::from_value(&value).unwrap());
        let deleted = object.meta.is_deleting() && object.meta.finalizers.is_empty() && !waits_for_node(&value);
        let writer = &self.writers[&resource];
        if deleted { writer.delete(object) } else { writer.apply(object) }
    }

    /// The raw form of an object.
    pub fn value(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = self.world.resources().into_iter().find(|have| have.to_string() == resource)?;
        Some(self.world.store(&resource)?.get(namespace, name)?.value().unwrap())
    }

    pub fn values(&self, resource: &str, namespace: &str) -> Vec<Value> {
        let resource = self.world.resources().into_iter().find(|have| have.to_string() == resource).unwrap();
        let namespace = (!namespace.is_empty()).then_some(namespace);
        self.world.store(&resource).unwrap().list(namespace).iter().map(|object| object.value().unwrap()).collect()
    }

    /// Changes an object as a user would: the generation rises when the spec changes.
    pub fn edit(&mut self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let before = self.value(resource, namespace, name).unwrap();
        let mut value = before.clone();
        change(&mut value);
        self.replace(&before, value);
    }

    fn replace(&mut self, before: &Value, mut value: Value) {
        if before["spec"] != value["spec"] {
            value["metadata"]["generation"] = (before["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        if *before != value {
            self.put(value);
        }
    }

    /// Deletes as the API does: finalizers and running pods hold the object.
    pub fn delete(&mut self, resource: &str, namespace: &str, name: &str, policy: Option<PropagationPolicy>) {
        let Some(mut value) = self.value(resource, namespace, name) else { return };
        let mut finalizers = value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        match policy {
            Some(PropagationPolicy::Foreground) => finalizers.push("foregroundDeletion".into()),
            Some(PropagationPolicy::Orphan) => finalizers.push("orphan".into()),
            _ => {}
        }
        value["metadata"]["finalizers"] = finalizers.into();
        if value["metadata"]["deletionTimestamp"].is_null() {
            value["metadata"]["deletionTimestamp"] = crate::write::time(self.now).into();
        }
        if value["kind"] == "Namespace" {
            value["status"]["phase"] = "Terminating".into();
        }
        self.put(value);
    }

    /// Runs one controller for one key, once.
    pub fn step(&mut self, controller: &dyn Controller, key: &ObjectRef) -> bool {
        // Names of pods come from the time; no two passes happen at the same instant.
        self.now += SignedDuration::from_millis(1);
        let failure_key = (controller.name(), key.clone());
        let last_failure = self.last_failure.remove(&failure_key);
        let had_failure = last_failure.is_some();
        let context = Context { now: self.now, last_failure };
        let Outcome { operations, events, .. } = controller.reconcile(key, &self.world, &context);
        let mut acted = had_failure;
        let mut failed = false;
        for operation in operations {
            match self.carry_out(controller.name(), operation) {
                Ok(changed) => acted |= changed,
                Err(Some(status)) => {
                    self.last_failure.insert(failure_key, Arc::new(*status));
                    failed = true;
                    break;
                }
                Err(None) => break,
            }
        }
        for event in events.iter().filter(|event| !failed || event.event_type == EventType::Warning) {
            self.log.push(format!("{}: event {} {}", controller.name(), event.reason, event.message));
        }
        acted
    }

    /// `Err(None)` ends the outcome quietly, `Err(Some)` is a failure.
    fn carry_out(&mut self, who: &str, operation: Operation) -> Result<bool, Option<Box<Status>>> {
        match operation {
            Operation::Create { resource, body, .. } => {
                let name = body["metadata"]["name"].as_str().or(body["metadata"]["generateName"].as_str()).unwrap();
                if let Some((refused, message)) = self.refuse
                    && resource.resource == refused
                {
                    return Err(Some(Box::new(Status::forbidden("", refused, name, message))));
                }
                let namespace = body["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
                if self.value(&resource.group_resource().to_string(), &namespace, name).is_some() {
                    return Ok(false);
                }
                self.log.push(format!("{who}: create {} {name}", resource.resource));
                self.put(body);
                Ok(true)
            }
            Operation::Update { resource, namespace, name, subresource, body } => {
                self.update(who, &resource, &namespace.unwrap_or_default(), &name, subresource, body)
            }
            Operation::Patch { resource, namespace, name, subresource, patch } => {
                let namespace = namespace.unwrap_or_default();
                let Some(mut value) = self.value(&resource.group_resource().to_string(), &namespace, &name) else {
                    return Err(None);
                };
                match patch {
                    Patch::Merge(body) => merge(&mut value, body, false),
                    Patch::Strategic(body) => merge(&mut value, body, true),
                    other => panic!("patch {other:?} is not simulated"),
                }
                self.update(who, &resource, &namespace, &name, subresource, value)
            }
            Operation::Delete { resource, namespace, name, options } => {
                self.log.push(format!("{who}: delete {} {name}", resource.resource));
                let namespace = namespace.unwrap_or_default();
                let resource = resource.group_resource().to_string();
                self.delete(&resource, &namespace, &name, options.propagation_policy);
                if options.grace_period_seconds == Some(0) {
                    self.end_pod(&namespace, &name);
                }
                Ok(true)
            }
            Operation::DeleteCollection { resource, namespace, .. } => {
                let namespace = namespace.unwrap_or_default();
                let resource = resource.group_resource().to_string();
                let all = self.values(&resource, &namespace);
                if !all.is_empty() {
                    self.log.push(format!("{who}: delete all {resource} of {namespace}"));
                }
                for value in &all {
                    self.delete(&resource, &namespace, value["metadata"]["name"].as_str().unwrap(), None);
                }
                Ok(!all.is_empty())
            }
            Operation::EmptyServed { group, version, namespace } => {
                self.log.push(format!("{who}: empty {group}/{version} of {namespace}"));
                Ok(false)
            }
            Operation::CreateSubresource { .. } => Ok(true),
            Operation::RequireAbsent { resource, namespace, name, uid } => {
                let have = self.value(&resource.group_resource().to_string(), &namespace.unwrap_or_default(), &name);
                let there = have.is_some_and(|have| uid.is_empty() || have["metadata"]["uid"] == uid.as_str());
                if there { Err(None) } else { Ok(false) }
            }
        }
    }

    fn update(
        &mut self,
        who: &str,
        resource: &GroupVersionResource,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        body: Value,
    ) -> Result<bool, Option<Box<Status>>> {
        let Some(before) = self.value(&resource.group_resource().to_string(), namespace, name) else {
            return Err(None);
        };
        let version = &body["metadata"]["resourceVersion"];
        if !version.is_null() && *version != before["metadata"]["resourceVersion"] {
            let status = Status::conflict("", &resource.resource, name, "the object has been modified");
            return Err(Some(Box::new(status)));
        }
        let mut value = body;
        if subresource == Some("status") {
            let status = value["status"].take();
            value = before.clone();
            value["status"] = status;
        } else if subresource.is_none() {
            value["status"] = before["status"].clone();
        }
        value["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if value == before {
            return Ok(false);
        }
        let difference = difference(&before, &value);
        let what = subresource.map(|subresource| format!(" {subresource}")).unwrap_or_default();
        self.log.push(format!("{who}: write{what} {} {name} {difference}", resource.resource));
        self.replace(&before, value);
        Ok(true)
    }

    /// Removes a pod that was being deleted, as its node does.
    pub fn end_pod(&mut self, namespace: &str, name: &str) -> bool {
        self.revision += 1;
        let mut ended = false;
        if let Some(mut value) = self.value("pods", namespace, name) {
            value["metadata"]["resourceVersion"] = self.revision.to_string().into();
            let object = Arc::new(Object::from_value(&value).unwrap());
            let held = !object.meta.finalizers.is_empty();
            if !held {
                self.writers[&GroupResource::new("", "pods")].delete(object);
                ended = true;
            }
        }
        ended
    }

    /// Plays scheduler and node: pods run and are ready, deleted ones end.
    pub fn run_pods(&mut self) -> bool {
        let mut acted = false;
        for mut pod in self.values("pods", "") {
            let (namespace, name) = (
                pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
                pod["metadata"]["name"].as_str().unwrap().to_owned(),
            );
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                acted |= self.end_pod(&namespace, &name);
            } else if pod["status"]["phase"].is_null() && !name.contains("stuck") {
                let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
                let wanted = &terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
                pod["spec"]["nodeName"] = wanted.as_str().unwrap_or("n1").into();
                pod["status"] = json!({"phase": "Running", "podIP": "10.0.0.9", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": crate::write::time(self.now)}]});
                self.put(pod);
                acted = true;
            }
        }
        acted
    }

    /// Runs controllers (and pods) until nothing happens any more; `check` looks at every state.
    pub fn settle(&mut self, controllers: &[&dyn Controller], pods: bool, check: impl Fn(&Simulation)) {
        for _ in 0..ROUNDS_MAX {
            let mut acted = false;
            for controller in controllers {
                for key in self.keys(*controller) {
                    acted |= self.step(*controller, &key);
                    check(self);
                }
            }
            if pods {
                acted |= self.run_pods();
            }
            if !acted {
                return;
            }
        }
        panic!("no rest after {ROUNDS_MAX} rounds:\n{}", self.log.join("\n"));
    }

    /// Every key that any object wakes.
    fn keys(&self, controller: &dyn Controller) -> Vec<ObjectRef> {
        let mut keys = std::collections::BTreeSet::new();
        for trigger in controller.triggers() {
            for object in self.world.store(&trigger.resource).unwrap().list(None) {
                keys.extend((trigger.map)(Some(&object), None, &self.world));
            }
        }
        if let Some(map) = controller.every_resource() {
            for resource in self.world.resources() {
                for object in self.world.store(&resource).unwrap().list(None) {
                    keys.extend(map(&resource, Some(&object), None, &self.world));
                }
            }
        }
        keys.into_iter().collect()
    }
}

/// Pods that were placed go only when their node says so.
fn waits_for_node(value: &Value) -> bool {
    value["kind"] == "Pod" && value["spec"]["nodeName"].is_string()
        || value["kind"] == "Namespace" && value["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// A merge patch; `strategic` merges lists of conditions and owners by their keys.
fn merge(into: &mut Value, from: Value, strategic: bool) {
    match from {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                let list_key = match key.as_str() {
                    "conditions" => Some("type"),
                    "ownerReferences" => Some("uid"),
                    _ => None,
                };
                if value.is_null() {
                    into.as_object_mut().unwrap().remove(&key);
                } else if let (true, Some(list), Value::Array(gone)) =
                    (strategic, key.strip_prefix("$deleteFromPrimitiveList/"), &value)
                {
                    let mut left = into[list].as_array().cloned().unwrap_or_default();
                    left.retain(|item| !gone.contains(item));
                    into[list] = left.into();
                } else if let (true, "finalizers", Value::Array(more)) = (strategic, key.as_str(), &value) {
                    let mut all = into[&key].as_array().cloned().unwrap_or_default();
                    all.extend(more.iter().filter(|item| !all.contains(item)).cloned().collect::<Vec<_>>());
                    into[&key] = all.into();
                } else if let (true, Some(list_key), Value::Array(items)) = (strategic, list_key, &value) {
                    let mut list = into[&key].as_array().cloned().unwrap_or_default();
                    for item in items {
                        let found = list.iter().position(|have| have[list_key] == item[list_key]);
                        match (found, item["$patch"] == "delete") {
                            (Some(index), true) => {
                                list.remove(index);
                            }
                            (Some(index), false) => merge(&mut list[index], item.clone(), true),
                            (None, true) => {}
                            (None, false) => list.push(item.clone()),
                        }
                    }
                    into[&key] = list.into();
                } else {
                    merge(&mut into[&key], value, strategic);
                }
            }
        }
        other => *into = other,
    }
}

/// What changed, as a merge patch in one line, without versions and times.
fn difference(before: &Value, after: &Value) -> Value {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let mut changes = serde_json::Map::new();
            let skip = ["resourceVersion", "lastTransitionTime", "lastUpdateTime", "timeAdded"];
            for (key, value) in after.iter().filter(|(key, _)| !skip.contains(&key.as_str())) {
                let old = before.get(key).unwrap_or(&Value::Null);
                if old != value {
                    let change = difference(old, value);
                    if change != json!({}) {
                        changes.insert(key.clone(), change);
                    }
                }
            }
            for key in before.keys().filter(|key| !after.contains_key(*key)) {
                changes.insert(key.clone(), Value::Null);
            }
            Value::Object(changes)
        }
        (Value::Array(before), Value::Array(after)) => {
            let new = after.iter().filter(|item| !before.contains(item));
            new.map(|item| difference(&json!({}), item)).collect()
        }
        (_, Value::Object(_)) => difference(&json!({}), after),
        _ => after.clone(),
    }
}
