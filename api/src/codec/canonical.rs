//! The two forms of an object that are equal in Go but not in JSON.
//!
//! Upstream's types cannot tell an unset field from a zero one unless it is a
//! pointer. [`minimize`] leaves such zero values out, so that defaulting sees
//! one form; [`canonicalize`] gives the form that upstream prints and stores:
//! empty optional fields are left out, structures and required fields that Go
//! always prints are filled in.

use serde_json::{Map, Value, json};

use crate::schema::{Field, Kind, MessageId, Root, Scalar, Schema};

/// Leaves out zero values that upstream's types cannot tell from absent ones.
/// Fields that are pointers upstream, and all fields of custom resources, stay.
pub fn minimize(root: &Root, value: &mut Value) {
    if let Value::Object(fields) = value {
        minimal_message(&root.schema, root.id, fields);
    }
}

fn minimal_message(schema: &Schema, id: MessageId, fields: &mut Map<String, Value>) {
    fields.retain(|name, value| {
        let Some(field) = schema.field(id, name) else { return true };
        minimal_kind(schema, &field.kind, value);
        field.pointer
            || match (&field.kind, &*value) {
                (Kind::Message(_), value) => value.as_object().is_none_or(|inner| !inner.is_empty()),
                // A present empty list and an absent one print differently when both are printed.
                (Kind::List { .. } | Kind::Map { .. }, _) => !(field.omit_empty && is_empty(&field.kind, value)),
                (Kind::Scalar(Scalar::Quantity), value) => value != "0",
                (Kind::Scalar(Scalar::IntOrString), value) => value != 0,
                (Kind::Scalar(_), value) => !is_empty(&field.kind, value),
            }
    });
}

fn minimal_kind(schema: &Schema, kind: &Kind, value: &mut Value) {
    match (kind, value) {
        (Kind::Message(id), Value::Object(fields)) => minimal_message(schema, *id, fields),
        (Kind::List { element, .. }, Value::Array(items)) => {
            items.iter_mut().for_each(|item| minimal_kind(schema, element, item));
        }
        (Kind::Map { value: element, .. }, Value::Object(entries)) => {
            entries.values_mut().for_each(|item| minimal_kind(schema, element, item));
        }
        _ => {}
    }
}

/// Puts an object into the form in which upstream prints it. The value must
/// conform to the schema; schemaless and custom objects are left alone.
pub fn canonicalize(root: &Root, value: &mut Value) {
    if let Value::Object(fields) = value {
        canonical_message(&root.schema, root.id, fields);
    }
}

fn canonical_message(schema: &Schema, id: MessageId, fields: &mut Map<String, Value>) {
    for field in schema.fields(id) {
        let name = field.json.as_ref();
        match fields.get_mut(name) {
            Some(value) => {
                canonical_kind(schema, &field.kind, value);
                if field.omit_empty && !field.pointer && is_empty(&field.kind, value) {
                    match filler(schema, field) {
                        Some(filler) => *value = filler,
                        None => drop(fields.remove(name)),
                    }
                }
            }
            None => {
                if let Some(filler) = filler(schema, field) {
                    fields.insert(name.to_owned(), filler);
                }
            }
        }
    }
}

fn canonical_kind(schema: &Schema, kind: &Kind, value: &mut Value) {
    match (kind, value) {
        (Kind::Message(id), Value::Object(fields)) => canonical_message(schema, *id, fields),
        (Kind::List { element, .. }, Value::Array(items)) => {
            items.iter_mut().for_each(|item| canonical_kind(schema, element, item));
        }
        (Kind::Map { value: element, .. }, Value::Object(entries)) => {
            entries.values_mut().for_each(|item| canonical_kind(schema, element, item));
        }
        _ => {}
    }
}

/// Whether Go's `omitempty` leaves the value out.
fn is_empty(kind: &Kind, value: &Value) -> bool {
    match (kind, value) {
        (_, Value::Null) => true,
        (Kind::Scalar(Scalar::String | Scalar::Bytes), Value::String(text)) => text.is_empty(),
        (Kind::Scalar(Scalar::Bool), Value::Bool(flag)) => !flag,
        (Kind::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double), Value::Number(number)) => {
            number.as_f64() == Some(0.0)
        }
        (Kind::List { .. }, Value::Array(items)) => items.is_empty(),
        (Kind::Map { .. }, Value::Object(entries)) => entries.is_empty(),
        _ => false,
    }
}

