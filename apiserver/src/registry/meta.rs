//! The generic part of every object: system metadata, its rules, and what a
//! write may change.

use serde_json::{Map, Value, json};
use skiff_api::{Cause, Resource, Status};

use super::{
    strategy::Operation,
    validation::{Errors, Path, formats, meta as meta_rules},
};

/// System metadata that an update may repeat or leave out.
const CARRIED: [&str; 3] = ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"];

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `metadata` of an object, made when missing.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    match metadata {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// A text of `metadata`; empty when absent.
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap_or_default()
}

/// Finalizers of an object.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

/// Sets finalizers; an empty list removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
}

pub fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Removes owners that are named twice word for word; their uids.
pub fn dedup_owners(object: &mut Value) -> Vec<String> {
    let owners = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("ownerReferences"));
    let Some(Value::Array(owners)) = owners else { return Vec::new() };
    let mut seen: Vec<Value> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    for owner in owners.drain(..) {
        if seen.contains(&owner) {
            repeated.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            seen.push(owner);
        }
    }
    *owners = seen;
    repeated
}

/// Whether anything but `metadata`, `status` and the type differs.
pub fn spec_differs(old: &Value, new: &Value) -> bool {
    let own = |name: &str| !matches!(name, "metadata" | "status" | "apiVersion" | "kind");
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let count = |map: &Map<String, Value>| map.keys().filter(|name| own(name)).count();
    count(old) != count(new) || old.iter().any(|(name, value)| own(name) && new.get(name) != Some(value))
}

/// The name of an object must be that of the URL.
pub fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    match text(object, "name") {
        same if same == name => Ok(()),
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        other => Err(Status::bad_request(format!(
            "the name of the object ({other}) does not match the name on the URL ({name})"
        ))),
    }
}

