//! The schema table: what every message of the API looks like.
//!
//! A [`Schema`] is an arena of [`Message`]s. [`Schema::builtin`] holds all
//! built-in messages, parsed once from the compact `table.txt`; a custom
//! resource definition compiles into a small `Schema` of the same form. Strict
//! decoding, pruning, defaulting, protobuf, strategic merge, server-side apply
//! and OpenAPI all walk these tables.
//!
//! ```
//! use skiff_api::schema::{Kind, Schema};
//! let schema = Schema::builtin();
//! let pod = schema.message("core/v1", "Pod").unwrap();
//! let spec = schema.field(pod, "spec").unwrap();
//! assert!(matches!(spec.kind, Kind::Message(_)));
//! ```
//!
//! Package names are those of the protobuf packages: `core/v1`, `apps/v1`,
//! `rbac/v1`, `meta/v1`. [`Root::for_kind`] goes from group, version, kind.

pub mod defaults;
pub mod structural;
mod table;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use serde_json::Value;

use crate::{GroupVersionKind, group_version::Name};

/// Index of a message in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u32);

/// Scalars, including the structures that JSON shows as one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 text in JSON.
    Bytes,
    /// `500m`, `1Gi`; canonical text in JSON, message `{1: string}` on the wire.
    Quantity,
    /// RFC 3339 with whole seconds; `{1: seconds, 2: nanos}` on the wire.
    Time,
    /// RFC 3339 with six decimals.
    MicroTime,
    /// `{1: type, 2: int, 3: string}` on the wire.
    IntOrString,
    /// Go duration text; `{1: nanoseconds}` on the wire.
    Duration,
    /// Any JSON object; `{1: raw}` on the wire.
    RawExtension,
    /// Any JSON value; `{1: raw}` on the wire.
    Json,
    /// A field set; `{1: raw}` on the wire.
    FieldsV1,
    /// `JSONSchemaPropsOrBool`: `{1: allows, 2: schema}` on the wire.
    SchemaOrBool,
    /// `JSONSchemaPropsOrArray`: `{1: schema, 2: repeated schema}` on the wire.
    SchemaOrArray,
    /// `JSONSchemaPropsOrStringArray`: `{1: schema, 2: repeated string}` on the wire.
    SchemaOrStringArray,
    /// Any JSON value kept as it is, without wire form (custom resources).
    Any,
}

/// How elements of a list relate, for server-side apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Distinct scalars.
    Set,
    /// Objects identified by the values of these fields.
    Map(Vec<Name>),
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Scalar(Scalar),
    Message(MessageId),
    List {
        element: Box<Kind>,
        list_type: ListType,
        /// A message `{1: repeated element}` on the wire (`ExtraValue`, `Verbs`).
        wrapped: bool,
    },
    /// A map with string keys; an atomic one is replaced as a whole by apply.
    Map {
        value: Box<Kind>,
        atomic: bool,
    },
}

/// Strategic merge patch behaviour of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists merge by [`Field::merge_key`], or as a set of scalars.
    pub merge: bool,
    /// `retainKeys`: fields not named by the patch are removed when it asks so.
    pub retain_keys: bool,
    /// `replace`: maps are replaced as a whole.
    pub replace: bool,
}

/// One field of a message.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name; the upstream name of the embedded structure when `inline`.
    pub json: Name,
    pub kind: Kind,
    /// Protobuf field number; 0 when it has none.
    pub tag: u32,
    /// Documented as required (OpenAPI `required`).
    pub required: bool,
    /// Left out of JSON when empty.
    pub omit_empty: bool,
    /// A Go pointer: absent and zero differ, and zero is written only when set.
    pub pointer: bool,
    /// The fields of this message appear in the parent in JSON, but not on the wire.
    pub inline: bool,
    /// `null` is a value of its own (custom resources only).
    pub nullable: bool,
    pub patch: PatchStrategy,
    pub merge_key: Option<Name>,
    /// Default value declared in the schema.
    pub default: Option<Box<Value>>,
    /// Go type name of a named string type, for example `PullPolicy`; empty otherwise.
    pub type_name: Name,
}

impl Field {
    /// The list type, when this field is a list.
    pub fn list_type(&self) -> Option<&ListType> {
        match &self.kind {
            Kind::List { list_type, .. } => Some(list_type),
            _ => None,
        }
    }
}

