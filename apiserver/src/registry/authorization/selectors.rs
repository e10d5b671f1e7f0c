//! Selectors of access reviews: which of a list's objects are asked about.
//!
//! What cannot be understood is left out and reported: a question about more
//! objects is never answered with a right to fewer.

use serde_json::Value;
use skiff_api::{FieldSelector, Selector, field_selector::FieldRequirement};

use crate::registry::{
    validation::{Errors, Path, selector},
    value::{field, list, text},
};

/// Checks both selectors; operators of newer clients pass.
pub fn validate(errors: &mut Errors, path: &Path<'_>, resource: &Value) {
    for (name, check) in
        [("fieldSelector", of_fields as fn(&mut Errors, &Path<'_>, &Value)), ("labelSelector", of_labels)]
    {
        let Some(given) = field(resource, name) else { continue };
        let path = path.child(name);
        let (raw, requirements) = (text(given, "rawSelector"), list(given, "requirements"));
        if !raw.is_empty() && !requirements.is_empty() {
            errors.invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements");
        }
        if raw.is_empty() && requirements.is_empty() {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            errors.required(&path.child("requirements"), &detail);
        }
        for (index, requirement) in requirements.iter().enumerate() {
            check(errors, &path.child("requirements").index(index), requirement);
        }
    }
}

fn of_fields(errors: &mut Errors, path: &Path<'_>, requirement: &Value) {
    if text(requirement, "key").is_empty() {
        errors.required(&path.child("key"), "must be specified");
    }
    selector::values_fit_operator(errors, path, requirement);
}

fn of_labels(errors: &mut Errors, path: &Path<'_>, requirement: &Value) {
    selector::values_fit_operator(errors, path, requirement);
    selector::key_and_values(errors, path, requirement);
}

/// The field selector asked about. Nothing decides by labels, so those are only parsed.
pub fn read(resource: &Value, ignored: &mut Vec<String>) -> FieldSelector {
    let mut report = |name: &str, fault: Option<bool>| {
        if let Some(partially) = fault {
            let how = if partially { "partially ignored" } else { "ignored" };
            ignored.push(format!("spec.resourceAttributes.{name} {how} due to parse error"));
        }
    };
    let (fields, fault) = fields(&resource["fieldSelector"]);
    report("fieldSelector", fault);
    report("labelSelector", labels_fault(&resource["labelSelector"]));
    fields
}

/// With `Some` when a part was left out, and whether another part remains.
fn fields(selector: &Value) -> (FieldSelector, Option<bool>) {
    let requirements = list(selector, "requirements");
    if requirements.is_empty() {
        return match text(selector, "rawSelector").parse() {
            Ok(parsed) => (parsed, None),
            Err(_) => (FieldSelector::default(), Some(false)),
        };
    }
    let understood: Vec<FieldRequirement> = requirements.iter().filter_map(one_field).collect();
    let fault = (understood.len() < requirements.len()).then_some(!understood.is_empty());
    (understood.into(), fault)
}

/// Field selectors know one value, equal or not.
fn one_field(requirement: &Value) -> Option<FieldRequirement> {
    let equal = match text(requirement, "operator") {
        "In" => true,
        "NotIn" => false,
        _ => return None,
    };
    let [Value::String(value)] = list(requirement, "values") else { return None };
    Some(FieldRequirement { path: text(requirement, "key").to_owned(), value: value.clone(), equal })
}

fn labels_fault(selector: &Value) -> Option<bool> {
    let requirements = list(selector, "requirements");
    if requirements.is_empty() {
        return text(selector, "rawSelector").parse::<Selector>().err().map(|_| false);
    }
    let known =
        |requirement: &&Value| matches!(text(requirement, "operator"), "In" | "NotIn" | "Exists" | "DoesNotExist");
    let understood = requirements.iter().filter(known).count();
    (understood < requirements.len()).then_some(understood > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusals(resource: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&mut errors, &Path::new("spec").child("resourceAttributes"), resource);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn selectors_are_refused_in_upstreams_words() {
        for (resource, refusal) in [
            (
                json!({"fieldSelector": {"rawSelector": "foo", "requirements": [{"key": "k"}]}}),
                "fieldSelector.rawSelector: Invalid value: \"foo\": may not specified at the same time as requirements",
            ),
            (
                json!({"fieldSelector": {}}),
                "fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, \
                 requirements or rawSelector is required",
            ),
            (
                json!({"fieldSelector": {"requirements": [{"key": ""}]}}),
                "fieldSelector.requirements[0].key: Required value: must be specified",
            ),
            (
                json!({"labelSelector": {"requirements": [{"key": "k", "operator": "In"}]}}),
                "labelSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
            (
                json!({"fieldSelector": {"requirements": [{"key": "k", "operator": "Exists", "values": ["a"]}]}}),
                "fieldSelector.requirements[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
        ] {
            assert_eq!(refusals(&resource), [format!("spec.resourceAttributes.{refusal}")]);
        }
        let newer = json!({"fieldSelector": {"requirements": [{"key": "k", "operator": "Later"}]},
            "labelSelector": {"requirements": [{"key": "k", "operator": "Later"}]}});
        assert!(refusals(&newer).is_empty());
    }

    #[test]
    fn what_cannot_be_understood_is_left_out_and_reported() {
        let read = |fields: Value| {
            let mut ignored = Vec::new();
            let selector = read(&json!({"fieldSelector": fields}), &mut ignored);
            (selector.to_string(), ignored.join(""))
        };
        assert_eq!(read(json!({"rawSelector": "a=b,c!=d"})), ("a=b,c!=d".into(), String::new()));
        let ignored = "spec.resourceAttributes.fieldSelector ignored due to parse error";
        assert_eq!(read(json!({"rawSelector": "a"})), (String::new(), ignored.into()));
        let term = |operator: &str, values: &[&str]| json!({"key": "k", "operator": operator, "values": values});
        assert_eq!(
            read(json!({"requirements": [term("NotIn", &["v"]), term("In", &["a", "b"]), term("Exists", &[])]})),
            ("k!=v".into(), "spec.resourceAttributes.fieldSelector partially ignored due to parse error".into())
        );
        let mut ignored = Vec::new();
        super::read(&json!({"labelSelector": {"rawSelector": "a in ("}}), &mut ignored);
        assert_eq!(ignored, ["spec.resourceAttributes.labelSelector ignored due to parse error"]);
    }
}
