//! Walking values along their types, as server-side apply sees them.
//!
//! A [`Type`] says of every value whether it is a leaf (scalars, atomic lists
//! and structures), a structure or map with separately owned fields, or a list
//! with separately owned elements. Where the schema says nothing (custom
//! resources without one, raw extensions) maps are separable and lists atomic.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::fieldset::{Below, FieldSet, field_element};
use crate::schema::{Kind, ListType, MessageId, Root, Scalar, Schema};

/// The type of a value.
#[derive(Clone, Copy)]
pub(super) enum Type<'a> {
    /// Owned as a whole.
    Leaf,
    Struct(&'a Schema, MessageId),
    Map(&'a Schema, &'a Kind),
    List(&'a Schema, &'a ListType, &'a Kind),
    /// Whatever the value is.
    Deduced,
}

impl<'a> Type<'a> {
    pub(super) fn of_root(root: Option<&'a Root>) -> Type<'a> {
        root.map_or(Type::Deduced, |root| Type::Struct(&root.schema, root.id))
    }

    fn of(schema: &'a Schema, kind: &'a Kind) -> Type<'a> {
        match kind {
            Kind::Message(id) if schema.get(*id).atomic => Type::Leaf,
            Kind::Message(id) => Type::Struct(schema, *id),
            Kind::Map { atomic: true, .. } => Type::Leaf,
            Kind::Map { value, .. } => Type::Map(schema, value),
            Kind::List { list_type: ListType::Atomic, .. } => Type::Leaf,
            Kind::List { list_type, element, .. } => Type::List(schema, list_type, element),
            Kind::Scalar(
                Scalar::RawExtension
                | Scalar::Json
                | Scalar::FieldsV1
                | Scalar::Any
                | Scalar::SchemaOrBool
                | Scalar::SchemaOrArray
                | Scalar::SchemaOrStringArray,
            ) => Type::Deduced,
            Kind::Scalar(_) => Type::Leaf,
        }
    }

    /// The type of a field or map key, and whether it is a declared field.
    pub(super) fn field(self, name: &str) -> (Type<'a>, bool) {
        match self {
            Type::Struct(schema, id) => match schema.field(id, name) {
                Some(field) => (Type::of(schema, &field.kind), true),
                None if schema.get(id).type_meta && (name == "apiVersion" || name == "kind") => (Type::Leaf, true),
                None => (Type::Deduced, false),
            },
            Type::Map(schema, value) => (Type::of(schema, value), false),
            _ => (Type::Deduced, false),
        }
    }

    /// The type of list elements.
    fn element(self) -> Type<'a> {
        match self {
            Type::List(schema, ListType::Map(_), element) => Type::of(schema, element),
            // Elements of sets are owned as wholes.
            _ => Type::Leaf,
        }
    }

    /// The type behind an element of a path, and whether that is a declared field.
    fn step(self, element: &str) -> (Type<'a>, bool) {
        match element.strip_prefix("f:") {
            Some(name) => self.field(name),
            None => (self.element(), false),
        }
    }

    /// What a value of this type is for the walk.
    fn shape<'v>(self, value: &'v Value) -> Shape<'v> {
        match (self, value) {
            (Type::Leaf | Type::List(..), Value::Object(_)) => Shape::Leaf,
            (_, Value::Object(fields)) => Shape::Fields(fields),
            (Type::List(..), Value::Array(items)) => Shape::Items(items),
            _ => Shape::Leaf,
        }
    }

    /// The names of a list's keys, quoted.
    fn keys(self) -> String {
        match self {
            Type::List(_, ListType::Map(keys), _) => {
                keys.iter().map(|key| format!("{:?}", key.as_ref())).collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        }
    }

    /// The path element that identifies a list element; `None` when its keys are missing.
    fn identify(self, item: &Value) -> Option<String> {
        let Type::List(schema, list_type, element) = self else { return None };
        match list_type {
            ListType::Atomic => None,
            ListType::Set => Some(format!("v:{item}")),
            ListType::Map(keys) => {
                let value = |key: &str| {
                    let given = item.get(key).filter(|value| !value.is_null());
                    given.or_else(|| default_of(schema, element, key))
                };
                let mut identity: Vec<(&str, &Value)> =
                    keys.iter().filter_map(|key| Some((key.as_ref(), value(key)?))).collect();
                identity.sort_unstable_by_key(|(key, _)| *key);
                (!identity.is_empty()).then(|| key_element(&identity))
            }
        }
    }
}

