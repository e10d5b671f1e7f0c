//! The status of a definition: which names it got, and what its conditions say.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::{
    apiextensions::{APPROVED_ANNOTATION, approval_of, is_protected},
    meta::time_text,
};

/// Names that other definitions (or built-in kinds) of the group have.
#[derive(Default)]
pub struct Taken {
    /// Plural, singular and short names.
    pub resources: HashSet<String>,
    /// Kinds and list kinds.
    pub kinds: HashSet<String>,
}

impl Taken {
    /// Adds the names in `acceptedNames`.
    pub fn add(&mut self, names: &Value) {
        let text = |name: &str| names[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        self.resources.extend(["plural", "singular"].iter().filter_map(|name| text(name)));
        let short = names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        self.resources.extend(short.map(str::to_owned));
        self.kinds.extend(["kind", "listKind"].iter().filter_map(|name| text(name)));
    }
}

/// What names a definition gets, and why it does not get all of them.
pub struct Names {
    pub accepted: Value,
    /// Reason and message.
    pub conflict: Option<(&'static str, String)>,
}

/// Gives a definition the names that are free.
pub fn names(definition: &Value, taken: &Taken) -> Names {
    let (wanted, have) = (&definition["spec"]["names"], &definition["status"]["acceptedNames"]);
    let mut accepted = if have.is_object() { have.clone() } else { json!({"kind": "", "plural": ""}) };
    let mut conflict = None;
    for (field, reason) in [
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
        ("shortNames", "ShortNamesConflict"),
        ("kind", "KindConflict"),
        ("listKind", "ListKindConflict"),
    ] {
        let used = if field.to_lowercase().ends_with("kind") { &taken.kinds } else { &taken.resources };
        let ours =
            |name: &Value| have[field] == *name || have[field].as_array().is_some_and(|list| list.contains(name));
        let asked: Vec<&Value> = match &wanted[field] {
            Value::Array(list) => list.iter().collect(),
            Value::Null => Vec::new(),
            single => vec![single],
        };
        let lost: Vec<String> = asked
            .into_iter()
            .filter(|name| !ours(name) && used.contains(name.as_str().unwrap_or_default()))
            .map(|name| format!("{name} is already in use"))
            .collect();
        match lost.as_slice() {
            [] => set(&mut accepted, field, &wanted[field]),
            [single] => conflict = Some((reason, single.clone())),
            several => conflict = Some((reason, format!("[{}]", several.join(", ")))),
        }
    }
    set(&mut accepted, "categories", &wanted["categories"]);
    Names { accepted, conflict }
}

fn set(names: &mut Value, field: &str, value: &Value) {
    if let Some(names) = names.as_object_mut() {
        if value.is_null() {
            names.remove(field);
        } else {
            names.insert(field.to_owned(), value.clone());
        }
    }
}

/// The status a definition must show; equal to the present one when nothing changed.
pub fn status(definition: &Value, names: &Names, now: Timestamp) -> Value {
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    match &names.conflict {
        None => {
            set_condition(&mut status, "NamesAccepted", ("True", "NoConflicts", "no conflicts found"), now);
            let text = "the initial names have been accepted";
            set_condition(&mut status, "Established", ("True", "InitialNamesAccepted", text), now);
        }
        Some((reason, message)) => {
            set_condition(&mut status, "NamesAccepted", ("False", reason, message), now);
            // What is established once stays so: its objects are there.
            if !is_true(&status, "Established") {
                let condition = ("False", "NotAccepted", "not all names are accepted");
                set_condition(&mut status, "Established", condition, now);
            }
        }
    }
    status["acceptedNames"] = names.accepted.clone();
    approval(&mut status, definition, now);
    let mut versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let current = versions.find(|version| version["storage"] == true).map(|version| version["name"].clone());
    let mut stored = status["storedVersions"].as_array().cloned().unwrap_or_default();
    if let Some(current) = current.filter(|current| !stored.contains(current)) {
        stored.push(current);
    }
    status["storedVersions"] = Value::Array(stored);
    status
}

/// Groups of Kubernetes itself say whether they were approved.
fn approval(status: &mut Value, definition: &Value, now: Timestamp) {
    if !is_protected(definition["spec"]["group"].as_str().unwrap_or_default()) {
        return;
    }
    let annotation = definition["metadata"]["annotations"][APPROVED_ANNOTATION].as_str().unwrap_or_default();
    let (state, reason, message) = match approval_of(annotation) {
        Ok((reason @ "ApprovedAnnotation", message)) => ("True", reason, message),
        Ok((reason, message)) | Err((reason, message)) => ("False", reason, message),
    };
    set_condition(status, "KubernetesAPIApprovalPolicyConformant", (state, reason, &message), now);
}

/// Whether a condition is `True`.
pub fn is_true(status: &Value, name: &str) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == name && condition["status"] == "True")
}

