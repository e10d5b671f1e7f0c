//! Strategic merge patch: a merge patch that knows which lists are keyed.
//!
//! The schema says which lists merge and by which key; the patch may steer with
//! directives: `$patch: replace|delete` in objects and list elements,
//! `$deleteFromPrimitiveList/x`, `$setElementOrder/x` and `$retainKeys`. Order
//! follows upstream: patched elements take the order of the patch (or of
//! `$setElementOrder`), elements only the server knows keep their place
//! relative to those of the old list.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Kind, Root, Schema};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of the root's kind.
pub fn apply(root: &Root, target: Value, patch: Value) -> Result<Value, PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(PatchError::Malformed("Invalid JSON document".to_owned()));
    };
    let kind = Kind::Message(root.id);
    let merge = Merge { schema: &root.schema };
    merge.object(target, patch, Some(&kind)).map(Value::Object)
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

/// How one list merges.
#[derive(Clone, Copy, Default)]
struct ListRule<'a> {
    merge: bool,
    key: Option<&'a str>,
    element: Option<&'a Kind>,
}

struct Merge<'a> {
    schema: &'a Schema,
}

impl<'a> Merge<'a> {
    /// Type and strategy of a field of an object of this kind.
    fn child(&self, kind: Option<&'a Kind>, name: &str) -> (Option<&'a Kind>, Option<&'a Field>) {
        match kind {
            Some(Kind::Message(id)) => match self.schema.field(*id, name) {
                Some(field) => (Some(&field.kind), Some(field)),
                None => (None, None),
            },
            Some(Kind::Map { value, .. }) => (Some(value), None),
            _ => (None, None),
        }
    }

    fn list_rule(&self, kind: Option<&'a Kind>, name: &str) -> ListRule<'a> {
        let (kind, field) = self.child(kind, name);
        let element = match kind {
            Some(Kind::List { element, .. }) => Some(&**element),
            _ => None,
        };
        let merge = field.is_some_and(|field| field.patch.merge);
        ListRule { merge, key: field.and_then(|field| field.merge_key.as_deref()), element }
    }

    fn object(&self, mut target: Object, mut patch: Object, kind: Option<&'a Kind>) -> Result<Object, PatchError> {
        match patch.remove(DIRECTIVE) {
            None => {}
            Some(Value::String(directive)) if directive == "replace" => return Ok(patch),
            Some(Value::String(directive)) if directive == "delete" => return Ok(Object::new()),
            Some(other) => {
                return Err(malformed(format!("unknown patch type found: {}", plain(&other))));
            }
        }
        retain_keys(&mut target, &mut patch)?;
        self.ordered_lists(&mut target, &mut patch, kind)?;
        for (name, change) in patch {
            if let Some(list) = name.strip_prefix(DELETE_PREFIX) {
                delete_from_list(&mut target, list, &change)?;
                continue;
            }
            if change.is_null() {
                target.remove(&name);
                continue;
            }
            let merged = match (target.remove(&name), change) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let (child, field) = self.child(kind, &name);
                    if field.is_some_and(|field| field.patch.replace) {
                        Value::Object(new)
                    } else {
                        Value::Object(self.object(old, new, child)?)
                    }
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    let rule = self.list_rule(kind, &name);
                    if rule.merge { Value::Array(self.list(old, new, rule)?) } else { Value::Array(new) }
                }
                (_, change) => without_directives(change),
            };
            target.insert(name, merged);
        }
        Ok(target)
    }

    /// Handles `$setElementOrder/x` together with the patch of `x`, and takes both out of the patch.
    fn ordered_lists(&self, target: &mut Object, patch: &mut Object, kind: Option<&'a Kind>) -> Result<(), PatchError> {
        let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER_PREFIX)).cloned().collect();
        for directive in directives {
            let name = directive[ORDER_PREFIX.len()..].to_owned();
            let Some(Value::Array(order)) = patch.remove(&directive) else {
                return Err(malformed("invalid patch format of setElementOrder list"));
            };
            let rule = self.list_rule(kind, &name);
            let old = match target.get(&name) {
                Some(Value::Array(old)) => Some(old.clone()),
                _ => None,
            };
            let change = match patch.remove(&name) {
                Some(Value::Array(change)) => Some(change),
                // A null or replaced list has no order to keep.
                Some(other) => {
                    patch.insert(name, other);
                    continue;
                }
                None => None,
            };
            if let Some(change) = &change {
                check_order(change, &order, rule.key)?;
            }
            let merged = match (old.clone(), change) {
                (None, None) => continue,
                (Some(old), None) => old,
                (None, Some(change)) => list_without_directives(change),
                (Some(old), Some(change)) if rule.merge => self.list(old, change, rule)?,
                (Some(_), Some(change)) => change,
            };
            let old = old.unwrap_or_default();
            target.insert(name, Value::Array(reorder(merged, &order, &old, rule.key)));
        }
        Ok(())
    }

    /// Merges a list whose elements are objects with a key, or distinct scalars.
    fn list(&self, old: Vec<Value>, change: Vec<Value>, rule: ListRule<'a>) -> Result<Vec<Value>, PatchError> {
        let of_objects = old.iter().chain(&change).next().is_some_and(Value::is_object);
        if old.iter().chain(&change).any(|item| item.is_object() != of_objects || item.is_array()) {
            return Err(malformed("list element types are not identical"));
        }
        if !of_objects {
            let mut merged = old.clone();
            for item in &change {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            merged.dedup();
            return Ok(reorder(merged, &change, &old, None));
        }
        let Some(key) = rule.key else {
            return Err(malformed("cannot merge lists without merge key"));
        };
        let (mut merged, change) = list_directives(old.clone(), change, key)?;
        for item in &change {
            let Value::Object(fields) = item else { continue };
            let Some(id) = fields.get(key) else {
                return Err(PatchError::Unprocessable(format!(
                    "map: {item} does not contain declared merge key: {key}"
                )));
            };
            match merged.iter_mut().find(|have| have.get(key) == Some(id)) {
                Some(have) => {
                    let Value::Object(old) = have.take() else { continue };
                    *have = Value::Object(self.object(old, fields.clone(), rule.element)?);
                }
                None => merged.push(without_directives(item.clone())),
            }
        }
        Ok(reorder(merged, &change, &old, Some(key)))
    }
}