/// Gives an object the namespace of the request; another one is refused. What
/// has no namespace (an empty one of the request) loses the one it brings along.
pub fn set_namespace(object: &mut Value, namespace: &str) -> Result<(), Status> {
    match text(object, "namespace") {
        same if same == namespace => Ok(()),
        "" => {
            metadata_mut(object).insert("namespace".to_owned(), json!(namespace));
            Ok(())
        }
        _ if namespace.is_empty() => {
            metadata_mut(object).remove("namespace");
            Ok(())
        }
        _ => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// Takes out of a new object what only the system sets.
pub fn wipe(object: &mut Value) {
    let metadata = metadata_mut(object);
    for name in ["uid", "creationTimestamp", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(name);
    }
}

/// Fresh system metadata of a new object; the name must be final.
pub fn fill_new(object: &mut Value, uid: &str, now: jiff::Timestamp) {
    wipe(object);
    let metadata = metadata_mut(object);
    for name in ["resourceVersion", "generation"] {
        metadata.remove(name);
    }
    metadata.insert("uid".to_owned(), json!(uid));
    metadata.insert("creationTimestamp".to_owned(), json!(time_text(now)));
}

/// System metadata of `old` in `new`, where the client left it out.
pub fn carry_over(old: &Value, new: &mut Value) {
    let metadata = metadata_mut(new);
    metadata.remove("selfLink");
    metadata.remove("resourceVersion");
    if let Some(created) = old["metadata"].get("creationTimestamp") {
        metadata.insert("creationTimestamp".to_owned(), created.clone());
    }
    if let Some(deleted) = old["metadata"].get("deletionTimestamp") {
        metadata.insert("deletionTimestamp".to_owned(), deleted.clone());
    }
    for name in CARRIED {
        let given = metadata.get(name).is_some_and(|value| !value.is_null() && value.as_str() != Some(""));
        if !given {
            match old["metadata"].get(name) {
                Some(value) => metadata.insert(name.to_owned(), value.clone()),
                None => metadata.remove(name),
            };
        }
    }
    match old["metadata"].get("generation") {
        Some(generation) => metadata.insert("generation".to_owned(), generation.clone()),
        None => metadata.remove("generation"),
    };
    // The prefix has done its work on create; it may be repeated but not changed.
    if metadata.get("generateName").is_none_or(Value::is_null)
        && let Some(prefix) = old["metadata"].get("generateName")
    {
        metadata.insert("generateName".to_owned(), prefix.clone());
    }
}

/// Generation after a write.
pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".to_owned(), json!(generation));
}

/// Keeps what the kind of write may not touch: `status` for the object itself,
/// all but `status` (and labels and annotations of built-ins) for `status`.
pub fn isolate(row: &Resource, op: Operation<'_>, new: &mut Value) {
    match op {
        // A node brings its status along when it registers.
        Operation::Create if row.status_isolated && !(row.group.is_empty() && row.plural == "nodes") => {
            if let Some(fields) = new.as_object_mut() {
                fields.remove("status");
            }
        }
        Operation::Update { old } if row.status_isolated => copy_field(old, new, "status"),
        Operation::Status { old } => {
            let mut kept = old.clone();
            copy_field(new, &mut kept, "status");
            for name in ["labels", "annotations", "managedFields", "resourceVersion"] {
                if row.origin == skiff_api::resource::Origin::BuiltIn || name != "labels" && name != "annotations" {
                    match new["metadata"].get(name) {
                        Some(value) => metadata_mut(&mut kept).insert(name.to_owned(), value.clone()),
                        None => metadata_mut(&mut kept).remove(name),
                    };
                }
            }
            *new = kept;
        }
        _ => {}
    }
}

fn copy_field(from: &Value, to: &mut Value, name: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(name) {
        Some(value) => fields.insert(name.to_owned(), value.clone()),
        None => fields.remove(name),
    };
}

/// Field errors of `metadata`.
pub fn validate(
    row: &Resource,
    op: Operation<'_>,
    new: &Value,
    name_errors: &dyn Fn(&str, bool) -> Vec<String>,
) -> Vec<Cause> {
    let mut errors = Errors::new();
    match op.old() {
        None => {
            validate_name(&mut errors, row, new, name_errors);
            validate_object_meta(&mut errors, row, &new["metadata"]);
        }
        Some(old) => {
            validate_object_meta(&mut errors, row, &new["metadata"]);
            validate_change(&mut errors, old, new);
        }
    }
    errors.into_causes()
}

fn validate_name(errors: &mut Errors, row: &Resource, new: &Value, name_errors: &dyn Fn(&str, bool) -> Vec<String>) {
    let metadata = Path::new("metadata");
    let (name, prefix) = (text(new, "name"), text(new, "generateName"));
    if !prefix.is_empty() {
        errors.invalid_all(&metadata.child("generateName"), prefix, name_errors(prefix, true));
    }
    if name.is_empty() {
        errors.required(&metadata.child("name"), "name or generateName is required");
    } else {
        errors.invalid_all(&metadata.child("name"), name, name_errors(name, false));
    }
    let namespace = text(new, "namespace");
    if row.namespaced && namespace.is_empty() {
        errors.required(&metadata.child("namespace"), "");
    } else if row.namespaced {
        errors.invalid_all(&metadata.child("namespace"), namespace, super::names::dns1123_label(namespace, false));
    } else if !namespace.is_empty() {
        errors.forbidden(&metadata.child("namespace"), "not allowed on this type");
    }
}

/// Labels, annotations, owners and finalizers.
fn validate_object_meta(errors: &mut Errors, row: &Resource, metadata: &Value) {
    let path = Path::new("metadata");
    meta_rules::labels(errors, &path.child("labels"), &metadata["labels"]);
    meta_rules::annotations(errors, &path.child("annotations"), &metadata["annotations"]);
    validate_owners(errors, &path.child("ownerReferences"), metadata["ownerReferences"].as_array());
    let finalizers = path.child("finalizers");
    for (index, name) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let name = name.as_str().unwrap_or_default();
        errors.invalid_all(&finalizers.index(index), name, formats::qualified_name(name));
        if has_core_rules(row) && !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            errors.invalid(
                &finalizers.index(index),
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let both = |name: &str| metadata["finalizers"].as_array().into_iter().flatten().any(|have| have == name);
    if both("orphan") && both("foregroundDeletion") {
        errors.invalid(
            &finalizers,
            &metadata["finalizers"],
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Custom resources, and the kinds of the servers around the core, are not held to its rules of names.
fn has_core_rules(row: &Resource) -> bool {
    row.origin == skiff_api::resource::Origin::BuiltIn
        && !matches!(&*row.group, "apiextensions.k8s.io" | "apiregistration.k8s.io")
}

fn validate_owners(errors: &mut Errors, path: &Path<'_>, owners: Option<&Vec<Value>>) {
    let mut controller: Option<String> = None;
    for (index, owner) in owners.into_iter().flatten().enumerate() {
        let at = path.index(index);
        for name in ["apiVersion", "kind", "name", "uid"] {
            if owner[name].as_str().unwrap_or_default().is_empty() {
                errors.invalid(
                    &at.child(name),
                    "",
                    format!("{} must not be empty", if name == "apiVersion" { "version" } else { name }),
                );
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            errors.invalid(&at, owner, "Event is disallowed from being an owner");
        }
        if owner["controller"] == true {
            let this = format!(
                "{}/{}",
                owner["kind"].as_str().unwrap_or_default(),
                owner["name"].as_str().unwrap_or_default()
            );
            if let Some(first) = &controller {
                errors.invalid(
                    path,
                    "",
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                );
            }
            controller.get_or_insert(this);
        }
    }
}

fn validate_change(errors: &mut Errors, old: &Value, new: &Value) {
    let metadata = Path::new("metadata");
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (before, after) = (&old["metadata"][name], &new["metadata"][name]);
        let same = before == after || (is_empty(before) && is_empty(after)) || same_time(before, after);
        if !same {
            errors.invalid(&metadata.child(name), after, "field is immutable");
        }
    }
    if is_deleting(old) {
        let before = finalizers(old);
        let added: Vec<&str> = finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
        if !added.is_empty() {
            let text = added.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            errors.forbidden(
                &metadata.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{text}}}"),
            );
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// Times may come back in another notation.
fn same_time(a: &Value, b: &Value) -> bool {
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    matches!((time(a), time(b)), (Some(a), Some(b)) if a.as_second() == b.as_second())
}

/// Finalizers that a deletion with this propagation leaves on the object.
/// `None`: the request said nothing, and the kind's default is `orphans`.
pub fn deletion_finalizers(
    object: &Value,
    policy: Option<skiff_client::PropagationPolicy>,
    orphans: bool,
) -> Vec<String> {
    use skiff_client::PropagationPolicy::{Background, Foreground, Orphan};
    let have = finalizers(object);
    let mut kept: Vec<String> =
        have.iter().filter(|name| **name != ORPHAN && **name != FOREGROUND).map(|name| (*name).to_owned()).collect();
    let policy = policy.unwrap_or(if have.contains(&ORPHAN) {
        Orphan
    } else if have.contains(&FOREGROUND) {
        Foreground
    } else if orphans {
        Orphan
    } else {
        Background
    });
    match policy {
        Orphan => kept.push(ORPHAN.to_owned()),
        Foreground => kept.push(FOREGROUND.to_owned()),
        Background => {}
    }
    kept
}

/// RFC 3339 with whole seconds, as all times of metadata are.
pub fn time_text(time: jiff::Timestamp) -> String {
    skiff_api::timestamp::format_seconds(time)
}

#[cfg(test)]
mod tests {
    use skiff_client::PropagationPolicy;

    use super::*;

    #[test]
    fn only_the_spec_makes_a_generation() {
        let old = json!({"kind": "X", "metadata": {"a": 1}, "spec": {"a": 1}, "status": 1});
        assert!(!spec_differs(&old, &json!({"kind": "X", "metadata": {"a": 2}, "spec": {"a": 1}, "status": 2})));
        assert!(spec_differs(&old, &json!({"kind": "X", "spec": {"a": 2}})));
        assert!(spec_differs(&old, &json!({"kind": "X"})));
    }

    #[test]
    fn propagation_becomes_finalizers() {
        let object = json!({"metadata": {"finalizers": ["a", "orphan"]}});
        assert_eq!(deletion_finalizers(&object, None, false), ["a", "orphan"]);
        assert_eq!(
            deletion_finalizers(&object, Some(PropagationPolicy::Foreground), false),
            ["a", "foregroundDeletion"]
        );
        assert_eq!(deletion_finalizers(&object, Some(PropagationPolicy::Background), true), ["a"]);
        assert_eq!(deletion_finalizers(&json!({}), None, true), ["orphan"]);
    }

    #[test]
    fn a_status_write_changes_status_only() {
        let registry = skiff_api::ResourceRegistry::builtin();
        let row = registry.lookup("apps", "v1", "deployments").unwrap();
        let old = json!({"metadata": {"name": "a"}, "spec": 1, "status": 1});
        let mut new = json!({"metadata": {"name": "a", "finalizers": ["x"]}, "spec": 2, "status": 2});
        isolate(&row, Operation::Status { old: &old }, &mut new);
        assert_eq!(new, json!({"metadata": {"name": "a"}, "spec": 1, "status": 2}));
        let mut new = json!({"metadata": {}, "spec": 2, "status": 2});
        isolate(&row, Operation::Update { old: &old }, &mut new);
        assert_eq!(new, json!({"metadata": {}, "spec": 2, "status": 1}));
    }

    #[test]
    fn immutable_metadata_and_late_finalizers_are_refused() {
        let registry = skiff_api::ResourceRegistry::builtin();
        let row = registry.lookup("", "v1", "configmaps").unwrap();
        let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let mut new = json!({"metadata": {"name": "a", "namespace": "n", "uid": "2", "finalizers": ["example.com/x"]}});
        carry_over(&old, &mut new);
        let causes = validate(&row, Operation::Update { old: &old }, &new, &|_, _| Vec::new());
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["metadata.uid", "metadata.finalizers"]);
    }
}