/// What Go prints for an absent field, if it prints it.
fn filler(schema: &Schema, field: &Field) -> Option<Value> {
    match (&field.kind, field.pointer) {
        (_, true) => (!field.omit_empty).then_some(Value::Null),
        // `omitempty` does not apply to structures.
        (Kind::Message(id), false) => {
            let mut fields = Map::new();
            canonical_message(schema, *id, &mut fields);
            Some(Value::Object(fields))
        }
        (Kind::Scalar(scalar @ (Scalar::Quantity | Scalar::IntOrString | Scalar::Duration)), false) => {
            Some(zero(*scalar))
        }
        // Times are structures too; only this one is tagged to be left out when zero.
        (Kind::Scalar(Scalar::Time | Scalar::MicroTime), false) => {
            (field.json != "creationTimestamp").then_some(Value::Null)
        }
        (Kind::Scalar(scalar), false) => (!field.omit_empty).then(|| zero(*scalar)),
        (Kind::List { .. } | Kind::Map { .. }, false) => (!field.omit_empty).then_some(Value::Null),
    }
}

/// What Go prints for an unset value; `null` where it prints that.
pub(super) fn zero(scalar: Scalar) -> Value {
    match scalar {
        Scalar::String => json!(""),
        Scalar::Bool => json!(false),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => json!(0),
        Scalar::Quantity => json!("0"),
        Scalar::Duration => json!("0s"),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupVersionKind;

    fn root(group: &str, version: &str, kind: &str) -> Root {
        let gvk = GroupVersionKind::parse(&crate::group_version::api_version(group, version), kind);
        Root::for_kind(&gvk).unwrap()
    }

    #[test]
    fn canonical_form_is_what_go_prints() {
        let role = root("rbac.authorization.k8s.io", "v1", "Role");
        let mut value = json!({"metadata": {"name": "r", "labels": {}}});
        canonicalize(&role, &mut value);
        assert_eq!(value, json!({"metadata": {"name": "r"}, "rules": null}));

        let service = root("", "v1", "Service");
        let mut value = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "name": ""}], "publishNotReadyAddresses": false}});
        canonicalize(&service, &mut value);
        assert_eq!(value["status"], json!({"loadBalancer": {}}));
        assert_eq!(value["spec"], json!({"ports": [{"port": 80, "targetPort": 0}]}));

        let deployment = root("apps", "v1", "Deployment");
        let mut value =
            json!({"spec": {"replicas": 0, "paused": false, "template": {"spec": {"containers": [{"name": "c"}]}}}});
        canonicalize(&deployment, &mut value);
        assert_eq!(value["spec"]["replicas"], 0, "a set pointer to zero stays");
        assert_eq!(value["spec"]["strategy"], json!({}));
        assert_eq!(value["spec"]["selector"], Value::Null);
        assert_eq!(value["spec"]["template"]["spec"]["containers"][0], json!({"name": "c", "resources": {}}));
        assert_eq!(value["spec"]["template"]["metadata"], json!({}));
        assert!(value["spec"].get("paused").is_none());
    }

    #[test]
    fn times_that_are_unset_print_as_null() {
        let mut event = json!({"metadata": {"name": "e"}});
        canonicalize(&root("", "v1", "Event"), &mut event);
        assert_eq!((&event["eventTime"], &event["firstTimestamp"]), (&Value::Null, &Value::Null));
        assert!(event.as_object().unwrap().contains_key("lastTimestamp"));
        assert!(event["metadata"].get("creationTimestamp").is_none());
        let mut pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        canonicalize(&root("", "v1", "Pod"), &mut pod);
        assert_eq!(pod["status"]["conditions"][0]["lastProbeTime"], Value::Null);
        assert!(pod["status"].get("startTime").is_none(), "a pointer is left out");
    }

    #[test]
    fn the_minimal_form_is_the_same_whatever_zeros_were_sent() {
        let pod = root("", "v1", "Pod");
        let mut long = json!({"metadata": {}, "spec": {"hostNetwork": false, "priority": 0, "nodeSelector": {}, "containers": [{"name": "c", "resources": {}, "stdin": false}]}, "status": {}});
        minimize(&pod, &mut long);
        assert_eq!(long, json!({"spec": {"priority": 0, "containers": [{"name": "c"}]}}));
        let mut canonical = long.clone();
        canonicalize(&pod, &mut canonical);
        let mut again = canonical.clone();
        canonicalize(&pod, &mut again);
        assert_eq!(again, canonical);
        minimize(&pod, &mut canonical);
        assert_eq!(canonical, long);
    }
}
