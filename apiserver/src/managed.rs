//! Managed fields after every write: who set what, for server-side apply.

use jiff::Timestamp;
use serde_json::Value;
use skiff_api::{Resource, Status, apply, schema::Root};

/// The write in question.
pub struct Change<'a> {
    pub row: &'a Resource,
    /// Schema of the objects at hand.
    pub root: Option<&'a Root>,
    /// Version of the request, recorded in the entry.
    pub api_version: &'a str,
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
}

impl Change<'_> {
    /// Top-level fields that a write through this endpoint ignores.
    fn reset(&self) -> Vec<&str> {
        match self.subresource {
            "" if self.row.status_isolated => vec!["status"],
            "status" => {
                let fields = self.root.map(|root| root.schema.fields(root.id));
                let names = fields.into_iter().flatten().map(|field| field.json.as_ref());
                names.filter(|name| !matches!(*name, "status" | "metadata" | "apiVersion" | "kind")).collect()
            }
            _ => Vec::new(),
        }
    }

    fn write<'w>(&'w self, reset: &'w [&'w str]) -> apply::Write<'w> {
        apply::Write {
            root: self.root,
            api_version: self.api_version,
            manager: self.manager,
            subresource: self.subresource,
            now: Timestamp::now(),
            reset,
        }
    }
}

/// Records who owns what changed between `old` and `object`.
pub fn update(change: &Change<'_>, old: Option<&Value>, object: &mut Value) {
    apply::track_update(&change.write(&change.reset()), old, object);
}

/// The object after server-side apply of `config`, with its managed fields.
pub fn apply(change: &Change<'_>, old: Option<&Value>, config: &Value, force: bool) -> Result<Value, Status> {
    Ok(apply::apply_patch(&change.write(&change.reset()), old, config, force)?)
}