/// A structure: fields with names, tags and types.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Package and version, for example `apps/v1`.
    pub package: Name,
    /// For example `DeploymentSpec`.
    pub name: Name,
    /// Fields in upstream's declaration order, without flattening inline ones.
    pub fields: Vec<Field>,
    /// `apiVersion` and `kind` appear in JSON.
    pub type_meta: bool,
    /// Replaced as a whole by server-side apply.
    pub atomic: bool,
    /// Unknown fields are kept (custom resources only).
    pub preserve_unknown: bool,
    /// Values of the wrong type are left for validation (custom resources only).
    pub lenient: bool,
    /// JSON-visible fields sorted by name, inline structures flattened.
    index: Vec<Flat>,
    /// Positions in `fields` of those with a tag, sorted by tag.
    by_tag: Vec<u32>,
}

impl Message {
    /// The field with this protobuf tag.
    pub fn field_by_tag(&self, tag: u32) -> Option<&Field> {
        let found = self.by_tag.binary_search_by_key(&tag, |at| self.fields[*at as usize].tag).ok()?;
        Some(&self.fields[self.by_tag[found] as usize])
    }

    /// Fields with a wire form, by ascending tag.
    pub fn by_tag(&self) -> impl DoubleEndedIterator<Item = &Field> {
        self.by_tag.iter().map(|at| &self.fields[*at as usize])
    }
}

/// A JSON-visible field: its owner message (for inlined structures) and position.
#[derive(Clone, Copy, Debug)]
struct Flat {
    owner: MessageId,
    position: u32,
}

/// An arena of messages.
#[derive(Debug, Default)]
pub struct Schema {
    messages: Vec<Message>,
    by_name: HashMap<Name, HashMap<Name, MessageId>>,
    json_schema: Option<MessageId>,
}

/// A message together with the arena it lives in; cheap to clone.
#[derive(Clone, Debug)]
pub struct Root {
    pub schema: Arc<Schema>,
    pub id: MessageId,
}

static BUILTIN: LazyLock<Arc<Schema>> = LazyLock::new(|| Arc::new(table::builtin()));

impl Schema {
    /// All built-in messages.
    pub fn builtin() -> &'static Arc<Schema> {
        &BUILTIN
    }

    /// Joins messages into a schema; `names` finds them again. Every
    /// [`MessageId`] in `messages` must be an index into it.
    pub fn assemble(messages: Vec<Message>, names: HashMap<(Name, Name), MessageId>) -> Schema {
        let mut by_name: HashMap<Name, HashMap<Name, MessageId>> = HashMap::new();
        for ((package, name), id) in names {
            by_name.entry(package).or_default().insert(name, id);
        }
        let json_schema = by_name.get("apiextensions/v1").and_then(|names| names.get("JSONSchemaProps")).copied();
        let mut schema = Schema { messages, by_name, json_schema };
        for number in 0..schema.messages.len() {
            let mut flat = Vec::new();
            schema.flatten(MessageId(number as u32), &mut flat);
            flat.sort_by(|a, b| schema.at(*a).json.cmp(&schema.at(*b).json));
            let fields = &schema.messages[number].fields;
            let mut by_tag: Vec<u32> = (0..fields.len() as u32).filter(|at| fields[*at as usize].tag != 0).collect();
            by_tag.sort_by_key(|at| fields[*at as usize].tag);
            schema.messages[number].index = flat;
            schema.messages[number].by_tag = by_tag;
        }
        schema
    }

    fn flatten(&self, id: MessageId, flat: &mut Vec<Flat>) {
        for (position, field) in self.get(id).fields.iter().enumerate() {
            match (&field.kind, field.inline) {
                (Kind::Message(inner), true) => self.flatten(*inner, flat),
                _ => flat.push(Flat { owner: id, position: position as u32 }),
            }
        }
    }

    fn at(&self, flat: Flat) -> &Field {
        &self.get(flat.owner).fields[flat.position as usize]
    }

    /// The message with this index.
    pub fn get(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    /// Finds a message by package (`apps/v1`) and name (`DeploymentSpec`).
    pub fn message(&self, package: &str, name: &str) -> Option<MessageId> {
        self.by_name.get(package)?.get(name).copied()
    }

    /// `JSONSchemaProps`, which the schema-or scalars contain.
    pub fn json_schema(&self) -> Option<MessageId> {
        self.json_schema
    }

    /// All messages with their indexes.
    pub fn messages(&self) -> impl Iterator<Item = (MessageId, &Message)> {
        self.messages.iter().enumerate().map(|(number, message)| (MessageId(number as u32), message))
    }

    /// A field of a message by JSON name, inline structures looked through.
    pub fn field(&self, id: MessageId, json: &str) -> Option<&Field> {
        let index = &self.get(id).index;
        let found = index.binary_search_by(|flat| self.at(*flat).json.as_ref().cmp(json)).ok()?;
        Some(self.at(index[found]))
    }

    /// All JSON-visible fields of a message, sorted by name, inline structures flattened.
    pub fn fields(&self, id: MessageId) -> impl Iterator<Item = &Field> {
        self.get(id).index.iter().map(|flat| self.at(*flat))
    }
}

