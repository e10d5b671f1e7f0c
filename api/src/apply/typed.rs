//! Walking values along their types, as server-side apply sees them.
//!
//! A [`Type`] says of every value whether it is a leaf (scalars, atomic lists
//! and structures), a structure or map with separately owned fields, or a list
//! with separately owned elements. Where the schema says nothing (custom
//! resources without one, raw extensions) maps are separable and lists atomic.

use serde_json::{Map, Value};

use super::fieldset::FieldSet;
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

    /// The path element that identifies a list element; `None` when its keys are missing.
    fn identify(self, item: &Value) -> Option<String> {
        let Type::List(schema, list_type, element) = self else { return None };
        match list_type {
            ListType::Atomic => None,
            ListType::Set => Some(format!("v:{item}")),
            ListType::Map(keys) => {
                let mut identity = Map::new();
                for key in keys {
                    let value = item.get(key.as_ref()).filter(|value| !value.is_null()).cloned();
                    if let Some(value) = value.or_else(|| default_of(schema, element, key)) {
                        identity.insert(key.to_string(), value);
                    }
                }
                (!identity.is_empty()).then(|| format!("k:{}", Value::Object(identity)))
            }
        }
    }
}

fn default_of(schema: &Schema, element: &Kind, key: &str) -> Option<Value> {
    match element {
        Kind::Message(id) => schema.field(*id, key)?.default.as_deref().cloned(),
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
                let element = format!("f:{name}");
                let (inner, declared) = kind.field(name);
                set.insert_below(&element, field_set(inner, value));
                let is_leaf = match inner.shape(value) {
                    Shape::Leaf => true,
                    Shape::Fields(fields) => fields.is_empty(),
                    Shape::Items(_) => false,
                };
                if is_leaf || !declared {
                    set.insert_element(&element);
                }
            }
        }
        Shape::Items(items) => {
            for item in items {
                let Some(element) = kind.identify(item) else { continue };
                set.insert_below(&element, field_set(kind.element(), item));
                set.insert_element(&element);
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

    fn below(&mut self, element: &str, inner: Comparison) {
        self.removed.insert_below(element, inner.removed);
        self.modified.insert_below(element, inner.modified);
        self.added.insert_below(element, inner.added);
    }

    /// Compares one field or element that at least one side has.
    fn visit(&mut self, kind: Type<'_>, element: &str, old: Option<&Value>, new: Option<&Value>) {
        let is_leaf = |value| matches!(kind.shape(value), Shape::Leaf);
        match (old, new) {
            (Some(old), Some(new)) if old == new => {}
            // A field that is always there is neither added nor removed itself.
            (Some(Value::Null), Some(value)) | (Some(value), Some(Value::Null)) if is_leaf(value) => {
                self.modified.insert_element(element);
            }
            (Some(old @ Value::Null), Some(new)) | (Some(old), Some(new @ Value::Null)) => {
                self.below(element, compare(kind, old, new));
            }
            (Some(Value::Null), None) | (None, Some(Value::Null)) => {}
            (Some(old), Some(new)) => {
                if !is_leaf(old) && !is_leaf(new) {
                    self.below(element, compare(kind, old, new));
                } else if is_leaf(old) == is_leaf(new) {
                    self.modified.insert_element(element);
                } else {
                    // The value became another kind of thing: all of the old is gone.
                    self.visit(kind, element, Some(old), None);
                    self.visit(kind, element, None, Some(new));
                }
            }
            (Some(old), None) => {
                self.below(element, compare(kind, old, &Value::Null));
                self.removed.insert_element(element);
            }
            (None, Some(new)) => {
                self.below(element, compare(kind, &Value::Null, new));
                self.added.insert_element(element);
            }
            (None, None) => {}
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
            comparison.visit(kind.field(name).0, &format!("f:{name}"), before, after);
        }
    }
}

fn compare_items(kind: Type<'_>, old: &[Value], new: &[Value], comparison: &mut Comparison) {
    let before = identified(kind, old);
    let after = identified(kind, new);
    let find =
        |list: &[(String, Value)], id: &str| list.iter().find(|(have, _)| have == id).map(|(_, item)| item.clone());
    for (id, item) in &before {
        comparison.visit(kind.element(), id, Some(item), find(&after, id).as_ref());
    }
    for (id, item) in &after {
        if find(&before, id).is_none() {
            comparison.visit(kind.element(), id, None, Some(item));
        }
    }
}

/// Elements with their identities. Elements that share one are compared together, as a list.
fn identified(kind: Type<'_>, items: &[Value]) -> Vec<(String, Value)> {
    let mut list: Vec<(String, Value)> = Vec::with_capacity(items.len());
    for item in items {
        let Some(id) = kind.identify(item) else { continue };
        match list.iter_mut().find(|(have, _)| *have == id) {
            Some((_, Value::Array(same))) => same.push(item.clone()),
            Some((_, first)) => *first = Value::Array(vec![first.take(), item.clone()]),
            None => list.push((id, item.clone())),
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

/// Takes the members of `set` out of a value. Fields and lists that become empty go too.
pub(super) fn remove(kind: Type<'_>, value: &Value, set: &FieldSet) -> Option<Value> {
    match kind.shape(value) {
        Shape::Leaf => Some(value.clone()),
        Shape::Fields(fields) if fields.is_empty() => Some(value.clone()),
        Shape::Items([]) => Some(value.clone()),
        Shape::Fields(fields) => {
            let mut rest = Map::new();
            for (name, value) in fields {
                let element = format!("f:{name}");
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
                        "{path}: element {number}: associative list with keys has an element that omits all key fields"
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
            field_set(Type::of_root(Some(&root)), &value).to_json(),
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
            field_set(Type::Deduced, &value).to_json(),
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
            result.modified.to_json(),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:image": {}}}}})
        );
        assert_eq!(
            result.removed.to_json(),
            json!({"f:metadata": {"f:labels": {"f:b": {}}}, "f:spec": {"f:hostname": {}}})
        );
        assert_eq!(
            result.added.to_json(),
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
            &json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:image": {}}, "k:{\"name\":\"d\"}": {}}}}),
        );
        assert_eq!(
            remove(Type::of_root(Some(&root)), &value, &set),
            Some(json!({"spec": {"containers": [{"name": "c"}]}}))
        );
    }

    #[test]
    fn repeated_elements_cannot_be_applied() {
        let root = pod();
        let value = json!({"spec": {"containers": [{"name": "c"}, {"name": "c"}]}});
        let error = check_lists(Type::of_root(Some(&root)), &value, "").unwrap_err();
        assert_eq!(error, ".spec.containers: duplicate entries for key [name=\"c\"]");
    }
}
