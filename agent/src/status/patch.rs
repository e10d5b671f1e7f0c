//! Turns a generated status into a patch that leaves other writers' fields alone.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::ResizeCondition;
use crate::pods::spec;

/// Fields that the node owns and that must vanish when it no longer sets them.
const CLEARED: [&str; 4] = ["reason", "message", "podIP", "resize"];

/// A strategic merge patch of `pods/status`, or `None` when nothing would change.
pub(super) fn patch(pod: &Pod, status: &PodStatus) -> Option<Value> {
    let old = pod.status.as_ref();
    let mut new = serde_json::to_value(status).ok()?;
    let old_value = serde_json::to_value(old).ok()?;
    if is_covered(&new, &old_value)
        && vanished(&new, &old_value).is_empty()
        && CLEARED.iter().all(|name| new.get(name).is_some() || old_value.get(name).is_none())
    {
        return None;
    }
    for name in CLEARED {
        if new.get(name).is_none() && old_value.get(name).is_some() {
            new[name] = Value::Null;
        }
    }
    let gone = vanished(&new, &old_value);
    // Lists merged by key keep what a patch does not mention.
    for condition in new["conditions"].as_array_mut().into_iter().flatten() {
        for name in ["reason", "message"] {
            if condition.get(name).is_none() && condition.get("$patch").is_none() {
                condition[name] = Value::Null;
            }
        }
    }
    if let Some(conditions) = new["conditions"].as_array_mut() {
        conditions.extend(gone);
    }
    for (list, key) in [("podIPs", "ip"), ("hostIPs", "ip")] {
        let gone: Vec<Value> = old_value[list]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|entry| !new[list].as_array().into_iter().flatten().any(|have| have[key] == entry[key]))
            .map(|entry| json!({"$patch": "delete", key: entry[key]}))
            .collect();
        if !gone.is_empty() {
            let mut entries = new[list].as_array().cloned().unwrap_or_default();
            entries.extend(gone);
            new[list] = Value::Array(entries);
        }
    }
    if spec::is_static(pod) {
        // The mirror object has a uid of its own.
        return Some(json!({"status": new}));
    }
    Some(json!({"metadata": {"uid": spec::uid(pod)}, "status": new}))
}

/// Conditions that the node sets only for a while and that no longer hold, as deletions.
fn vanished(new: &Value, old: &Value) -> Vec<Value> {
    let has = |status: &Value, name: &str| {
        status["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == name)
    };
    let kinds = [ResizeCondition::PENDING, ResizeCondition::IN_PROGRESS];
    let gone = kinds.into_iter().filter(|name| has(old, name) && !has(new, name));
    gone.map(|name| json!({"$patch": "delete", "type": name})).collect()
}

/// Whether `old` already says everything that `new` says.
fn is_covered(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => new.iter().all(|(key, value)| match (key.as_str(), old.get(key)) {
            ("conditions", Some(old)) => conditions_covered(value, old),
            (_, Some(old)) => value == old,
            (_, None) => value.is_null(),
        }),
        _ => new == old,
    }
}

fn conditions_covered(new: &Value, old: &Value) -> bool {
    let old = old.as_array().map(Vec::as_slice).unwrap_or_default();
    new.as_array().into_iter().flatten().all(|condition| {
        let same = old.iter().find(|have| have["type"] == condition["type"]);
        same.is_some_and(|have| {
            ["status", "reason", "message", "observedGeneration"].iter().all(|field| have[field] == condition[field])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": status})).unwrap()
    }

    #[test]
    fn an_unchanged_status_is_not_written_again() {
        let status = json!({"phase": "Running", "nominatedNodeName": "other",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Mine", "status": "False"}]});
        let own: PodStatus =
            serde_json::from_value(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}))
                .unwrap();
        assert_eq!(patch(&pod(status), &own), None);
    }

    #[test]
    fn what_the_node_no_longer_says_is_cleared() {
        let old = json!({"phase": "Pending", "reason": "X", "podIPs": [{"ip": "1.1.1.1"}], "podIP": "1.1.1.1",
            "conditions": [{"type": "Ready", "status": "False", "reason": "R"}]});
        let own: PodStatus = serde_json::from_value(json!({"phase": "Running", "podIPs": [{"ip": "2.2.2.2"}],
            "podIP": "2.2.2.2", "conditions": [{"type": "Ready", "status": "True"}]}))
        .unwrap();
        let patch = patch(&pod(old), &own).unwrap();
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"]["reason"], Value::Null);
        assert!(patch["status"].as_object().unwrap().contains_key("reason"));
        assert_eq!(patch["status"]["conditions"][0]["reason"], Value::Null);
        assert_eq!(patch["status"]["podIPs"], json!([{"ip": "2.2.2.2"}, {"$patch": "delete", "ip": "1.1.1.1"}]));
    }
}
