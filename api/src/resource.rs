//! One row of the resource table: everything the system knows about a resource.
//!
//! Routes, discovery, OpenAPI, RBAC bootstrap, `kubectl get` tables, client
//! paths and field selectors all derive from a [`Resource`]. Built-in rows are
//! made in [`crate::resources`]; a custom resource definition becomes a row of
//! the same type at run time, so nothing downstream knows the difference.
//!
//! ```
//! use skiff_api::{ResourceRegistry, resource::Verb};
//! let registry = ResourceRegistry::builtin();
//! let pods = registry.lookup("", "v1", "pods").unwrap();
//! assert!(pods.verbs.contains(Verb::Watch) && pods.subresource("log").is_some());
//! ```

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    GroupKind, GroupResource, GroupVersionKind, GroupVersionResource,
    group_version::{Name, api_version},
    schema::Root,
};

/// What can be done to a resource, as discovery and RBAC name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
    /// Proxying subresources (`exec`, `portforward`, ...); never shown in discovery.
    Connect,
}

impl Verb {
    /// All verbs in the alphabetical order of discovery documents; `Connect` last.
    pub const ALL: [Verb; 9] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
        Verb::Connect,
    ];

    /// The lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
            Verb::Connect => "connect",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs(u16);

impl Verbs {
    pub const NONE: Verbs = Verbs(0);
    /// What an ordinary stored resource allows.
    pub const STANDARD: Verbs = Verbs::of(&[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ]);
    /// What `status`, `scale` and similar views of an object allow.
    pub const GET_PATCH_UPDATE: Verbs = Verbs::of(&[Verb::Get, Verb::Patch, Verb::Update]);

    /// The set of the given verbs.
    pub const fn of(verbs: &[Verb]) -> Verbs {
        let mut set = 0;
        let mut i = 0;
        while i < verbs.len() {
            set |= 1 << verbs[i] as u16;
            i += 1;
        }
        Verbs(set)
    }

    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u16) != 0
    }

    pub const fn without(self, verb: Verb) -> Verbs {
        Verbs(self.0 & !(1 << verb as u16))
    }

    /// Members in the order of discovery documents.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

/// A view or action below one object, such as `pods/log`.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// For example `status`.
    pub name: Name,
    /// Group, version and kind of the body, which can differ from the parent's (`Scale`, `Eviction`).
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub verbs: Verbs,
}

impl Subresource {
    /// The kind of the body.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }
}

/// Where the value of a selectable field comes from.
#[derive(Clone)]
pub enum FieldSource {
    /// JSON pointer, for example `/spec/nodeName`.
    Pointer(Name),
    /// Calculated from the object.
    Computed(fn(&Value) -> String),
}

/// A field that a field selector may name, beside `metadata.name` and `metadata.namespace`.
#[derive(Clone)]
pub struct SelectableField {
    /// The label used in selectors, for example `spec.nodeName`.
    pub path: Name,
    pub source: FieldSource,
    /// Value of an absent field, for example `false`.
    pub absent: Name,
}

impl SelectableField {
    /// The value of this field in `object`, in the text form of selectors.
    pub fn value(&self, object: &Value) -> String {
        let found = match &self.source {
            FieldSource::Pointer(pointer) => match object.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(flag)) => flag.to_string(),
                Some(Value::Number(number)) => number.to_string(),
                _ => String::new(),
            },
            FieldSource::Computed(compute) => compute(object),
        };
        if found.is_empty() { self.absent.to_string() } else { found }
    }
}

/// How a table cell is made.
#[derive(Clone)]
pub enum ColumnSource {
    /// `metadata.name`.
    Name,
    /// Age since the RFC 3339 time at this JSON pointer; `<unknown>` when absent.
    Age(Name),
    /// The value at a JSON pointer; `<none>` where upstream prints it, see [`Column::absent`].
    Pointer(Name),
    /// The value selected by a JSONPath of a custom resource definition.
    Path(crate::json_path::JsonPath),
    /// Calculated from object and present time.
    Computed(fn(&Value, Timestamp) -> Value),
}