/// The protobuf package of a group and version: `rbac.authorization.k8s.io`, `v1` is `rbac/v1`.
pub fn package_of(group: &str, version: &str) -> String {
    let short = match group {
        "" => "core",
        _ => group.split('.').next().unwrap_or(group),
    };
    format!("{short}/{version}")
}

/// Kinds of `meta/v1` that every group and version serves.
const META_KINDS: [&str; 14] = [
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "ApplyOptions",
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "List",
    "ListOptions",
    "PatchOptions",
    "Status",
    "UpdateOptions",
    "WatchEvent",
    "Table",
];

impl Root {
    /// The built-in message of a kind, including the options and status kinds
    /// that live in `meta/v1` whatever group is named.
    pub fn for_kind(gvk: &GroupVersionKind) -> Option<Root> {
        let schema = Schema::builtin();
        let own = schema.message(&package_of(&gvk.group, &gvk.version), &gvk.kind);
        let meta = || {
            let named = META_KINDS.contains(&gvk.kind.as_ref()) || gvk.group == "meta.k8s.io";
            named.then(|| schema.message("meta/v1", &gvk.kind)).flatten()
        };
        let id = own.filter(|id| schema.get(*id).type_meta).or_else(meta)?;
        Some(Root { schema: Arc::clone(schema), id })
    }

    /// The root message.
    pub fn message(&self) -> &Message {
        self.schema.get(self.id)
    }

    /// A field of the root message by JSON name.
    pub fn field(&self, json: &str) -> Option<&Field> {
        self.schema.field(self.id, json)
    }

    /// The root of a nested message, for code that works on a part of an object.
    pub fn descend(&self, json: &str) -> Option<Root> {
        match self.field(json)?.kind {
            Kind::Message(id) => Some(Root { schema: Arc::clone(&self.schema), id }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'a>(package: &str, message: &str, json: &str) -> &'a Field {
        let schema = Schema::builtin();
        let id = schema.message(package, message).expect(message);
        schema.field(id, json).expect(json)
    }

    #[test]
    fn list_keys_and_merge_keys_are_separate_facts() {
        let ports = field("core/v1", "Container", "ports");
        assert_eq!(ports.list_type(), Some(&ListType::Map(vec!["containerPort".into(), "protocol".into()])));
        assert_eq!(ports.merge_key.as_deref(), Some("containerPort"));
        assert!(ports.patch.merge && ports.omit_empty && !ports.required);
    }

    #[test]
    fn inline_structures_are_looked_through() {
        assert_eq!(field("core/v1", "Volume", "secret").tag, 6);
        let schema = Schema::builtin();
        let volume = schema.message("core/v1", "Volume").unwrap();
        assert_eq!(schema.get(volume).fields.iter().filter(|field| field.inline).count(), 1);
    }

    #[test]
    fn every_referenced_message_is_defined_and_every_field_is_unique() {
        let schema = Schema::builtin();
        for (id, message) in schema.messages() {
            let names: Vec<&str> = schema.fields(id).map(|field| field.json.as_ref()).collect();
            assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{}.{}: {names:?}", message.package, message.name);
            let mut tags: Vec<u32> = message.fields.iter().map(|field| field.tag).filter(|tag| *tag != 0).collect();
            let count = tags.len();
            tags.sort_unstable();
            tags.dedup();
            assert_eq!(tags.len(), count, "{}.{} has a repeated tag", message.package, message.name);
        }
    }

    #[test]
    fn kinds_are_found_in_their_package_and_options_everywhere() {
        let find = |group, version, kind| Root::for_kind(&GroupVersionKind::new(group, version, kind));
        assert_eq!(find("rbac.authorization.k8s.io", "v1", "Role").unwrap().message().package, "rbac/v1");
        assert_eq!(find("apps", "v1", "DeleteOptions").unwrap().message().package, "meta/v1");
        assert_eq!(find("", "v1", "PodList").unwrap().message().fields.len(), 2);
        assert_eq!(find("meta.k8s.io", "v1", "PartialObjectMetadata").unwrap().message().package, "meta/v1");
        assert!(find("", "v1", "PodSpec").is_none(), "a part is not a kind");
        assert!(find("example.com", "v1", "Widget").is_none());
    }
}
