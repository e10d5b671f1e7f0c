//! Server-side apply and the ownership of fields.
//!
//! Every write tells who owns what afterwards. [`apply_patch`] merges an applied
//! configuration into the live object: fields the manager applied last time and
//! leaves out now are removed unless someone else owns them, fields that others
//! own with another value are conflicts. [`track_update`] records what any other
//! write changed. Both leave `managedFields` byte for byte alone when nothing
//! changed, so that an idle controller causes no writes.
//!
//! ```
//! use serde_json::json;
//! use skiff_api::{GroupVersionKind, apply, schema::Root};
//! let root = Root::for_kind(&GroupVersionKind::new("", "v1", "ConfigMap")).unwrap();
//! let write = apply::Write { root: Some(&root), api_version: "v1", manager: "me", subresource: "", now: jiff::Timestamp::UNIX_EPOCH, reset: &[] };
//! let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
//! let live = apply::apply_patch(&write, None, &config, false).unwrap();
//! assert_eq!(live["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:data": {"f:k": {}}}));
//! ```
//!
//! Field sets of entries in another version of the same resource are compared
//! path by path: versions of built-in kinds share their field names.

pub mod fieldset;
mod last_applied;
pub mod managed_fields;
mod typed;
pub mod view;

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{Reason, Status, codec::json as codec, schema::Root, status::Cause, status::Details};

use fieldset::{FieldSet, field_element};
use managed_fields::{BEFORE_FIRST_APPLY, Entry, ManagedFields, Operation, entry_time};
use typed::{Comparison, Type};

const MANAGED_FIELDS: &str = "managedFields";

/// Who writes what kind of object, when.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// Schema of the kind; `None` for schemaless custom resources.
    pub root: Option<&'a Root>,
    /// `apiVersion` of the request's objects.
    pub api_version: &'a str,
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub now: Timestamp,
    /// Top-level fields that this endpoint ignores and so must not be owned
    /// through it: `status` on the object itself, all but `status` on `/status`.
    pub reset: &'a [&'a str],
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager, as messages name it.
    pub manager: String,
    /// For example `.spec.replicas`.
    pub path: String,
}

/// Why an apply fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409 unless forced.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration is not a valid part of an object: 400.
    #[error("{0}")]
    Invalid(String),
    /// It does not fit the schema: 500 without a reason, as upstream has it.
    #[error("{0}")]
    Untyped(String),
}

/// What is said before why an applied object does not fit its schema.
pub fn untyped(api_version: &str, config: &Value) -> String {
    let text = |path: &str| config.pointer(path).and_then(Value::as_str).unwrap_or_default();
    format!(
        "failed to create typed patch object ({}/{}; {api_version}, Kind={})",
        text("/metadata/namespace"),
        text("/metadata/name"),
        text("/kind")
    )
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.path);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let of = |manager: &str| {
        let paths = conflicts.iter().filter(|conflict| conflict.manager == manager);
        let paths: Vec<String> = paths.map(|conflict| format!("- {}", conflict.path)).collect();
        format!("conflicts with {manager}:\n{}", paths.join("\n"))
    };
    let lists: Vec<String> = managers.into_iter().map(of).collect();
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lists.join("\n"))
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Status {
        let message = error.to_string();
        match error {
            ApplyError::Invalid(_) => Status::bad_request(message),
            ApplyError::Untyped(_) => Status { code: 500, ..Status::failure(Reason::Unknown, message) },
            ApplyError::Conflicts(conflicts) => {
                let cause = |conflict: Conflict| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", conflict.manager),
                    field: conflict.path,
                };
                let causes = conflicts.into_iter().map(cause).collect();
                let mut status = Status::failure(Reason::Conflict, message);
                status.details = Some(Details { causes, ..Details::default() });
                status
            }
        }
    }
}

impl Write<'_> {
    fn kind(&self) -> Type<'_> {
        Type::of_root(self.root)
    }

    fn entry(&self, manager: &str, operation: Operation, fields: FieldSet) -> Entry {
        Entry {
            manager: manager.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: entry_time(self.now),
            fields,
        }
    }

    /// Leaves out what nobody may own: identity, server-set metadata, and what this endpoint ignores.
    fn strip(&self, set: &mut FieldSet) {
        static UNOWNED: LazyLock<FieldSet> = LazyLock::new(|| {
            FieldSet::of_fields(&[
                &["apiVersion"],
                &["kind"],
                &["metadata", "name"],
                &["metadata", "namespace"],
                &["metadata", "creationTimestamp"],
                &["metadata", "selfLink"],
                &["metadata", "uid"],
                &["metadata", "clusterName"],
                &["metadata", "generation"],
                &["metadata", "managedFields"],
                &["metadata", "resourceVersion"],
            ])
        });
        if set.is_empty() {
            return;
        }
        set.remove_recursively(&UNOWNED);
        for field in self.reset {
            set.remove_below(&field_element(field));
        }
        set.remove_element(&field_element("metadata"));
    }

    /// The object as it is before anything was written: only what is always there.
    fn blank(&self) -> Value {
        let mut blank = json!({"metadata": {}});
        if let Some(root) = self.root {
            codec::canonicalize(root, &mut blank);
        }
        blank
    }

    /// The object without values that say the same as nothing.
    fn minimal(&self, mut object: Value) -> Value {
        if let Some(root) = self.root {
            codec::minimize(root, &mut object);
        }
        object
    }

    fn compare(&self, old: &Value, new: &Value) -> Comparison {
        let mut comparison = typed::compare(self.kind(), old, new);
        for set in [&mut comparison.removed, &mut comparison.modified, &mut comparison.added] {
            self.strip(set);
        }
        comparison
    }
}