/// A column of the server-side table.
#[derive(Clone)]
pub struct Column {
    pub name: Name,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub column_type: Name,
    /// `name` for the name column, mostly empty otherwise.
    pub format: Name,
    pub description: Name,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    pub source: ColumnSource,
    /// Cell of an absent value.
    pub absent: Value,
}

/// Who defined a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Part of the program.
    BuiltIn,
    /// A custom resource definition.
    Custom,
    /// Served by another API server behind an `APIService`.
    Aggregated,
}

/// One version of one resource.
#[derive(Clone)]
pub struct Resource {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub list_kind: Name,
    pub plural: Name,
    pub singular: Name,
    pub short_names: Vec<Name>,
    pub categories: Vec<Name>,
    pub namespaced: bool,
    pub verbs: Verbs,
    pub subresources: Vec<Subresource>,
    pub origin: Origin,

    /// The store that holds the objects; `None` for resources that only answer
    /// (reviews). Views of the same objects (events in two groups, two versions
    /// of autoscalers) name the same store.
    pub storage: Option<GroupResource>,
    /// Group and version in which objects are stored.
    pub storage_version: Option<(Name, Name)>,
    pub storage_version_hash: Name,

    /// Whether `status` is written only through the subresource: writes of the
    /// object ignore status and writes of status ignore the rest.
    pub status_isolated: bool,
    pub selectable_fields: Vec<SelectableField>,
    /// Columns of `kubectl get`; empty means name and age.
    pub columns: Vec<Column>,
    /// The message in the schema table; `None` means schemaless.
    pub schema: Option<Root>,
    /// The OpenAPI schema of a custom resource, as its definition writes it.
    pub open_api: Option<Arc<Value>>,

    /// PUT of an absent object creates it.
    pub create_on_update: bool,
    /// PUT without resourceVersion is accepted.
    pub unconditional_update: bool,
    /// Deletion can leave the object for a grace period.
    pub graceful_deletion: bool,
    /// Finalizers put on every new object.
    pub default_finalizers: Vec<Name>,
    /// Deletion without a propagation policy orphans dependents.
    pub default_orphan: bool,
}

impl Resource {
    /// Whether objects of this resource exist in a store.
    pub fn is_stored(&self) -> bool {
        self.storage.is_some()
    }

    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }

    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource { group: self.group.clone(), version: self.version.clone(), resource: self.plural.clone() }
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone(), resource: self.plural.clone() }
    }

    pub fn group_kind(&self) -> GroupKind {
        GroupKind { group: self.group.clone(), kind: self.kind.clone() }
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// The selectable field of that name, without the two that every resource has.
    pub fn selectable_field(&self, path: &str) -> Option<&SelectableField> {
        self.selectable_fields.iter().find(|field| field.path == path)
    }

    /// The value a field selector compares: `None` when the field is not selectable.
    pub fn field_value(&self, object: &Value, path: &str) -> Option<String> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        match path {
            "metadata.name" => Some(text("/metadata/name")),
            "metadata.namespace" if self.namespaced => Some(text("/metadata/namespace")),
            _ => self.selectable_field(path).map(|field| field.value(object)),
        }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.plural)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_listed_in_discovery_order() {
        let verbs = Verbs::of(&[Verb::Watch, Verb::Create, Verb::Get]);
        let names: Vec<&str> = verbs.iter().map(Verb::as_str).collect();
        assert_eq!(names, ["create", "get", "watch"]);
        assert!(!verbs.without(Verb::Get).contains(Verb::Get));
    }

    #[test]
    fn an_absent_selectable_field_has_its_declared_text() {
        let field = SelectableField {
            path: "spec.unschedulable".into(),
            source: FieldSource::Pointer("/spec/unschedulable".into()),
            absent: "false".into(),
        };
        assert_eq!(field.value(&serde_json::json!({"spec": {}})), "false");
        assert_eq!(field.value(&serde_json::json!({"spec": {"unschedulable": true}})), "true");
    }
}
