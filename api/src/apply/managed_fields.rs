//! `metadata.managedFields`: who owns which fields, and since when.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fieldset::FieldSet;
use crate::{limits::UPDATE_MANAGERS_MAX, timestamp};

/// The manager of old entries merged beyond [`UPDATE_MANAGERS_MAX`].
pub const ANCIENT: &str = "ancient-changes";
/// The manager of everything that was there before the first apply.
pub const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// The fields of one manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    /// RFC 3339 text; empty when never known.
    pub time: String,
    pub fields: FieldSet,
}

impl Entry {
    /// Entries of one manager are told apart by these; an applier has one entry
    /// whatever version it speaks.
    pub fn same_owner(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The manager as conflict messages name it.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    /// What entries are sorted by.
    fn rank(&self) -> (Operation, &str, &str, &str, &str) {
        (self.operation, &self.time, &self.manager, &self.api_version, &self.subresource)
    }

    fn into_json(self) -> Value {
        let mut entry = Map::new();
        entry.insert("manager".to_owned(), Value::String(self.manager));
        entry.insert("operation".to_owned(), json!(self.operation.as_str()));
        entry.insert("apiVersion".to_owned(), Value::String(self.api_version));
        if !self.time.is_empty() {
            entry.insert("time".to_owned(), Value::String(self.time));
        }
        entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
        entry.insert("fieldsV1".to_owned(), self.fields.into_json());
        if !self.subresource.is_empty() {
            entry.insert("subresource".to_owned(), Value::String(self.subresource));
        }
        Value::Object(entry)
    }

    fn from_json(value: Value) -> Option<Entry> {
        let Value::Object(mut entry) = value else { return None };
        let mut text = |name: &str| match entry.get_mut(name).map(Value::take) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        // A foreign field set format cannot be worked with.
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: entry.remove("fieldsV1").map(FieldSet::from_json).unwrap_or_default(),
        })
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagedFields(pub Vec<Entry>);

impl ManagedFields {
    /// Reads the value of `metadata.managedFields`; `None` when an entry cannot be understood.
    pub fn from_json(value: Value) -> Option<ManagedFields> {
        let Value::Array(entries) = value else { return Some(ManagedFields::default()) };
        entries.into_iter().map(Entry::from_json).collect::<Option<Vec<Entry>>>().map(ManagedFields)
    }

    /// Reads `metadata.managedFields` of an object.
    pub fn of(object: &Value) -> Option<ManagedFields> {
        ManagedFields::from_json(object.pointer("/metadata/managedFields").cloned().unwrap_or_default())
    }

    /// Whether an object asks to forget all managers: `managedFields: [{}]`.
    pub fn is_reset(object: &Value) -> bool {
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        entries.is_some_and(|entries| matches!(entries.as_slice(), [Value::Object(entry)] if entry.is_empty()))
    }

    /// An empty list asks for the same, but would be lost in the canonical form: it becomes one empty entry.
    pub fn mark_reset(object: &mut Value) {
        if let Some(Value::Array(entries)) = object.pointer_mut("/metadata/managedFields")
            && entries.is_empty()
        {
            entries.push(Value::Object(Map::new()));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the entries into an object, or takes them out when there are none.
    pub fn write(self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), self.0.into_iter().map(Entry::into_json).collect());
        }
    }

    /// The entry of the same owner as `like`.
    pub(super) fn find(&mut self, like: &Entry) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.same_owner(like))
    }

    /// Sorts, drops empty entries, and keeps the number of `Update` entries within bounds.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.cap();
        self.0.sort_by(|a, b| a.rank().cmp(&b.rank()));
    }

    fn cap(&mut self) {
        let mut updates = self.0.iter().filter(|entry| entry.operation == Operation::Update).count();
        if updates <= UPDATE_MANAGERS_MAX {
            return;
        }
        self.0.sort_by(|a, b| (a.operation, &a.time).cmp(&(b.operation, &b.time)));
        let entries = std::mem::take(&mut self.0);
        let (old, mut kept): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| entry.operation == Operation::Update);
        let mut buckets: Vec<Entry> = Vec::new();
        for entry in old {
            // The first old entry of a version becomes its bucket when a second one follows.
            if updates > UPDATE_MANAGERS_MAX {
                match buckets.iter_mut().find(|bucket| bucket.api_version == entry.api_version) {
                    Some(bucket) => {
                        bucket.manager = ANCIENT.to_owned();
                        bucket.subresource = String::new();
                        bucket.time = entry.time;
                        bucket.fields.extend(entry.fields);
                        updates -= 1;
                    }
                    None => buckets.push(entry),
                }
            } else {
                kept.push(entry);
            }
        }
        kept.extend(buckets);
        self.0 = kept;
    }
}

/// The text of a time in an entry.
pub(super) fn entry_time(now: Timestamp) -> String {
    timestamp::format_seconds(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, time: &str, version: &str) -> Entry {
        Entry {
            manager: manager.to_owned(),
            operation: Operation::Update,
            api_version: version.to_owned(),
            subresource: String::new(),
            time: time.to_owned(),
            fields: FieldSet::of_fields(&[&["spec", manager]]),
        }
    }

    #[test]
    fn entries_round_trip_through_an_object() {
        let mut applied = entry("a", "2024-01-01T00:00:00Z", "v1");
        (applied.operation, applied.subresource) = (Operation::Apply, "status".to_owned());
        let managed = ManagedFields(vec![applied, entry("b", "", "v1")]);
        let mut object = json!({"metadata": {}});
        managed.clone().write(&mut object);
        assert_eq!(ManagedFields::of(&object), Some(managed));
        ManagedFields::default().write(&mut object);
        assert_eq!(object, json!({"metadata": {}}));
        assert!(ManagedFields::is_reset(&json!({"metadata": {"managedFields": [{}]}})));
        assert_eq!(ManagedFields::of(&json!({"metadata": {"managedFields": [{"manager": "x"}]}})), None);
    }

    #[test]
    fn the_oldest_updates_are_merged_beyond_the_bound() {
        let entries = (0..13).map(|n| entry(&format!("m{n:02}"), &format!("2024-01-01T00:00:{n:02}Z"), "v1")).collect();
        let mut managed = ManagedFields(entries);
        managed.tidy();
        assert_eq!(managed.0.len(), UPDATE_MANAGERS_MAX);
        let ancient = managed.0.iter().find(|entry| entry.manager == ANCIENT).unwrap();
        assert_eq!(ancient.fields.paths(), [".spec.m00", ".spec.m01", ".spec.m02", ".spec.m03"]);
        assert_eq!(ancient.time, "2024-01-01T00:00:03Z");
    }

    #[test]
    fn appliers_come_first_then_time_and_name() {
        let mut applied = entry("z", "2024-01-01T00:00:09Z", "v1");
        applied.operation = Operation::Apply;
        let mut managed = ManagedFields(vec![
            entry("b", "2024-01-01T00:00:02Z", "v1"),
            entry("a", "2024-01-01T00:00:02Z", "v1"),
            applied,
        ]);
        managed.tidy();
        assert_eq!(managed.0.iter().map(|entry| entry.manager.as_str()).collect::<Vec<_>>(), ["z", "a", "b"]);
    }
}
