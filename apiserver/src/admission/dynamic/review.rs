//! `AdmissionReview`: the question to a webhook and its answer.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use skiff_api::{Reason, Status};

use super::input;
use crate::admission::AdmissionRequest;

/// The review of a request in a version of `admission.k8s.io`.
pub fn question(request: &AdmissionRequest<'_>, version: &str, uid: &str) -> Value {
    let typed = |object: Option<&Value>| {
        let Some(object) = object else { return Value::Null };
        let mut object = object.clone();
        if object.is_object() && object.get("kind").is_none() {
            object["apiVersion"] = json!(request.kind.api_version());
            object["kind"] = json!(request.kind.kind);
        }
        object
    };
    let mut asked = input::describe(request);
    asked["uid"] = json!(uid);
    asked["object"] = typed(request.object.as_ref());
    asked["oldObject"] = typed(request.old_object);
    json!({"apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview", "request": asked})
}

/// What a webhook said.
#[derive(Debug)]
pub struct Answer {
    pub allowed: bool,
    /// JSON patch; empty for none.
    pub patch: Vec<u8>,
    warnings: Vec<String>,
    annotations: Vec<(String, String)>,
    status: Value,
}

impl Answer {
    /// Reads an answer; the error says why it is none.
    pub fn read(review: &Value, version: &str, uid: &str, mutating: bool) -> Result<Answer, String> {
        let (api_version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
        if kind != "AdmissionReview" || api_version != format!("admission.k8s.io/{version}") {
            let (group, got) = api_version.split_once('/').unwrap_or(("", api_version));
            return Err(format!(
                "expected webhook response of admission.k8s.io/{version}, Kind=AdmissionReview, got {group}/{got}, Kind={kind}"
            ));
        }
        let response = &review["response"];
        if !response.is_object() {
            return Err("webhook response was absent".to_owned());
        }
        if version == "v1" && response["uid"] != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", text(&response["uid"])));
        }
        let (patch, patch_type) = (text(&response["patch"]), response["patchType"].as_str());
        if !mutating && !patch.is_empty() {
            return Err("validating webhooks may not return response.patch".to_owned());
        }
        match patch_type {
            None if !patch.is_empty() && version == "v1" => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            Some(_) if patch.is_empty() && mutating => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            Some(other) if other != "JSONPatch" => {
                return Err(format!("webhook returned invalid response.patchType of {other:?}"));
            }
            _ => {}
        }
        let patch = BASE64.decode(patch).map_err(|error| format!("response.patch: {error}"))?;
        let warnings = response["warnings"].as_array().into_iter().flatten();
        let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
        Ok(Answer {
            allowed: response["allowed"] == true,
            patch,
            warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
            annotations: annotations
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            status: response["status"].clone(),
        })
    }

    /// Passes on warnings and annotations; the keys of annotations get the name of the webhook.
    pub fn report(self, webhook: &str, request: &mut AdmissionRequest<'_>) {
        request.warnings.extend(self.warnings);
        let annotations = self.annotations.into_iter();
        request.annotations.extend(annotations.map(|(key, value)| (format!("{webhook}/{key}"), value)));
    }

    /// The refusal a client sees.
    pub fn refusal(&self, webhook: &str) -> Status {
        let mut given = self.status.clone();
        if !given.is_object() {
            given = json!({});
        }
        let code = given["code"].as_u64().filter(|code| (400..600).contains(code)).unwrap_or(400);
        given["code"] = json!(code);
        given["status"] = json!("Failure");
        let denied = format!("admission webhook {webhook:?} denied the request");
        let message = match (text(&given["message"]), text(&given["reason"])) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        given["message"] = json!(message);
        for field in ["apiVersion", "kind", "metadata"] {
            if let Some(fields) = given.as_object_mut() {
                fields.remove(field);
            }
        }
        serde_json::from_value(given).unwrap_or_else(|_| Status::failure(Reason::BadRequest, message))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(response: Value, mutating: bool) -> Result<Answer, String> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        Answer::read(&review, "v1", "u", mutating)
    }

    #[test]
    fn answers_are_checked() {
        assert!(read(json!({"uid": "u", "allowed": true}), true).unwrap().allowed);
        assert_eq!(read(json!({"uid": "x"}), true).unwrap_err(), "expected response.uid=\"u\", got \"x\"");
        assert_eq!(read(Value::Null, true).unwrap_err(), "webhook response was absent");
        let error = read(json!({"uid": "u", "patch": "W10="}), true).unwrap_err();
        assert_eq!(error, "webhook returned response.patch but not response.patchType");
        assert!(read(json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"}), false).is_err());
        let wrong = json!({"apiVersion": "v1", "kind": "Pod"});
        assert!(Answer::read(&wrong, "v1", "u", true).unwrap_err().ends_with("got /v1, Kind=Pod"));
    }

    #[test]
    fn refusals_say_who_and_why() {
        let refuse = |status: Value| {
            let status = read(json!({"uid": "u", "allowed": false, "status": status}), true).unwrap().refusal("w.x.y");
            (status.code, status.message)
        };
        let said = "admission webhook \"w.x.y\" denied the request".to_owned();
        assert_eq!(refuse(Value::Null), (400, format!("{said} without explanation")));
        assert_eq!(refuse(json!({"message": "no", "code": 403})), (403, format!("{said}: no")));
        assert_eq!(refuse(json!({"reason": "Forbidden", "code": 200})), (400, format!("{said}: Forbidden")));
    }
}
