//! Sets of field paths: what a manager owns.
//!
//! The JSON form (`fieldsV1`) is a tree whose keys are path elements: `f:name`
//! a field or map key, `k:{"name":"web"}` a list element by its keys, `v:"x"` an
//! element of a set, `i:0` an element by position. `.` says that the path to
//! that point is itself a member; a leaf is a member without saying so.
//!
//! A [`FieldSet`] is that tree: entries are read from objects and put back
//! without being built anew, and taking a few paths out of a large set or adding
//! them costs what the few paths cost.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::limits::FIELD_SET_DEPTH_MAX;

type Tree = Map<String, Value>;

/// Says of an inner node that it is a member.
const SELF: &str = ".";

/// A set of paths as a tree, always in canonical form: every value is an
/// object, `.` stands only beside other elements, and no branch is without members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(Tree);

/// What lies below an element: a set that is part of another one.
#[derive(Clone, Copy)]
pub(super) struct Below<'a>(&'a Tree);

fn has_children(node: &Tree) -> bool {
    node.len() > usize::from(node.contains_key(SELF))
}

fn is_member(node: &Value) -> bool {
    node.as_object().is_some_and(|node| node.is_empty() || node.contains_key(SELF))
}

/// A node of its children; `None` for a branch without members.
fn node(is_member: bool, mut children: Tree) -> Option<Value> {
    if is_member && !children.is_empty() {
        children.insert(SELF.to_owned(), Value::Object(Tree::new()));
    }
    (is_member || !children.is_empty()).then_some(Value::Object(children))
}

/// The element of a field or map key.
pub(super) fn field_element(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
}

/// Adds the members of `theirs` to a node.
fn unite(node: &mut Value, theirs: Value) {
    let member = is_member(node) || is_member(&theirs);
    let (Value::Object(mine), Value::Object(theirs)) = (node, theirs) else { return };
    for (element, below) in theirs.into_iter().filter(|(element, _)| element != SELF) {
        match mine.get_mut(&element) {
            Some(have) => unite(have, below),
            None => drop(mine.insert(element, below)),
        }
    }
    if member && !mine.is_empty() {
        mine.entry(SELF).or_insert_with(|| Value::Object(Tree::new()));
    }
}

/// Takes the members of `theirs` out of a tree; with `recursive` everything below them too.
fn subtract(tree: &mut Tree, theirs: &Tree, recursive: bool) {
    for (element, their) in theirs.iter().filter(|(element, _)| *element != SELF) {
        let Some(mine) = tree.get_mut(element) else { continue };
        let gone = is_member(their);
        if gone && recursive {
            tree.remove(element);
            continue;
        }
        let member = is_member(mine) && !gone;
        let (Value::Object(inner), Value::Object(their)) = (mine, their) else { continue };
        subtract(inner, their, recursive);
        if has_children(inner) {
            if !member {
                inner.remove(SELF);
            }
        } else if member {
            inner.clear();
        } else {
            tree.remove(element);
        }
    }
}

/// Brings a tree that somebody wrote into canonical form, leaving out what is malformed.
fn tidy(tree: &mut Tree, depth: usize) {
    tree.retain(|element, node| {
        if element == SELF {
            *node = Value::Object(Tree::new());
            return depth > 0;
        }
        let known = ["f:", "k:", "v:", "i:"].iter().any(|prefix| element.starts_with(prefix));
        let Value::Object(inner) = node else { return false };
        if !known || inner.is_empty() {
            return known;
        }
        let member = inner.contains_key(SELF);
        if depth + 1 < FIELD_SET_DEPTH_MAX {
            tidy(inner, depth + 1);
        } else {
            inner.clear();
        }
        let inhabited = has_children(inner);
        if !inhabited {
            inner.clear();
        }
        inhabited || member
    });
}

impl<'a> Below<'a> {
    /// Whether an element of this level is a member.
    pub(super) fn has(self, element: &str) -> bool {
        self.0.get(element).is_some_and(is_member)
    }