/// A copy of the object without its `managedFields`.
fn without_managed_fields(object: &Value) -> Value {
    let Value::Object(fields) = object else { return object.clone() };
    let copy = |name: &String, value: &Value| match (name.as_str(), value) {
        ("metadata", Value::Object(metadata)) => {
            let kept = metadata.iter().filter(|(name, _)| *name != MANAGED_FIELDS);
            Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
        }
        _ => value.clone(),
    };
    Value::Object(fields.iter().map(|(name, value)| (name.clone(), copy(name, value))).collect())
}

/// Takes `managedFields` out of an object.
fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(MANAGED_FIELDS)
}

/// Applies a configuration to the live object (`None`: it will be created).
/// Returns the new object with `managedFields`, equal to `live` when nothing
/// changed; otherwise it still has to be defaulted and made canonical.
pub fn apply_patch(write: &Write<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, ApplyError> {
    check_config(write, config)?;
    let config = typed_config(write.root, config)
        .map_err(|error| ApplyError::Untyped(format!("{}: {error}", untyped(write.api_version, config))))?;

    let managed_before = live.map_or(Some(ManagedFields::default()), ManagedFields::of).unwrap_or_default();
    let blank = write.blank();
    // Nothing is merged into the blank object: defaults and canonical form come later.
    let live_object = write.minimal(live.map_or_else(|| Value::Object(Map::new()), without_managed_fields));
    let mut managed = managed_before.clone();
    if live.is_some() && managed.is_empty() {
        // What was there without an owner is owned by the past.
        let fields = write.compare(&blank, &live_object).added;
        managed
            .0
            .push(Entry { subresource: String::new(), ..write.entry(BEFORE_FIRST_APPLY, Operation::Update, fields) });
    }
    let mut force = force;
    let applied = match apply_once(write, &live_object, &config, managed.clone(), force) {
        Err(ApplyError::Conflicts(conflicts)) if last_applied::permits(write, &live_object, &conflicts) => {
            force = true;
            apply_once(write, &live_object, &config, managed, force)
        }
        other => other,
    };
    let (mut object, mut managed) = applied?;
    last_applied::refresh(write, live, &config, &mut object);

    // An unchanged object keeps its old entries with their times.
    if let Some(live) = live
        && object == live_object
        && same_owners(&managed, &managed_before)
    {
        return Ok(live.clone());
    }
    managed.tidy();
    managed.write(&mut object);
    Ok(object)
}

/// A configuration in the form of its kind; the error says what does not fit the schema.
fn typed_config(root: Option<&Root>, config: &Value) -> Result<Value, String> {
    let mut config = config.clone();
    if let Some(root) = root {
        let unknown = codec::conform(root, &mut config).map_err(|error| error.to_string())?;
        if let Some(path) = unknown.first() {
            return Err(format!(".{path}: field not declared in schema"));
        }
    }
    typed::check_lists(Type::of_root(root), &config, "")?;
    Ok(config)
}

/// Lays a configuration over an object, without owners or conflicts: what a
/// mutating policy does. What could only be replaced as a whole may not be in it.
pub fn overlay(root: Option<&Root>, object: &Value, config: &Value) -> Result<Value, String> {
    let config = typed_config(root, config)
        .map_err(|error| format!("failed to convert patch object to typed object: {error}"))?;
    let kind = Type::of_root(root);
    let mut atomic = Vec::new();
    typed::find_atomic(kind, &config, "", &mut atomic);
    if !atomic.is_empty() {
        let atomic = atomic.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {atomic}"));
    }
    Ok(typed::merge(kind, object, &config))
}

fn check_config(write: &Write<'_>, config: &Value) -> Result<(), ApplyError> {
    let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version != write.api_version {
        return Err(ApplyError::Invalid(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            write.api_version
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|managed| !managed.is_null()) {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    Ok(())
}

fn same_owners(a: &ManagedFields, b: &ManagedFields) -> bool {
    a.0.len() == b.0.len()
        && a.0.iter().all(|entry| b.0.iter().any(|other| entry.same_owner(other) && entry.fields == other.fields))
}

fn apply_once(
    write: &Write<'_>,
    live: &Value,
    config: &Value,
    mut managed: ManagedFields,
    force: bool,
) -> Result<(Value, ManagedFields), ApplyError> {
    let kind = write.kind();
    let mut effective = config.clone();
    if let Value::Object(fields) = &mut effective {
        fields.retain(|name, _| !write.reset.contains(&name.as_str()));
    }
    let all = typed::field_set(kind, &effective);
    let mut applied = all.clone();
    write.strip(&mut applied);
    let merged = typed::merge(kind, live, &effective);
    let mine = write.entry(write.manager, Operation::Apply, applied);
    let last = managed.find(&mine).map(|entry| std::mem::replace(entry, mine.clone()).fields);
    if last.is_none() {
        managed.0.push(mine.clone());
    }
    let object = match &last {
        // Merged once more, because pruning takes empty maps and lists along.
        Some(last) if !last.is_empty() => typed::merge(kind, &prune(kind, &merged, &managed, all, last), &effective),
        _ => merged,
    };
    let object = write.minimal(object);
    let Comparison { removed, modified: mut changed, added } = write.compare(live, &object);
    changed.extend(added);
    settle(&mut managed, Some(&mine), &changed, &removed, force)?;
    Ok((object, managed))
}

/// Removes what the manager applied last time, then puts back what anyone,
/// including the manager now (`applied`), still owns.
fn prune(kind: Type<'_>, merged: &Value, managed: &ManagedFields, applied: FieldSet, last: &FieldSet) -> Value {
    let empty = || Value::Object(Map::new());
    let named = |set: &FieldSet| typed::with_named(kind, set);
    let pruned = typed::remove(kind, merged, named(last).view()).unwrap_or_else(empty);
    let mut owned = applied;
    for entry in &managed.0 {
        owned.extend(entry.fields.clone());
    }
    let merged_set = named(&typed::field_set(kind, merged));
    let keep = named(&typed::field_set(kind, &pruned)).union(&named(&owned));
    let pruned = typed::remove(kind, merged, merged_set.difference(&keep).view()).unwrap_or_else(empty);
    // What nobody owned before was not the manager's to remove.
    let gone = merged_set.difference(&named(&typed::field_set(kind, &pruned))).intersection(&named(last));
    typed::remove(kind, merged, gone.view()).unwrap_or_else(empty)
}

/// Takes changed and removed fields away from the other managers, or reports conflicts.
fn settle(
    managed: &mut ManagedFields,
    mine: Option<&Entry>,
    changed: &FieldSet,
    removed: &FieldSet,
    force: bool,
) -> Result<(), ApplyError> {
    let others = |entry: &&mut Entry| mine.is_none_or(|mine| !entry.same_owner(mine));
    if !force {
        let mut conflicts = Vec::new();
        for entry in managed.0.iter_mut().filter(others) {
            let manager = entry.describe();
            let paths = entry.fields.intersection(changed).paths();
            conflicts.extend(paths.into_iter().map(|path| Conflict { manager: manager.clone(), path }));
        }
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    for entry in managed.0.iter_mut().filter(others) {
        entry.fields.remove(changed);
        entry.fields.remove(removed);
    }
    managed.0.retain(|entry| !entry.fields.is_empty());
    Ok(())
}

/// Records in `new` who owns what after a write that is not an apply. `old` is
/// the stored object, `None` on create. Call it on the object as it will be
/// stored: defaulted, mutated, canonical.
pub fn track_update(write: &Write<'_>, old: Option<&Value>, new: &mut Value) {
    let blank = if old.is_none() { write.blank() } else { Value::Null };
    let reset = ManagedFields::is_reset(new);
    let sent = take_managed_fields(new);
    let stored = old.and_then(|old| old.pointer("/metadata/managedFields"));
    let untouched = old.is_some() && stored == sent.as_ref();
    let comparison = write.compare(old.unwrap_or(&blank), new);
    if comparison.is_same() && (untouched || sent.is_none()) && !reset {
        let kept = if untouched { sent } else { stored.cloned() };
        if let (Some(kept), Some(metadata)) = (kept, new.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert(MANAGED_FIELDS.to_owned(), kept);
        }
        return;
    }
    let mut managed = match sent {
        _ if reset && write.subresource.is_empty() => ManagedFields::default(),
        Some(sent) if write.subresource.is_empty() || untouched => starting_point(sent, stored),
        _ => stored.cloned().and_then(ManagedFields::from_json).unwrap_or_default(),
    };
    let Comparison { removed, modified: mut changed, added } = comparison;
    changed.extend(added);
    // Forced, so it cannot fail; the manager's own earlier entries give way as well.
    let _ = settle(&mut managed, None, &changed, &removed, true);
    if !changed.is_empty() {
        let mine = write.entry(write.manager, Operation::Update, changed);
        match managed.find(&mine) {
            Some(entry) => {
                entry.fields.extend(mine.fields);
                entry.time = mine.time;
            }
            None => managed.0.push(mine),
        }
    }
    managed.tidy();
    managed.write(new);
}

/// The entries a write starts from: those sent along when they can be understood, or the stored ones.
fn starting_point(sent: Value, stored: Option<&Value>) -> ManagedFields {
    match ManagedFields::from_json(sent) {
        Some(sent) if !sent.is_empty() => sent,
        _ => stored.cloned().and_then(ManagedFields::from_json).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