/// `k:{"name":"web"}`
fn key_element(identity: &[(&str, &Value)]) -> String {
    let mut element = b"k:{".to_vec();
    for (number, (key, value)) in identity.iter().enumerate() {
        if number > 0 {
            element.push(b',');
        }
        // Writing values to a vector cannot fail.
        let _ = serde_json::to_writer(&mut element, key);
        element.push(b':');
        let _ = serde_json::to_writer(&mut element, value);
    }
    element.push(b'}');
    String::from_utf8(element).unwrap_or_default()
}

fn default_of<'a>(schema: &'a Schema, element: &Kind, key: &str) -> Option<&'a Value> {
    match element {
        Kind::Message(id) => schema.field(*id, key)?.default.as_deref(),
        _ => None,
    }
}

enum Shape<'v> {
    Leaf,
    Fields(&'v Map<String, Value>),
    Items(&'v [Value]),
}

/// The paths that someone who applies `value` owns: leaves, map keys, list elements.
pub(super) fn field_set(kind: Type<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    match kind.shape(value) {
        Shape::Leaf => {}
        Shape::Fields(fields) => {
            for (name, value) in fields {
                let (inner, declared) = kind.field(name);
                let is_leaf = match inner.shape(value) {
                    Shape::Leaf => true,
                    Shape::Fields(fields) => fields.is_empty(),
                    Shape::Items(_) => false,
                };
                set.put(field_element(name), is_leaf || !declared, field_set(inner, value));
            }
        }
        Shape::Items(items) => {
            for item in items {
                let Some(element) = kind.identify(item) else { continue };
                set.put(element, true, field_set(kind.element(), item));
            }
        }
    }
    set
}

/// What changed between two values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) added: FieldSet,
}

impl Comparison {
    pub(super) fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    fn put(&mut self, element: impl Fn() -> String, change: Change) {
        let Change { below, removed, modified, added } = change;
        for (set, below, itself) in [
            (&mut self.removed, below.removed, removed),
            (&mut self.modified, below.modified, modified),
            (&mut self.added, below.added, added),
        ] {
            if itself || !below.is_empty() {
                set.put(element(), itself, below);
            }
        }
    }
}

/// What became of one field or element: below it, and of itself.
#[derive(Default)]
struct Change {
    below: Comparison,
    removed: bool,
    modified: bool,
    added: bool,
}

impl Change {
    /// Compares one field or element that at least one side has.
    fn of(kind: Type<'_>, old: Option<&Value>, new: Option<&Value>) -> Change {
        let is_leaf = |value| matches!(kind.shape(value), Shape::Leaf);
        let modified = || Change { modified: true, ..Change::default() };
        let below = |old: &Value, new: &Value| Change { below: compare(kind, old, new), ..Change::default() };
        match (old, new) {
            (Some(old), Some(new)) if old == new => Change::default(),
            // A field that is always there is neither added nor removed itself.
            (Some(Value::Null), Some(value)) | (Some(value), Some(Value::Null)) if is_leaf(value) => modified(),
            (Some(old @ Value::Null), Some(new)) | (Some(old), Some(new @ Value::Null)) => below(old, new),
            (Some(Value::Null), None) | (None, Some(Value::Null)) => Change::default(),
            (Some(old), Some(new)) => match (is_leaf(old), is_leaf(new)) {
                (false, false) => below(old, new),
                (true, true) => modified(),
                // The value became another kind of thing: all of the old is gone.
                _ => {
                    let Comparison { removed, .. } = compare(kind, old, &Value::Null);
                    let Comparison { added, .. } = compare(kind, &Value::Null, new);
                    let below = Comparison { removed, added, ..Comparison::default() };
                    Change { below, removed: true, added: true, modified: false }
                }
            },
            (Some(old), None) => Change { removed: true, ..below(old, &Value::Null) },
            (None, Some(new)) => Change { added: true, ..below(&Value::Null, new) },
            (None, None) => Change::default(),
        }
    }
}