    /// The set below an element.
    pub(super) fn below(self, element: &str) -> Option<Below<'a>> {
        self.0.get(element).and_then(Value::as_object).filter(|below| has_children(below)).map(Below)
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
            let elements: Vec<String> = path.iter().map(|name| field_element(name)).collect();
            set.insert(elements.iter().map(String::as_str));
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the path made of the given elements.
    pub fn insert<'a>(&mut self, path: impl IntoIterator<Item = &'a str>) {
        let elements: Vec<&str> = path.into_iter().collect();
        let Some((last, way)) = elements.split_last() else { return };
        let mut path = FieldSet::new();
        path.put((*last).to_owned(), true, FieldSet::new());
        for element in way.iter().rev() {
            let below = std::mem::take(&mut path);
            path.put((*element).to_owned(), false, below);
        }
        self.extend(path);
    }

    /// Adds an element, itself a member or not, with a whole set below it; what is empty leaves no trace.
    pub(super) fn put(&mut self, element: String, is_member: bool, below: FieldSet) {
        let Some(node) = node(is_member, below.0) else { return };
        match self.0.get_mut(&element) {
            Some(have) => unite(have, node),
            None => drop(self.0.insert(element, node)),
        }
    }

    /// Makes an element of this level a member.
    pub(super) fn insert_element(&mut self, element: &str) {
        self.put(element.to_owned(), true, FieldSet::new());
    }

    /// Takes an element of this level out of the members; what is below it stays.
    pub(super) fn remove_element(&mut self, element: &str) {
        let mut only = FieldSet::new();
        only.insert_element(element);
        self.remove(&only);
    }

    /// Takes an element of this level out with everything below it.
    pub(super) fn remove_below(&mut self, element: &str) {
        self.0.remove(element);
    }

    /// The set, for walks along it.
    pub(super) fn view(&self) -> Below<'_> {
        Below(&self.0)
    }

    /// Whether an element of this level is a member.
    pub(super) fn has(&self, element: &str) -> bool {
        self.view().has(element)
    }

    /// Whether the path is a member.
    pub fn contains<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> bool {
        let mut set = self.view();
        let mut elements = path.into_iter().peekable();
        while let Some(element) = elements.next() {
            if elements.peek().is_none() {
                return set.has(element);
            }
            let Some(below) = set.below(element) else { return false };
            set = below;
        }
        false
    }

    /// Adds all members of `other`.
    pub fn extend(&mut self, other: FieldSet) {
        if self.0.is_empty() {
            *self = other;
            return;
        }
        for (element, node) in other.0 {
            match self.0.get_mut(&element) {
                Some(have) => unite(have, node),
                None => drop(self.0.insert(element, node)),
            }
        }
    }

    /// Takes all members of `other` out.
    pub fn remove(&mut self, other: &FieldSet) {
        subtract(&mut self.0, &other.0, false);
    }

    /// Like [`FieldSet::remove`], but a member of `other` takes everything below it along.
    pub fn remove_recursively(&mut self, other: &FieldSet) {
        subtract(&mut self.0, &other.0, true);
    }

    /// Members of either set.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut union = self.clone();
        union.extend(other.clone());
        union
    }

    /// Members of this set that are not members of `other`.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut rest = self.clone();
        rest.remove(other);
        rest
    }

    /// Members of both sets.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        FieldSet(intersect(&self.0, &other.0))
    }

    /// Makes elements members when `is_named` says so for the path leading to
    /// them; `descend` gives the context of the next level.
    pub(super) fn with_named<T: Copy>(&self, context: T, step: &impl Fn(T, &str) -> (T, bool)) -> FieldSet {
        FieldSet(named(&self.0, context, step))
    }

    /// All member paths in display form, such as `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect_paths(&self.0, &mut String::new(), &mut paths);
        paths
    }

    /// Reads the JSON form. Malformed elements are left out, as an owner without
    /// a sensible path owns nothing there.
    pub fn from_json(value: Value) -> FieldSet {
        let Value::Object(mut tree) = value else { return FieldSet::new() };
        tidy(&mut tree, 0);
        FieldSet(tree)
    }

    /// The JSON form.
    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }
}