/// The status of a definition whose objects are being removed.
pub fn terminating(definition: &Value, wanted: (&str, &str, &str), now: Timestamp) -> Value {
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    set_condition(&mut status, "Terminating", wanted, now);
    status
}

fn set_condition(status: &mut Value, name: &str, wanted: (&str, &str, &str), now: Timestamp) {
    let (state, reason, message) = wanted;
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let found = conditions.iter_mut().find(|condition| condition["type"] == name);
    let time = match &found {
        Some(have) if have["status"] == state => have["lastTransitionTime"].clone(),
        _ => json!(time_text(now)),
    };
    let condition = json!({"type": name, "status": state, "reason": reason, "message": message,
        "lastTransitionTime": time});
    match found {
        Some(place) => {
            let observed = place.get("observedGeneration").cloned();
            *place = condition;
            if let Some(observed) = observed {
                place["observedGeneration"] = observed;
            }
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"spec": {"group": "e.io", "names": {"kind": "A", "plural": "as", "singular": "a", "listKind": "AList", "shortNames": ["x"]},
            "versions": [{"name": "v1", "storage": true}]}})
    }

    #[test]
    fn a_status_settles() {
        let mut definition = definition();
        let first = status(&definition, &names(&definition, &Taken::default()), Timestamp::UNIX_EPOCH);
        assert_eq!(first["conditions"][1]["type"], "Established");
        assert_eq!((&first["storedVersions"], &first["acceptedNames"]["kind"]), (&json!(["v1"]), &json!("A")));
        definition["status"] = first.clone();
        assert_eq!(status(&definition, &names(&definition, &Taken::default()), Timestamp::now()), first);
    }

    #[test]
    fn names_that_others_have_are_not_given() {
        let mut taken = Taken::default();
        taken.add(&json!({"plural": "bs", "kind": "A", "shortNames": ["x"]}));
        let definition = definition();
        let given = names(&definition, &taken);
        assert_eq!(given.conflict, Some(("KindConflict", "\"A\" is already in use".to_owned())));
        assert_eq!(given.accepted, json!({"kind": "", "plural": "as", "singular": "a", "listKind": "AList"}));
        let shown = status(&definition, &given, Timestamp::now());
        assert_eq!(
            (&shown["conditions"][0]["status"], &shown["conditions"][1]["reason"]),
            (&json!("False"), &json!("NotAccepted"))
        );
    }

    #[test]
    fn an_established_definition_stays_so() {
        let mut definition = definition();
        definition["status"] = status(&definition, &names(&definition, &Taken::default()), Timestamp::now());
        definition["spec"]["names"]["shortNames"] = json!(["x", "y"]);
        let mut taken = Taken::default();
        taken.add(&json!({"plural": "y"}));
        let shown = status(&definition, &names(&definition, &taken), Timestamp::now());
        assert!(is_true(&shown, "Established") && !is_true(&shown, "NamesAccepted"));
        assert_eq!(shown["acceptedNames"]["shortNames"], json!(["x"]));
    }
}