/// Compares two values of one type; `Null` stands for absent.
pub(super) fn compare(kind: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    match (kind.shape(old), kind.shape(new)) {
        (Shape::Fields(old), Shape::Fields(new)) => compare_fields(kind, old, new, &mut comparison),
        (Shape::Fields(old), Shape::Leaf) => compare_fields(kind, old, &Map::new(), &mut comparison),
        (Shape::Leaf, Shape::Fields(new)) => compare_fields(kind, &Map::new(), new, &mut comparison),
        (Shape::Items(old), Shape::Items(new)) => compare_items(kind, old, new, &mut comparison),
        (Shape::Items(old), Shape::Leaf) => compare_items(kind, old, &[], &mut comparison),
        (Shape::Leaf, Shape::Items(new)) => compare_items(kind, &[], new, &mut comparison),
        _ => {}
    }
    comparison
}

fn compare_fields(kind: Type<'_>, old: &Map<String, Value>, new: &Map<String, Value>, comparison: &mut Comparison) {
    let only_new = new.keys().filter(|name| !old.contains_key(*name));
    for name in old.keys().chain(only_new) {
        let (before, after) = (old.get(name), new.get(name));
        if before != after {
            comparison.put(|| field_element(name), Change::of(kind.field(name).0, before, after));
        }
    }
}

fn compare_items(kind: Type<'_>, old: &[Value], new: &[Value], comparison: &mut Comparison) {
    let (before, after) = (identified(kind, old), identified(kind, new));
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        // Both are in the order of identities: whoever is behind goes on.
        let (has_before, has_after) = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some((old, _)), Some((new, _))) => (old <= new, new <= old),
        };
        let old = if has_before { before.next() } else { None };
        let new = if has_after { after.next() } else { None };
        let Some((id, _)) = old.or(new) else { return };
        let change = Change::of(kind.element(), old.map(|(_, item)| &**item), new.map(|(_, item)| &**item));
        comparison.put(|| id.clone(), change);
    }
}

