//! Certificate signing requests: approves those of nodes, signs what is
//! approved for the built-in signers, removes old ones.
//!
//! Who may ask (an access review) and the act of signing are behind
//! [`CertificateAuthority`]; the rules of each signer are here and pure.

mod age;
pub mod pods;
mod request;
mod signer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};
use skiff_api::{GroupVersionResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Snapshot, Trigger};

use crate::{condition, write};

pub use request::Request;
pub use signer::Signer;

/// The user behind a request, as the API server recorded it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    pub username: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Signs, and knows who may what.
pub trait CertificateAuthority: Send + Sync + 'static {
    /// The PEM of a certificate for the request (PEM), under the names in it.
    fn sign(&self, signer: Signer, request: &[u8], usages: &[String], lifetime: Duration) -> Result<String, String>;
    /// How long a certificate may live at most.
    fn lifetime_max(&self) -> Duration;
    /// Whether the user may create this subresource of requests, by which node requests are approved.
    fn may_create(&self, requester: &Requester, subresource: &str) -> bool;
}

/// Approves, signs and removes requests.
pub struct CertificateController {
    pub authority: Arc<dyn CertificateAuthority>,
}

impl Controller for CertificateController {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<CertificateSigningRequest>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(object) = world.object::<CertificateSigningRequest>("", &key.name) else { return outcome };
        let Ok(value) = object.value() else { return outcome };
        if object.meta.is_deleting() {
            return outcome;
        }
        if age::is_over(&value, context.now) {
            outcome.push(write::delete::<CertificateSigningRequest>(&object));
            return outcome;
        }
        outcome.requeue_after = age::next_look(&value, context.now);
        let Some(request) = Request::of(&value["spec"]) else { return outcome };
        if let Some(operation) =
            self.approve(&object, &value, &request).or_else(|| self.sign(&object, &value, &request))
        {
            match operation {
                Ok(operation) => outcome.push(operation),
                Err(why) => outcome.retry = Some(why),
            }
        }
        outcome
    }
}

fn has(value: &Value, kind: &str) -> bool {
    let conditions = condition::of(&value["status"]);
    condition::find(&conditions, kind).is_some_and(|condition| condition["status"] == "True")
}

fn issued(value: &Value) -> bool {
    value["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty())
}

impl CertificateController {
    /// Approves a node's request for a client certificate, if its user may have that.
    fn approve(&self, object: &Object, value: &Value, request: &Request) -> Option<Result<Operation, String>> {
        if issued(value) || has(value, "Approved") || has(value, "Denied") {
            return None;
        }
        let spec = &value["spec"];
        if Signer::named(spec["signerName"].as_str()?)? != Signer::KubeletClient
            || signer::refusal(Signer::KubeletClient, request).is_some()
        {
            return None;
        }
        let requester = requester(spec);
        let own = requester.username == request.common_name;
        let message = if own && self.authority.may_create(&requester, "selfnodeclient") {
            "Auto approving self kubelet client certificate after SubjectAccessReview."
        } else if self.authority.may_create(&requester, "nodeclient") {
            "Auto approving kubelet client certificate after SubjectAccessReview."
        } else {
            return None;
        };
        let approved = json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message});
        Some(Ok(put(object, with_condition(value, approved), "approval")))
    }

    /// Signs an approved request, or says why it cannot be.
    fn sign(&self, object: &Object, value: &Value, request: &Request) -> Option<Result<Operation, String>> {
        if !has(value, "Approved") || has(value, "Denied") || has(value, "Failed") || issued(value) {
            return None;
        }
        let spec = &value["spec"];
        let signer = Signer::named(spec["signerName"].as_str()?)?;
        if let Some(why) = signer::refusal(signer, request) {
            let failed =
                json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why});
            return Some(Ok(put(object, with_condition(value, failed), "status")));
        }
        let lifetime = signer::lifetime(spec["expirationSeconds"].as_u64(), self.authority.lifetime_max());
        Some(self.authority.sign(signer, &request.pem, &request.usages, lifetime).map(|certificate| {
            let mut signed = value.clone();
            signed["status"]["certificate"] = BASE64.encode(certificate).into();
            put(object, signed, "status")
        }))
    }
}

fn with_condition(value: &Value, condition: Value) -> Value {
    let mut changed = value.clone();
    let mut conditions = condition::of(&value["status"]);
    conditions.push(condition);
    changed["status"]["conditions"] = Value::Array(conditions);
    changed
}

fn put(object: &Object, body: Value, subresource: &'static str) -> Operation {
    Operation::Update {
        resource: GroupVersionResource::of::<CertificateSigningRequest>(),
        namespace: None,
        name: object.meta.name.clone(),
        subresource: Some(subresource),
        body,
    }
}

fn requester(spec: &Value) -> Requester {
    let text = |name: &str| spec[name].as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec["extra"].as_object().into_iter().flatten();
    Requester {
        username: text("username"),
        uid: text("uid"),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

#[cfg(test)]
mod tests;
