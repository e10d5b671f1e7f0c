//! Conversion webhooks: one review for any number of objects.
//!
//! A webhook may change everything but the identity: kind, name, namespace and
//! uid must stay, and of the metadata only labels and annotations are taken
//! from its answer.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_api::Uid;

use crate::webhook::{ClientConfig, Webhooks};

/// Longest wait for an answer.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(30);

/// The conversion webhook of a definition.
pub struct Converter {
    webhooks: Webhooks,
    /// Or why it cannot be called.
    config: Result<ClientConfig, String>,
    /// `v1` or `v1beta1`.
    version: Option<String>,
}

impl Converter {
    /// The webhook of a definition whose strategy is `Webhook`.
    pub fn of(definition: &Value, webhooks: &Webhooks) -> Option<Converter> {
        let conversion = &definition["spec"]["conversion"];
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let mut versions =
            webhook["conversionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let version = versions.find(|version| matches!(*version, "v1" | "v1beta1")).map(str::to_owned);
        Some(Converter { webhooks: webhooks.clone(), config: ClientConfig::parse(&webhook["clientConfig"]), version })
    }

    /// The objects in another version, in the same order. None may be in it already.
    pub async fn convert(&self, objects: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
        let Some(first) = objects.first() else { return Ok(Vec::new()) };
        let from = subject(first);
        let failed = |why: &dyn std::fmt::Display| format!("conversion webhook for {from} failed: {why}");
        let version = self.version.as_deref().ok_or("no supported conversion review versions")?;
        let config = self.config.as_ref().map_err(|why| failed(why))?;
        let uid = Uid::random().0;
        let review = json!({"kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects}});
        let answer = self.webhooks.post(config, &review, REVIEW_TIMEOUT).await.map_err(|why| failed(&why))?;
        let converted = results(&answer, version, &uid).map_err(|why| failed(&why))?;
        if converted.len() != objects.len() {
            let (have, want) = (converted.len(), objects.len());
            return Err(format!("conversion webhook for {from} returned {have} objects, expected {want}"));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs
            .map(|(index, (original, converted))| {
                checked(original, converted, api_version).map_err(|why| {
                    format!("conversion webhook for {from} returned invalid object at index {index}: {why}")
                })
            })
            .collect()
    }
}

/// `group/version, Kind=Kind`.
fn subject(object: &Value) -> String {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// The objects of a successful answer to this very request.
fn results(answer: &Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let wanted = format!("apiextensions.k8s.io/{version}, Kind=ConversionReview");
    if version == "v1" && subject(answer) != wanted {
        return Err(format!("expected webhook response of {wanted}, got {}", subject(answer)));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    let have = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && have != uid {
        return Err(format!("expected response.uid={uid:?}, got {have:?}"));
    }
    let status = response["result"]["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return Err(match response["result"]["message"].as_str() {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => format!("response.result.status was '{status}', not 'Success'"),
        });
    }
    Ok(response["convertedObjects"].as_array().cloned().unwrap_or_default())
}

/// A converted object with the metadata it may not change put back.
fn checked(original: &Value, mut converted: Value, api_version: &str) -> Result<Value, String> {
    let have = converted["apiVersion"].as_str().unwrap_or_default();
    if have != api_version {
        return Err(format!("invalid groupVersion (expected {api_version}, received {have})"));
    }
    let (want, have) = (original["kind"].as_str().unwrap_or_default(), converted["kind"].as_str().unwrap_or_default());
    if want != have {
        return Err(format!("invalid kind (expected {want}, received {have})"));
    }
    for (field, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let text = |object: &Value| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (want, have) = (text(original), text(&converted));
        if want != have {
            return Err(format!("must have the same {shown}: {want} != {have}"));
        }
    }
    let given = converted.get("metadata").cloned().ok_or("missing metadata in converted object")?;
    if !given.is_object() {
        return Err("invalid metadata in converted object".to_owned());
    }
    let mut metadata = original["metadata"].clone();
    for field in ["labels", "annotations"] {
        let texts = given.get(field).filter(|value| !value.is_null());
        match texts {
            Some(Value::Object(map)) => {
                if let Some((name, _)) = map.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("metadata.{field} is not of map[string]string: {name} is no string"));
                }
                metadata[field] = Value::Object(map.clone());
            }
            Some(_) => return Err(format!("metadata.{field} is not of map[string]string")),
            None => {
                if let Some(metadata) = metadata.as_object_mut() {
                    metadata.remove(field);
                }
            }
        }
    }
    converted["metadata"] = metadata;
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> Value {
        json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"x": "1"}, "generation": 3}})
    }

    #[test]
    fn only_labels_and_annotations_of_the_answer_count() {
        let answer = json!({"apiVersion": "g/v2", "kind": "K", "spec": 1,
            "metadata": {"name": "a", "uid": "u", "generation": 9, "annotations": {"n": "o"}}});
        let converted = checked(&original(), answer, "g/v2").unwrap();
        assert_eq!(converted["metadata"], json!({"name": "a", "uid": "u", "generation": 3, "annotations": {"n": "o"}}));
        assert_eq!(converted["spec"], 1);
    }

    #[test]
    fn another_identity_is_refused() {
        for (change, text) in [
            (json!({"apiVersion": "g/v3"}), "invalid groupVersion (expected g/v2, received g/v3)"),
            (json!({"kind": "L"}), "invalid kind (expected K, received L)"),
            (json!({"metadata": {"name": "b", "uid": "u"}}), "must have the same name: a != b"),
            (
                json!({"metadata": {"name": "a", "uid": "u", "labels": {"a": 1}}}),
                "metadata.labels is not of map[string]string: a is no string",
            ),
        ] {
            let mut answer = original();
            answer["apiVersion"] = json!("g/v2");
            for (name, value) in change.as_object().unwrap() {
                answer[name] = value.clone();
            }
            assert_eq!(checked(&original(), answer, "g/v2").unwrap_err(), text);
        }
    }

    #[test]
    fn answers_are_for_their_request() {
        let mut answer = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "response": {"uid": "1", "result": {"status": "Success"}, "convertedObjects": [1]}});
        assert_eq!(results(&answer, "v1", "1").unwrap(), [json!(1)]);
        assert!(results(&answer, "v1", "2").unwrap_err().starts_with("expected response.uid"));
        answer["response"]["result"] = json!({"status": "Failure", "message": "no way"});
        assert_eq!(results(&answer, "v1", "1").unwrap_err(), "no way");
        assert_eq!(
            results(&json!({}), "v1", "1").unwrap_err(),
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got , Kind="
        );
    }
}