/// Applies `$patch` elements of a list patch; returns the list and the plain patch elements.
fn list_directives(mut old: Vec<Value>, change: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::with_capacity(change.len());
    let mut replace = false;
    for item in change {
        match item.get(DIRECTIVE).map(plain).as_deref() {
            None => rest.push(item),
            Some("delete") => {
                let id = item.get(key).ok_or_else(|| malformed("delete patch type with no merge key defined"))?;
                old.retain(|have| have.get(key) != Some(id));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(malformed("merging lists cannot yet be specified in the patch")),
            Some(other) => return Err(malformed(format!("unknown patch type found: {other}"))),
        }
    }
    if replace {
        let list = list_without_directives(rest);
        return Ok((list.clone(), list));
    }
    Ok((old, rest))
}

/// `$retainKeys`: fields of the target that it does not name disappear.
fn retain_keys(target: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else {
        return Err(malformed("invalid patch format of retainKeys"));
    };
    let named = |name: &str| keys.iter().any(|key| key == name);
    let directive = |name: &str| name.starts_with(DELETE_PREFIX) || name.starts_with(ORDER_PREFIX);
    if patch.iter().any(|(name, value)| !value.is_null() && !directive(name) && !named(name)) {
        return Err(malformed("invalid patch format of retainKeys"));
    }
    target.retain(|name, _| named(name));
    Ok(())
}

fn delete_from_list(target: &mut Object, name: &str, values: &Value) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return Err(malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(items)) = target.get_mut(name) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Elements of the patch must appear in the order the directive gives them.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut at = 0;
    for item in change.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        match order[at..].iter().position(|ordered| same(ordered, item, key)) {
            Some(found) => at += found + 1,
            None => {
                return Err(malformed(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    Value::from(change.to_vec()),
                    Value::from(order.to_vec())
                )));
            }
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Elements named by `order` take its order; the others keep the order of `old`
/// and their place relative to the elements both lists know.
fn reorder(items: Vec<Value>, order: &[Value], old: &[Value], key: Option<&str>) -> Vec<Value> {
    let rank = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut ordered, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| rank(order, item).is_some());
    ordered.sort_by_key(|item| rank(order, item));
    others.sort_by_key(|item| rank(old, item).unwrap_or(usize::MAX));
    let mut merged = Vec::with_capacity(ordered.len() + others.len());
    let (mut ordered, mut others) = (ordered.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), ordered.peek()) {
            (None, None) => return merged,
            (None, Some(_)) => false,
            (Some(_), None) => true,
            (Some(other), Some(next)) => match (rank(old, other), rank(old, next)) {
                (Some(other), Some(next)) => other < next,
                _ => false,
            },
        };
        merged.extend(if other_first { others.next() } else { ordered.next() });
    }
}

/// A part of a patch that becomes content: directives and nulls say nothing there.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
            Value::Object(fields.map(|(name, value)| (name, without_directives(value))).collect())
        }
        Value::Array(items) => Value::Array(list_without_directives(items)),
        other => other,
    }
}

