//! The bridge from client-side apply: kubectl's last-applied annotation.
//!
//! When `kubectl apply --server-side` meets an object that was managed by
//! client-side apply, conflicts over fields that still have their last applied
//! value are not real: the same person applied them. And while the annotation
//! exists, server-side apply by kubectl keeps it up to date.

use serde_json::Value;

use super::{Conflict, Write, fieldset::FieldSet, typed};
use crate::codec::json as codec;

/// The annotation that client-side apply keeps.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager for which the bridge exists; others opt out by their name.
const MANAGER: &str = "kubectl";

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}

/// Whether every conflict concerns a field that still has its last applied value.
pub(super) fn permits(write: &Write<'_>, live: &Value, conflicts: &[Conflict]) -> bool {
    if write.manager != MANAGER {
        return false;
    }
    let Some(mut applied) = annotation(live).and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return false;
    };
    if let Some(root) = write.root
        && codec::conform(root, &mut applied).is_err()
    {
        return false;
    }
    let kind = write.kind();
    let changed = typed::compare(kind, &applied, live);
    let mut own: FieldSet = typed::field_set(kind, &applied).difference(&changed.modified).difference(&changed.removed);
    own.insert(["f:metadata", "f:annotations", &format!("f:{ANNOTATION}")]);
    let allowed = own.paths();
    conflicts.iter().all(|conflict| allowed.contains(&conflict.path))
}

/// Updates the annotation of an object that has it to the configuration now applied.
pub(super) fn refresh(write: &Write<'_>, live: Option<&Value>, config: &Value, object: &mut Value) {
    let annotated = write.manager == MANAGER && live.is_some_and(|live| annotation(live).is_some());
    if !annotated || annotation(object).is_none() {
        return;
    }
    let mut plain = super::without_managed_fields(config);
    if let Some(annotations) = plain.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(ANNOTATION.to_owned(), Value::from(format!("{plain}\n")));
    }
}
