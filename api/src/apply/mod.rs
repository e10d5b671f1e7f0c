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

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{Reason, Status, codec::json as codec, schema::Root, status::Cause, status::Details};

use fieldset::FieldSet;
use managed_fields::{BEFORE_FIRST_APPLY, Entry, ManagedFields, Operation, entry_time};
use typed::{Comparison, Type};

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

    /// What nobody owns: identity, server-set metadata, and what this endpoint ignores.
    fn unowned(&self) -> FieldSet {
        let mut set = FieldSet::of_fields(&[
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
        ]);
        for field in self.reset {
            set.insert([format!("f:{field}").as_str()]);
        }
        set
    }

    /// Leaves out what nobody may own.
    fn strip(&self, set: &FieldSet) -> FieldSet {
        let metadata_itself = FieldSet::of_fields(&[&["metadata"]]);
        set.recursive_difference(&self.unowned()).difference(&metadata_itself)
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
            if !set.is_empty() {
                *set = self.strip(set);
            }
        }
        comparison
    }
}

/// The object without its `managedFields`.
fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Applies a configuration to the live object (`None`: it will be created).
/// Returns the new object with `managedFields`, equal to `live` when nothing
/// changed; otherwise it still has to be defaulted and made canonical.
pub fn apply_patch(write: &Write<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, ApplyError> {
    check_config(write, config)?;
    let mut config = config.clone();
    if let Some(root) = write.root {
        let unknown = codec::conform(root, &mut config)
            .map_err(|error| ApplyError::Invalid(format!("failed to create typed patch object: {error}")))?;
        if let Some(path) = unknown.first() {
            return Err(ApplyError::Invalid(format!(
                "failed to create typed patch object: .{path}: field not declared in schema"
            )));
        }
    }
    typed::check_lists(write.kind(), &config, "")
        .map_err(|error| ApplyError::Invalid(format!("failed to create typed patch object: {error}")))?;

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
    let applied = write.strip(&all);
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
    let comparison = write.compare(live, &object);
    settle(&mut managed, Some(&mine), &comparison, force)?;
    Ok((object, managed))
}

/// Removes what the manager applied last time, then puts back what anyone,
/// including the manager now (`applied`), still owns.
fn prune(kind: Type<'_>, merged: &Value, managed: &ManagedFields, applied: FieldSet, last: &FieldSet) -> Value {
    let empty = || Value::Object(Map::new());
    let named = |set: &FieldSet| typed::with_named(kind, set);
    let pruned = typed::remove(kind, merged, &named(last)).unwrap_or_else(empty);
    let mut owned = applied;
    for entry in &managed.0 {
        owned.extend(entry.fields.clone());
    }
    let merged_set = named(&typed::field_set(kind, merged));
    let keep = named(&typed::field_set(kind, &pruned)).union(&named(&owned));
    let pruned = typed::remove(kind, merged, &merged_set.difference(&keep)).unwrap_or_else(empty);
    // What nobody owned before was not the manager's to remove.
    let gone = merged_set.difference(&named(&typed::field_set(kind, &pruned))).intersection(&named(last));
    typed::remove(kind, merged, &gone).unwrap_or_else(empty)
}

/// Takes changed fields away from the other managers, or reports conflicts.
fn settle(
    managed: &mut ManagedFields,
    mine: Option<&Entry>,
    comparison: &Comparison,
    force: bool,
) -> Result<(), ApplyError> {
    let changed = comparison.modified.union(&comparison.added);
    let others = |entry: &&mut Entry| mine.is_none_or(|mine| !entry.same_owner(mine));
    if !force {
        let mut conflicts = Vec::new();
        for entry in managed.0.iter_mut().filter(others) {
            let manager = entry.describe();
            let paths = entry.fields.intersection(&changed).paths();
            conflicts.extend(paths.into_iter().map(|path| Conflict { manager: manager.clone(), path }));
        }
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    for entry in managed.0.iter_mut().filter(others) {
        entry.fields = entry.fields.difference(&changed).difference(&comparison.removed);
    }
    managed.0.retain(|entry| !entry.fields.is_empty());
    Ok(())
}

/// Records in `new` who owns what after a write that is not an apply. `old` is
/// the stored object, `None` on create. Call it on the object as it will be
/// stored: defaulted, mutated, canonical.
pub fn track_update(write: &Write<'_>, old: Option<&Value>, new: &mut Value) {
    let blank = if old.is_none() { write.blank() } else { Value::Null };
    let sent = new.pointer("/metadata/managedFields").cloned();
    let mut managed = starting_point(write, old, new);
    let comparison = write.compare(old.unwrap_or(&blank), new);
    let untouched = old.is_some_and(|old| old.pointer("/metadata/managedFields").cloned() == sent);
    if comparison.is_same() && (untouched || sent.is_none()) && !ManagedFields::is_reset(new) {
        restore(old, new);
        return;
    }
    // Forced, so it cannot fail; the manager's own earlier entries give way as well.
    let _ = settle(&mut managed, None, &comparison, true);
    let taken = comparison.modified.union(&comparison.added);
    if !taken.is_empty() {
        let mine = write.entry(write.manager, Operation::Update, taken);
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

/// The entries a write starts from: those sent along where that is allowed, or the stored ones.
fn starting_point(write: &Write<'_>, old: Option<&Value>, new: &Value) -> ManagedFields {
    let stored = || old.and_then(ManagedFields::of).unwrap_or_default();
    if !write.subresource.is_empty() {
        return stored();
    }
    if ManagedFields::is_reset(new) {
        return ManagedFields::default();
    }
    match ManagedFields::of(new) {
        Some(sent) if !sent.is_empty() => sent,
        _ => stored(),
    }
}

/// Puts the stored `managedFields` back as they were.
fn restore(old: Option<&Value>, new: &mut Value) {
    let stored = old.and_then(|old| old.pointer("/metadata/managedFields")).cloned();
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match stored {
        Some(stored) => metadata.insert("managedFields".to_owned(), stored),
        None => metadata.remove("managedFields"),
    };
}

#[cfg(test)]
mod tests;