fn intersect(mine: &Tree, theirs: &Tree) -> Tree {
    let mut both = Tree::new();
    for (element, my) in mine.iter().filter(|(element, _)| *element != SELF) {
        let Some(their) = theirs.get(element) else { continue };
        let below = match (my, their) {
            (Value::Object(mine), Value::Object(theirs)) => intersect(mine, theirs),
            _ => Tree::new(),
        };
        if let Some(node) = node(is_member(my) && is_member(their), below) {
            both.insert(element.clone(), node);
        }
    }
    both
}

fn named<T: Copy>(tree: &Tree, context: T, step: &impl Fn(T, &str) -> (T, bool)) -> Tree {
    let mut all = Tree::new();
    for (element, inner) in tree.iter().filter(|(element, _)| *element != SELF) {
        let (next, is_named) = step(context, element);
        let below = inner.as_object().map(|inner| named(inner, next, step)).unwrap_or_default();
        let member = is_member(inner) || (is_named && !below.is_empty());
        if let Some(node) = node(member, below) {
            all.insert(element.clone(), node);
        }
    }
    all
}

fn collect_paths(tree: &Tree, prefix: &mut String, paths: &mut Vec<String>) {
    for (element, node) in tree.iter().filter(|(element, _)| *element != SELF) {
        let length = prefix.len();
        display(element, prefix);
        if is_member(node) {
            paths.push(prefix.clone());
        }
        if let Value::Object(below) = node {
            collect_paths(below, prefix, paths);
        }
        prefix.truncate(length);
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
        FieldSet::from_json(value)
    }

    #[test]
    fn the_json_form_round_trips() {
        let value = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {".": {}, "v:\"a\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}}});
        assert_eq!(set(value.clone()).into_json(), value);
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
        assert_eq!(a.intersection(&b).into_json(), json!({"f:a": {".": {}, "f:b": {}}}));
        assert_eq!(a.difference(&b).into_json(), json!({"f:a": {"f:c": {}}, "f:d": {}}));
        let mut rest = a.clone();
        rest.remove_recursively(&b);
        assert_eq!(rest.into_json(), json!({"f:d": {}}));
        assert_eq!(a.difference(&b).union(&a.intersection(&b)), a);
        assert!(a.contains(["f:a", "f:b"]) && !a.contains(["f:a", "f:x"]) && !b.contains(["f:d"]));
    }

    #[test]
    fn sets_stay_canonical_whatever_is_taken_and_added() {
        let mut a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {"f:d": {}}}));
        a.remove(&set(json!({"f:a": {"f:b": {}}, "f:c": {"f:d": {}}})));
        assert_eq!(a.clone().into_json(), json!({"f:a": {}}), "a member alone is a leaf, a branch alone goes");
        a.extend(set(json!({"f:a": {"f:x": {}}})));
        assert_eq!(a.clone().into_json(), json!({"f:a": {".": {}, "f:x": {}}}), "a member stays one");
        a.remove(&set(json!({"f:a": {}})));
        assert_eq!(a.clone().into_json(), json!({"f:a": {"f:x": {}}}));
        a.extend(set(json!({"f:a": {}})));
        assert_eq!(a, set(json!({"f:a": {".": {}, "f:x": {}}})));
        assert_eq!(set(json!({"f:a": {".": {}}, "f:b": {"x": 1}, ".": {}})).into_json(), json!({"f:a": {}}));
    }

    #[test]
    fn malformed_sets_own_nothing() {
        assert!(set(json!({"x": {}, "f:a": 5})).is_empty());
        let deep = (0..1000).fold(json!({}), |inner, _| json!({"f:a": inner}));
        let deep = set(deep);
        let mut stack = deep.view();
        let mut depth = 0;
        while let Some(below) = stack.below("f:a") {
            stack = below;
            depth += 1;
        }
        assert!(depth <= FIELD_SET_DEPTH_MAX);
    }
}