/// Elements with their identities, in the order of these. Elements that share one are compared together, as a list.
fn identified<'v>(kind: Type<'_>, items: &'v [Value]) -> Vec<(String, Cow<'v, Value>)> {
    let mut found: Vec<(String, &Value)> = items.iter().filter_map(|item| Some((kind.identify(item)?, item))).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut list: Vec<(String, Cow<'v, Value>)> = Vec::with_capacity(found.len());
    for (id, item) in found {
        match list.last_mut() {
            Some((last, same)) if *last == id => {
                // An element that is a list itself has no identity, so a list is what has been gathered here.
                match same.to_mut() {
                    Value::Array(same) => same.push(item.clone()),
                    first => *first = Value::Array(vec![first.take(), item.clone()]),
                }
            }
            _ => list.push((id, Cow::Borrowed(item))),
        }
    }
    list
}

/// Lays the applied configuration over the live object.
pub(super) fn merge(kind: Type<'_>, live: &Value, config: &Value) -> Value {
    match (kind.shape(live), kind.shape(config)) {
        (Shape::Fields(live), Shape::Fields(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let value = match live.get(name) {
                    Some(old) => merge(kind.field(name).0, old, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Items(live), Shape::Items(config)) => Value::Array(merge_items(kind, live, config)),
        _ => config.clone(),
    }
}

/// Elements of both lists once each: what only live has keeps its place,
/// shared elements take the order of `config`.
fn merge_items(kind: Type<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let ids = |items: &[Value]| items.iter().map(|item| kind.identify(item)).collect::<Vec<_>>();
    let (live_ids, config_ids) = (ids(live), ids(config));
    let shared = |id: &Option<String>| id.is_some() && config_ids.contains(id);
    let twin = |id: &Option<String>| live_ids.iter().position(|have| have.is_some() && have == id);
    let mut order = config_ids.iter().filter(|id| twin(id).is_some()).peekable();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let (mut l, mut c) = (0, 0);
    while l < live.len() || c < config.len() {
        if l < live.len() && !shared(&live_ids[l]) {
            merged.push(live[l].clone());
            l += 1;
        } else if l < live.len() && order.peek().is_none_or(|next| **next != live_ids[l]) {
            // Shared, but it comes earlier or later in the order of `config`.
            l += 1;
        } else if c < config.len() {
            let id = &config_ids[c];
            match twin(id) {
                Some(at) => {
                    merged.push(merge(kind.element(), &live[at], &config[c]));
                    order.next();
                    l += usize::from(l < live.len() && live_ids[l] == *id);
                }
                None => merged.push(config[c].clone()),
            }
            c += 1;
        }
    }
    merged
}

/// The paths of lists and structures in a value that are owned as wholes.
pub(super) fn find_atomic(kind: Type<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    match kind.shape(value) {
        Shape::Leaf => {
            if matches!(kind, Type::Leaf) && (value.is_object() || value.is_array()) {
                found.push(path.to_owned());
            }
        }
        Shape::Fields(fields) => {
            for (name, value) in fields {
                if let (below, true) = kind.field(name) {
                    find_atomic(below, value, &format!("{path}.{name}"), found);
                }
            }
        }
        Shape::Items(items) => {
            for (number, item) in items.iter().enumerate() {
                find_atomic(kind.element(), item, &format!("{path}[{number}]"), found);
            }
        }
    }
}

/// Takes the members of `set` out of a value. Fields and lists that become empty go too.
pub(super) fn remove(kind: Type<'_>, value: &Value, set: Below<'_>) -> Option<Value> {
    match kind.shape(value) {
        Shape::Leaf => Some(value.clone()),
        Shape::Fields(fields) if fields.is_empty() => Some(value.clone()),
        Shape::Items([]) => Some(value.clone()),
        Shape::Fields(fields) => {
            let mut rest = Map::new();
            for (name, value) in fields {
                let element = field_element(name);
                if set.has(&element) {
                    continue;
                }
                let kept = match set.below(&element) {
                    Some(below) => remove(kind.field(name).0, value, below),
                    None => Some(value.clone()),
                };
                if let Some(kept) = kept {
                    rest.insert(name.clone(), kept);
                }
            }
            (!rest.is_empty()).then_some(Value::Object(rest))
        }
        Shape::Items(items) => {
            let mut rest = Vec::with_capacity(items.len());
            for item in items {
                let Some(element) = kind.identify(item) else {
                    rest.push(item.clone());
                    continue;
                };
                if set.has(&element) {
                    continue;
                }
                rest.extend(match set.below(&element) {
                    Some(below) => remove(kind.element(), item, below),
                    None => Some(item.clone()),
                });
            }
            (!rest.is_empty()).then_some(Value::Array(rest))
        }
    }
}

/// The set with every declared field on the way to a member made a member too.
pub(super) fn with_named(kind: Type<'_>, set: &FieldSet) -> FieldSet {
    set.with_named(kind, &|kind: Type<'_>, element: &str| kind.step(element))
}

/// The first list that holds two elements of one identity, or an element
/// without identity: neither can be applied.
pub(super) fn check_lists(kind: Type<'_>, value: &Value, path: &str) -> Result<(), String> {
    match kind.shape(value) {
        Shape::Leaf => Ok(()),
        Shape::Fields(fields) => fields
            .iter()
            .try_for_each(|(name, value)| check_lists(kind.field(name).0, value, &format!("{path}.{name}"))),
        Shape::Items(items) => {
            let mut seen = FieldSet::new();
            for (number, item) in items.iter().enumerate() {
                let Some(id) = kind.identify(item) else {
                    return Err(format!(
                        "{path}: element {number}: associative list with keys has an element that omits all key fields \
                         [{}] (and doesn't have default values for any key fields)",
                        kind.keys()
                    ));
                };
                if seen.has(&id) {
                    let shown = {
                        let mut one = FieldSet::new();
                        one.insert_element(&id);
                        one.paths().concat()
                    };
                    return Err(format!("{path}: duplicate entries for key {shown}"));
                }
                check_lists(kind.element(), item, &format!("{path}[{number}]"))?;
                seen.insert_element(&id);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupVersionKind;
    use serde_json::json;

    fn pod() -> Root {
        Root::for_kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap()
    }

    #[test]
    fn an_applied_configuration_owns_leaves_keys_and_elements() {
        let root = pod();
        let value = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x"]}, "spec": {"containers": [
            {"name": "c", "image": "i", "command": ["a"], "ports": [{"containerPort": 80}], "securityContext": {}}],
            "nodeSelector": {"z": "1"}}});
        assert_eq!(
            field_set(Type::of_root(Some(&root)), &value).into_json(),
            json!({"f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x\"": {}}},
                "f:spec": {"f:nodeSelector": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:command": {},
                    "f:securityContext": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}})
        );
    }

    #[test]
    fn without_a_schema_maps_are_separable_and_lists_atomic() {
        let value = json!({"spec": {"a": {"b": 1}, "l": [{"name": "x"}]}});
        assert_eq!(
            field_set(Type::Deduced, &value).into_json(),
            json!({"f:spec": {".": {}, "f:a": {".": {}, "f:b": {}}, "f:l": {}}})
        );
    }

    #[test]
    fn comparison_tells_added_modified_and_removed() {
        let root = pod();
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "c", "image": "i"}], "hostname": "h"}});
        let new = json!({"metadata": {"labels": {"a": "9"}, "annotations": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "j"}, {"name": "d"}]}});
        let result = compare(Type::of_root(Some(&root)), &old, &new);
        assert_eq!(
            result.modified.into_json(),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:image": {}}}}})
        );
        assert_eq!(
            result.removed.into_json(),
            json!({"f:metadata": {"f:labels": {"f:b": {}}}, "f:spec": {"f:hostname": {}}})
        );
        assert_eq!(
            result.added.into_json(),
            json!({"f:metadata": {"f:annotations": {".": {}, "f:x": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"d\"}": {".": {}, "f:name": {}}}}})
        );
        assert!(compare(Type::of_root(Some(&root)), &new, &new).is_same());
    }

    #[test]
    fn merged_lists_keep_live_elements_in_place() {
        let root = pod();
        let list = |names: &[&str]| {
            let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"spec": {"containers": items}})
        };
        let names = |live: &[&str], config: &[&str]| {
            let merged = merge(Type::of_root(Some(&root)), &list(live), &list(config));
            let items = merged["spec"]["containers"].as_array().unwrap().clone();
            items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join("")
        };
        assert_eq!(names(&["a", "b", "c"], &["b"]), "abc");
        assert_eq!(names(&["a", "b", "c"], &["c", "a"]), "bca");
        assert_eq!(names(&["a"], &["b", "a", "d"]), "bad");
        assert_eq!(names(&[], &["x", "y"]), "xy");
    }

    #[test]
    fn removal_takes_members_and_what_becomes_empty() {
        let root = pod();
        let value = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d"}]}});
        let set = FieldSet::from_json(
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:image": {}}, "k:{\"name\":\"d\"}": {}}}}),
        );
        assert_eq!(
            remove(Type::of_root(Some(&root)), &value, set.view()),
            Some(json!({"spec": {"containers": [{"name": "c"}]}}))
        );
    }

    #[test]
    fn what_is_replaced_as_a_whole_is_found() {
        let root = pod();
        let value = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"nodeSelector": {"z": "1"}, "tolerations": [{"key": "k"}],
            "containers": [{"name": "c", "command": ["x"], "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "p"}}}]}]}});
        let mut found = Vec::new();
        find_atomic(Type::of_root(Some(&root)), &value, "", &mut found);
        found.sort();
        let wanted = [
            ".spec.containers[0].command",
            ".spec.containers[0].env[0].valueFrom.fieldRef",
            ".spec.nodeSelector",
            ".spec.tolerations",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn repeated_elements_cannot_be_applied() {
        let root = pod();
        let value = json!({"spec": {"containers": [{"name": "c"}, {"name": "c"}]}});
        let error = check_lists(Type::of_root(Some(&root)), &value, "").unwrap_err();
        assert_eq!(error, ".spec.containers: duplicate entries for key [name=\"c\"]");
    }
}
