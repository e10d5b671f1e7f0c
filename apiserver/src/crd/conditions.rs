//! The status of a definition.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::meta::time_text;

/// The status a definition must show; equal to the present one when nothing changed.
pub fn status(definition: &Value, conflict: Option<&str>, now: Timestamp) -> Value {
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let (accepted, established) = match conflict {
        None => (
            ("True", "NoConflicts", "no conflicts found"),
            ("True", "InitialNamesAccepted", "the initial names have been accepted"),
        ),
        Some(why) => (("False", "KindConflict", why), ("False", "NotAccepted", "not all names are accepted")),
    };
    set_condition(&mut status, "NamesAccepted", accepted, now);
    set_condition(&mut status, "Established", established, now);
    if conflict.is_none() {
        status["acceptedNames"] = definition["spec"]["names"].clone();
    } else if !status["acceptedNames"].is_object() {
        status["acceptedNames"] = json!({"kind": "", "plural": ""});
    }
    let mut versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let current = versions.find(|version| version["storage"] == true).map(|version| version["name"].clone());
    let mut stored = status["storedVersions"].as_array().cloned().unwrap_or_default();
    if let Some(current) = current.filter(|current| !stored.contains(current)) {
        stored.push(current);
    }
    status["storedVersions"] = Value::Array(stored);
    status
}

fn set_condition(status: &mut Value, name: &str, wanted: (&str, &str, &str), now: Timestamp) {
    let (state, reason, message) = wanted;
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let found = conditions.iter_mut().find(|condition| condition["type"] == name);
    if found.as_ref().is_some_and(|condition| condition["status"] == state) {
        return;
    }
    let condition = json!({"type": name, "status": state, "reason": reason, "message": message,
        "lastTransitionTime": time_text(now)});
    match found {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_settles() {
        let mut definition = json!({"spec": {"names": {"kind": "A", "plural": "as"},
            "versions": [{"name": "v1", "storage": true}]}});
        let first = status(&definition, None, Timestamp::UNIX_EPOCH);
        assert_eq!(first["conditions"][1]["type"], "Established");
        assert_eq!((&first["storedVersions"], &first["acceptedNames"]["kind"]), (&json!(["v1"]), &json!("A")));
        definition["status"] = first.clone();
        assert_eq!(status(&definition, None, Timestamp::now()), first);
        let refused = status(&definition, Some("taken"), Timestamp::now());
        assert_eq!(refused["conditions"][0]["status"], "False");
    }
}
