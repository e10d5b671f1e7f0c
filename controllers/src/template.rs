//! Pod templates in raw form: pods made from them, and their comparison and hash.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::Object;

use crate::write::controller_reference;

/// Label that tells the pods of one template of a Deployment from those of others.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Letters and digits that cannot form words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest part of a pod's name before its random end.
const BASE_LEN_MAX: usize = 58;

/// A fresh name for the `index`th pod that `owner` gets at `now`, as the API
/// server would generate it; chosen here so that events can name the pod.
pub fn pod_name(owner: &Object, now: Timestamp, index: usize) -> String {
    let seed = format!("{}/{}/{index}", owner.meta.uid, now.as_nanosecond());
    let mut hash = seed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash ^= hash >> 29;
    let mut base = format!("{}-", owner.meta.name);
    base.truncate(BASE_LEN_MAX);
    for _ in 0..5 {
        base.push(ALPHABET[(hash % ALPHABET.len() as u64) as usize] as char);
        hash /= ALPHABET.len() as u64;
    }
    base
}

/// A pod of a template, owned by `owner`.
pub fn pod(owner: &Object, template: &Value, name: &str) -> Value {
    let from = &template["metadata"];
    let mut metadata = json!({
        "name": name,
        "generateName": format!("{}-", owner.meta.name),
        "namespace": owner.meta.namespace,
        "ownerReferences": [controller_reference(owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !from[field].is_null() {
            metadata[field] = from[field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Whether two templates make the same pods, whatever hash label they carry.
pub fn is_equal(a: &Value, b: &Value) -> bool {
    comparable(a) == comparable(b)
}

/// A template without what does not count: nulls, the hash label, the creation time.
pub fn comparable(template: &Value) -> Value {
    let mut template = without_nulls(template);
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(POD_TEMPLATE_HASH);
        }
    }
    template
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// Hash of a template. It names objects in users' clusters: it must never change.
pub fn hash(template: &Value, collision_count: i32) -> String {
    let mut text = String::new();
    write_sorted(&comparable(template), &mut text);
    let mut hash = fnv1a(0x811c_9dc5, text.as_bytes());
    if collision_count > 0 {
        hash = fnv1a(hash, &collision_count.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

/// JSON with sorted keys, whatever order the map type keeps.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_sorted(&fields[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_sorted(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Writes text with letters and digits that cannot form words.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| ALPHABET[byte as usize % ALPHABET.len()] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_stable_and_blind_to_nulls_and_its_own_label() {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}});
        let marked = json!({"metadata": {"creationTimestamp": null, "labels": {"app": "web", POD_TEMPLATE_HASH: "x"}},
            "spec": {"containers": [{"name": "c"}]}});
        assert_eq!(hash(&template, 0), hash(&marked, 0));
        assert!(is_equal(&template, &marked));
        assert_ne!(hash(&template, 0), hash(&template, 1));
        // Recorded once; a change would rename every ReplicaSet of every user.
        assert_eq!(hash(&template, 0), "85bfc5d8f5");
    }

    #[test]
    fn a_changed_container_is_another_template() {
        let a = json!({"spec": {"containers": [{"image": "a"}]}});
        let b = json!({"spec": {"containers": [{"image": "b"}]}});
        assert!(!is_equal(&a, &b));
    }
}