fn list_without_directives(items: Vec<Value>) -> Vec<Value> {
    let is_content = |item: &Value| item.get(DIRECTIVE).is_none_or(|directive| directive == "merge");
    items.into_iter().filter(is_content).map(without_directives).collect()
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_PREFIX) || name.starts_with(ORDER_PREFIX)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupVersionKind;
    use serde_json::json;

    fn patch(api_version: &str, kind: &str, target: Value, change: Value) -> Result<Value, PatchError> {
        let root = Root::for_kind(&GroupVersionKind::parse(api_version, kind)).unwrap();
        apply(&root, target, change)
    }

    fn pod(target: Value, change: Value) -> Value {
        patch("v1", "Pod", target, change).unwrap()
    }

    #[test]
    fn keyed_lists_merge_by_key_and_new_elements_come_first_as_patched() {
        let target = json!({"spec": {"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "x"}]}, {"name": "b", "image": "2"}]}});
        let change = json!({"spec": {"containers": [
            {"name": "a", "image": "9", "env": [{"name": "Y", "value": "y"}]}, {"name": "c"}]}});
        let have = pod(target, change);
        assert_eq!(
            have["spec"]["containers"],
            json!([{"name": "a", "image": "9", "env": [{"name": "Y", "value": "y"}, {"name": "X", "value": "x"}]},
                {"name": "c"}, {"name": "b", "image": "2"}])
        );
    }

    #[test]
    fn atomic_lists_and_other_types_are_replaced() {
        let have = pod(
            json!({"spec": {"tolerations": [{"key": "a"}], "hostname": "x"}}),
            json!({"spec": {"tolerations": [{"key": "b"}], "hostname": null, "priority": 1}}),
        );
        assert_eq!(have, json!({"spec": {"tolerations": [{"key": "b"}], "priority": 1}}));
    }

    #[test]
    fn directives_delete_and_replace() {
        let target = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a"}, {"name": "b"}],
            "securityContext": {"runAsUser": 1}, "volumes": [{"name": "v"}]}});
        let change = json!({"metadata": {"labels": {"$patch": "replace", "z": "2"}},
            "spec": {"containers": [{"name": "a", "$patch": "delete"}], "securityContext": {"$patch": "delete"},
                "volumes": [{"$patch": "replace"}, {"name": "w"}]}});
        let have = pod(target, change);
        assert_eq!(
            have,
            json!({"metadata": {"labels": {"z": "2"}}, "spec": {"containers": [{"name": "b"}], "securityContext": {},
                "volumes": [{"name": "w"}]}})
        );
    }

    #[test]
    fn primitive_lists_merge_as_sets_and_delete_by_value() {
        let target = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
        let change = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"]}});
        let have = pod(target, change);
        let mut finalizers: Vec<String> = serde_json::from_value(have["metadata"]["finalizers"].clone()).unwrap();
        finalizers.sort();
        assert_eq!(finalizers, ["a", "c", "d"]);
    }

    #[test]
    fn set_element_order_arranges_the_merged_list() {
        let target = json!({"spec": {"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}]}});
        let change = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c", "image": "i"}]}});
        let have = pod(target.clone(), change);
        let names: Vec<&str> =
            have["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["x", "b", "c", "a"]);
        let only_order = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
        let have = pod(target.clone(), only_order);
        assert_eq!(have["spec"]["containers"], json!([{"name": "x"}, {"name": "b"}, {"name": "a"}]));
        let wrong = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
            "containers": [{"name": "b"}, {"name": "a"}]}});
        assert!(patch("v1", "Pod", target, wrong).is_err());
    }

    #[test]
    fn retain_keys_clears_the_other_union_members() {
        let target = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let change = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        let have = patch("apps/v1", "Deployment", target.clone(), change).unwrap();
        assert_eq!(have["spec"]["strategy"], json!({"type": "Recreate"}));
        let wrong = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "a", "rollingUpdate": {}}}});
        assert!(patch("apps/v1", "Deployment", target, wrong).is_err());
    }

    #[test]
    fn a_replace_field_replaces_the_whole_structure() {
        let have = patch(
            "policy/v1",
            "PodDisruptionBudget",
            json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}}),
            json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}),
        )
        .unwrap();
        assert_eq!(have["spec"]["selector"], json!({"matchLabels": {"b": "2"}}));
    }

    #[test]
    fn a_last_applied_patch_of_kubectl_is_idempotent() {
        let target = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}});
        let change = json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "image": "2", "$setElementOrder/ports": [{"containerPort": 80}], "ports": [{"containerPort": 80, "name": "web"}]}]}}}});
        let once = patch("apps/v1", "Deployment", target, change.clone()).unwrap();
        assert_eq!(
            once["spec"]["template"]["spec"]["containers"][0]["ports"],
            json!([{"containerPort": 80, "protocol": "TCP", "name": "web"}])
        );
        assert_eq!(patch("apps/v1", "Deployment", once.clone(), change).unwrap(), once);
    }

    #[test]
    fn malformed_patches_are_refused() {
        let target = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"finalizers": ["a"]}});
        for change in [
            json!({"$patch": "merge"}),
            json!({"spec": {"containers": [{"image": "x"}]}}),
            json!({"spec": {"containers": [{"$patch": "delete"}]}}),
            json!({"spec": {"containers": ["x"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
            json!({"spec": {"$retainKeys": "x"}}),
        ] {
            assert!(patch("v1", "Pod", target.clone(), change.clone()).is_err(), "{change}");
        }
    }

    #[test]
    fn new_content_carries_no_directives_or_nulls() {
        let have = pod(json!({}), json!({"spec": {"$retainKeys": ["hostname"], "hostname": "x", "subdomain": null}}));
        assert_eq!(have, json!({"spec": {"hostname": "x"}}));
    }
}
