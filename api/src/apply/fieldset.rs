//! Sets of field paths: what a manager owns.
//!
//! The JSON form (`fieldsV1`) is a tree whose keys are path elements: `f:name`
//! a field or map key, `k:{"name":"web"}` a list element by its keys, `v:"x"` an
//! element of a set, `i:0` an element by position. `.` says that the path to
//! that point is itself a member; a leaf is a member without saying so.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value};

use crate::limits::FIELD_SET_DEPTH_MAX;

/// A set of paths as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeMap<Box<str>, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    pub fn new() -> FieldSet {
        FieldSet::default()
    }

    /// A set of the given paths of plain fields.
    pub fn of_fields(paths: &[&[&str]]) -> FieldSet {
        let mut set = FieldSet::new();
        for path in paths {
            let elements: Vec<String> = path.iter().map(|name| format!("f:{name}")).collect();
            set.insert(elements.iter().map(String::as_str));
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the path made of the given elements.
    pub fn insert<'a>(&mut self, path: impl IntoIterator<Item = &'a str>) {
        let mut set = self;
        let mut elements = path.into_iter().peekable();
        while let Some(element) = elements.next() {
            let node = set.0.entry(element.into()).or_default();
            if elements.peek().is_none() {
                node.member = true;
                return;
            }
            set = &mut node.below;
        }
    }

    /// Adds one element as a member of this level.
    pub(super) fn insert_element(&mut self, element: &str) {
        match self.0.get_mut(element) {
            Some(node) => node.member = true,
            None => {
                self.0.insert(element.into(), Node { member: true, below: FieldSet::new() });
            }
        }
    }

    /// Puts a whole set below an element; empty sets leave no trace.
    pub(super) fn insert_below(&mut self, element: &str, below: FieldSet) {
        if below.is_empty() {
            return;
        }
        match self.0.get_mut(element) {
            Some(node) => node.below.extend(below),
            None => {
                self.0.insert(element.into(), Node { member: false, below });
            }
        }
    }

    /// Whether an element of this level is a member.
    pub(super) fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// The set below an element.
    pub(super) fn below(&self, element: &str) -> Option<&FieldSet> {
        self.0.get(element).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Whether the path is a member.
    pub fn contains<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> bool {
        let mut set = self;
        let mut elements = path.into_iter().peekable();
        while let Some(element) = elements.next() {
            let Some(node) = set.0.get(element) else { return false };
            if elements.peek().is_none() {
                return node.member;
            }
            set = &node.below;
        }
        false
    }

    /// Adds all members of `other`.
    pub fn extend(&mut self, other: FieldSet) {
        for (element, node) in other.0 {
            match self.0.get_mut(&element) {
                Some(have) => {
                    have.member |= node.member;
                    have.below.extend(node.below);
                }
                None => {
                    self.0.insert(element, node);
                }
            }
        }
    }

    /// Members of either set.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut union = self.clone();
        union.extend(other.clone());
        union
    }

    /// Members of both sets.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet::new();
        for (element, node) in &self.0 {
            let Some(theirs) = other.0.get(element) else { continue };
            let node = Node { member: node.member && theirs.member, below: node.below.intersection(&theirs.below) };
            if !node.is_empty() {
                both.0.insert(element.clone(), node);
            }
        }
        both
    }

    /// Members of this set that are not members of `other`.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut rest = FieldSet::new();
        for (element, node) in &self.0 {
            let node = match other.0.get(element) {
                None => node.clone(),
                Some(theirs) => {
                    Node { member: node.member && !theirs.member, below: node.below.difference(&theirs.below) }
                }
            };
            if !node.is_empty() {
                rest.0.insert(element.clone(), node);
            }
        }
        rest
    }

    /// Like [`FieldSet::difference`], but a member of `other` takes everything below it along.
    pub fn recursive_difference(&self, other: &FieldSet) -> FieldSet {
        let mut rest = FieldSet::new();
        for (element, node) in &self.0 {
            let node = match other.0.get(element) {
                None => node.clone(),
                Some(theirs) if theirs.member => continue,
                Some(theirs) => Node { member: node.member, below: node.below.recursive_difference(&theirs.below) },
            };
            if !node.is_empty() {
                rest.0.insert(element.clone(), node);
            }
        }
        rest
    }

    /// Makes elements members when `is_named` says so for the path leading to
    /// them; `descend` gives the context of the next level.
    pub(super) fn with_named<T: Copy>(&self, context: T, step: &impl Fn(T, &str) -> (T, bool)) -> FieldSet {
        let mut named = FieldSet::new();
        for (element, node) in &self.0 {
            let (next, is_named) = step(context, element);
            let below = node.below.with_named(next, step);
            let member = node.member || (is_named && !node.below.is_empty());
            named.0.insert(element.clone(), Node { member, below });
        }
        named
    }

    /// All member paths in display form, such as `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &mut String, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let length = prefix.len();
            display(element, prefix);
            if node.member {
                paths.push(prefix.clone());
            }
            node.below.collect_paths(prefix, paths);
            prefix.truncate(length);
        }
    }

    /// Reads the JSON form. Malformed elements are left out, as an owner without
    /// a sensible path owns nothing there.
    pub fn from_json(value: &Value) -> FieldSet {
        FieldSet::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> FieldSet {
        let mut set = FieldSet::new();
        let Value::Object(entries) = value else { return set };
        if depth >= FIELD_SET_DEPTH_MAX {
            return set;
        }
        for (element, inner) in entries {
            let known = ["f:", "k:", "v:", "i:"].iter().any(|prefix| element.starts_with(prefix));
            let Value::Object(fields) = inner else { continue };
            if known {
                let member = fields.is_empty() || fields.contains_key(".");
                set.0.insert(element.as_str().into(), Node { member, below: FieldSet::read(inner, depth + 1) });
            }
        }
        set
    }

    /// Writes the JSON form.
    pub fn to_json(&self) -> Value {
        Value::Object(self.entries())
    }

    fn entries(&self) -> Map<String, Value> {
        let mut entries = Map::new();
        for (element, node) in &self.0 {
            let mut inner = node.below.entries();
            if node.member && !inner.is_empty() {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            entries.insert(element.to_string(), Value::Object(inner));
        }
        entries
    }
}

/// Appends an element as upstream prints it in conflicts.
fn display(element: &str, out: &mut String) {
    let (kind, rest) = element.split_at(2.min(element.len()));
    let text = |value: &Value| match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    // Writing to a String cannot fail.
    let _ = match kind {
        "f:" => write!(out, ".{rest}"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
            write!(out, "[{}]", keys.join(","))
        }
        "v:" => write!(out, "[={}]", serde_json::from_str::<Value>(rest).map_or(rest.to_owned(), |value| text(&value))),
        _ => write!(out, "[{rest}]"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_json(&value)
    }

    #[test]
    fn the_json_form_round_trips() {
        let value = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {".": {}, "v:\"a\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}}});
        assert_eq!(set(value.clone()).to_json(), value);
    }

    #[test]
    fn paths_print_as_in_conflicts() {
        let value = json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}, "f:x": {"v:\"a\"": {}, "i:3": {}}}});
        assert_eq!(
            set(value).paths(),
            [
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name",
                ".spec.x[3]",
                ".spec.x[=\"a\"]"
            ]
        );
    }

    #[test]
    fn set_algebra_works_on_members() {
        let a = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
        let b = set(json!({"f:a": {".": {}, "f:b": {}}, "f:e": {}}));
        assert_eq!(a.intersection(&b).to_json(), json!({"f:a": {".": {}, "f:b": {}}}));
        assert_eq!(a.difference(&b).to_json(), json!({"f:a": {"f:c": {}}, "f:d": {}}));
        assert_eq!(a.recursive_difference(&b).to_json(), json!({"f:d": {}}));
        assert_eq!(a.difference(&b).union(&a.intersection(&b)), a);
        assert!(a.contains(["f:a", "f:b"]) && !a.contains(["f:a", "f:x"]) && !b.contains(["f:d"]));
    }

    #[test]
    fn malformed_sets_own_nothing() {
        assert!(set(json!({"x": {}, "f:a": 5})).is_empty());
        let deep = (0..1000).fold(json!({}), |inner, _| json!({"f:a": inner}));
        let mut stack = &set(deep);
        let mut depth = 0;
        while let Some(below) = stack.below("f:a") {
            stack = below;
            depth += 1;
        }
        assert!(depth <= FIELD_SET_DEPTH_MAX);
    }
}
