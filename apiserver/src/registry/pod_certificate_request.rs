//! PodCertificateRequests: a node asks a signer for a pod's certificate. What
//! was asked never changes; the answer is given once.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde_json::Value;
use skiff_api::Cause;
use x509_parser::{
    certification_request::X509CertificationRequest,
    pem::Pem,
    prelude::{FromDer, X509Certificate},
};

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{copy_field, default, field, int, list, remove, text},
};

const SECONDS_DEFAULT: i64 = 86_400;
const SECONDS_MIN: i64 = 3600;
/// 91 days; a day for the signers of Kubernetes itself.
const SECONDS_MAX: i64 = 91 * 86_400;
/// A certificate may be renewed neither in the first nor in the last minutes of its life.
const REFRESH_MARGIN: i64 = 600;
const OUTCOMES: [&str; 3] = ["Issued", "Denied", "Failed"];

pub struct PodCertificateRequestStrategy;

impl Strategy for PodCertificateRequestStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        if let Some(spec) = super::value::existing(object, "spec") {
            default(spec, "maxExpirationSeconds", SECONDS_DEFAULT);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        match op {
            Operation::Create => drop(remove(object, "status")),
            Operation::Update { old } => copy_field(object, old, "status"),
            Operation::Status { old } => copy_field(object, old, "spec"),
            _ => {}
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match op {
            Operation::Create => spec(&mut errors, &object["spec"]),
            Operation::Update { old } => errors.immutable(&Path::new("spec"), &object["spec"], &old["spec"]),
            Operation::Status { old } => status(&mut errors, object, old),
            _ => {}
        }
        errors.into_causes()
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    match text(spec, "signerName") {
        "" => errors.required(&path.child("signerName"), ""),
        name => errors.invalid_all(&path.child("signerName"), name, formats::domain_prefixed_path(name)),
    }
    for name in ["podName", "serviceAccountName", "nodeName"] {
        match text(spec, name) {
            "" => errors.required(&path.child(name), ""),
            given => errors.invalid_all(&path.child(name), given, super::names::dns1123_subdomain(given, false)),
        }
    }
    for name in ["podUID", "serviceAccountUID", "nodeUID"] {
        if text(spec, name).is_empty() {
            errors.required(&path.child(name), "");
        }
    }
    let max = if text(spec, "signerName").starts_with("kubernetes.io/") { SECONDS_DEFAULT } else { SECONDS_MAX };
    let seconds = int(spec, "maxExpirationSeconds").unwrap_or(SECONDS_DEFAULT);
    if !(SECONDS_MIN..=max).contains(&seconds) {
        errors.invalid(
            &path.child("maxExpirationSeconds"),
            seconds,
            format!("must be in the range [{SECONDS_MIN}, {max}]"),
        );
    }
    if text(spec, "stubPKCS10Request").is_empty() {
        errors.required(&path.child("stubPKCS10Request"), "");
    } else if public_key(spec).is_none() {
        errors.invalid(
            &path.child("stubPKCS10Request"),
            &spec["stubPKCS10Request"],
            "must be a PKCS#10 request in DER with a valid self-signature",
        );
    }
}

/// The key of the request, once it has proven that it is the sender's.
fn public_key(spec: &Value) -> Option<Vec<u8>> {
    let der = BASE64.decode(text(spec, "stubPKCS10Request")).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
    request.verify_signature().ok()?;
    Some(request.certification_request_info.subject_pki.raw.to_vec())
}

fn outcome(status: &Value) -> Option<&str> {
    list(status, "conditions").iter().map(|condition| text(condition, "type")).find(|kind| OUTCOMES.contains(kind))
}

fn status(errors: &mut Errors, object: &Value, old: &Value) {
    let path = Path::new("status");
    let (new, before) = (&object["status"], &old["status"]);
    if outcome(before).is_some() {
        // The answer stands; only other conditions may still change.
        for name in ["certificateChain", "notBefore", "beginRefreshAt", "notAfter"] {
            errors.immutable(&path.child(name), &new[name], &before[name]);
        }
    }
    let conditions_path = path.child("conditions");
    let conditions = list(new, "conditions");
    let mut outcomes = 0;
    for (index, condition) in conditions.iter().enumerate() {
        let path = conditions_path.index(index);
        let kind = text(condition, "type");
        if !OUTCOMES.contains(&kind) {
            errors.not_supported(&path.child("type"), kind, &OUTCOMES);
            continue;
        }
        outcomes += 1;
        if text(condition, "status") != "True" {
            errors.not_supported(&path.child("status"), text(condition, "status"), &["True"]);
        }
    }
    if outcomes > 1 {
        errors.invalid(
            &conditions_path,
            "",
            "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"",
        );
    }
    if let Some(decided) = outcome(before)
        && outcome(new) != Some(decided)
    {
        errors.invalid(&conditions_path, "", format!("a condition of type {decided:?} may not be removed"));
    }
    if outcome(new) == Some("Issued") {
        issued(errors, &path, object);
    } else {
        for name in ["certificateChain", "notBefore", "beginRefreshAt", "notAfter"] {
            if field(new, name).is_some_and(|value| value.as_str() != Some("")) {
                errors.forbidden(&path.child(name), "may only be set together with the condition \"Issued\"");
            }
        }
    }
}

/// Times and key of an issued certificate agree with what was asked and what the status says.
fn issued(errors: &mut Errors, path: &Path<'_>, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut times = Vec::new();
    for name in ["notBefore", "beginRefreshAt", "notAfter"] {
        match text(status, name).parse::<Timestamp>() {
            Ok(time) => times.push(time.as_second()),
            Err(_) => errors.required(&path.child(name), "must be present and consistent with the issued certificate"),
        }
    }
    let chain_path = path.child("certificateChain");
    let chain = text(status, "certificateChain");
    let blocks: Result<Vec<Pem>, _> = Pem::iter_from_buffer(chain.as_bytes()).collect();
    let Ok(blocks) = blocks else {
        return errors.invalid(&chain_path, "<value omitted>", "must be PEM");
    };
    let Some(leaf) = blocks.first() else {
        return errors.required(&chain_path, "must be present with the condition \"Issued\"");
    };
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        return errors.invalid(&chain_path, "<value omitted>", "may only hold blocks of type CERTIFICATE");
    }
    let Ok((_, leaf)) = X509Certificate::from_der(&leaf.contents) else {
        return errors.invalid(&chain_path, "<value omitted>", "the leaf certificate does not parse as X.509");
    };
    if public_key(spec).is_none_or(|key| key != leaf.public_key().raw) {
        errors.invalid(
            &chain_path,
            "<value omitted>",
            "the leaf certificate must be for the public key of the request",
        );
    }
    let [begin, refresh, end] = times[..] else { return };
    if leaf.validity().not_before.timestamp() != begin {
        errors.invalid(
            &path.child("notBefore"),
            &status["notBefore"],
            "must be set to the NotBefore time of the leaf certificate",
        );
    }
    if leaf.validity().not_after.timestamp() != end {
        errors.invalid(
            &path.child("notAfter"),
            &status["notAfter"],
            "must be set to the NotAfter time of the leaf certificate",
        );
    }
    let seconds = int(spec, "maxExpirationSeconds").unwrap_or(SECONDS_DEFAULT);
    if end - begin < SECONDS_MIN {
        errors.invalid(&chain_path, "<value omitted>", "leaf certificate lifetime must be >= 1 hour");
    } else if end - begin > seconds {
        errors.invalid(
            &chain_path,
            "<value omitted>",
            format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({seconds})"),
        );
    }
    if refresh < begin + REFRESH_MARGIN || refresh > end - REFRESH_MARGIN {
        errors.invalid(
            &path.child("beginRefreshAt"),
            &status["beginRefreshAt"],
            "must be at least 10 minutes after status.notBefore and at least 10 minutes before status.notAfter",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};
    use serde_json::json;

    fn request() -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let stub = rcgen::CertificateParams::new(Vec::new()).unwrap().serialize_request(&key).unwrap();
        json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/a", "podName": "p", "podUID": "u",
            "serviceAccountName": "s", "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w",
            "stubPKCS10Request": BASE64.encode(stub.der())}})
    }

    #[test]
    fn a_request_proves_its_key_and_keeps_its_words() {
        let good = made(&PodCertificateRequestStrategy, request());
        assert_eq!(good["spec"]["maxExpirationSeconds"], SECONDS_DEFAULT);
        assert!(wrong(&PodCertificateRequestStrategy, good.clone()).is_empty());
        let mut short = good.clone();
        short["spec"]["maxExpirationSeconds"] = 60.into();
        short["spec"]["stubPKCS10Request"] = "AAAA".into();
        let wrongs = wrong(&PodCertificateRequestStrategy, short.clone());
        assert!(wrongs[0].ends_with("must be in the range [3600, 7862400]"), "{wrongs:?}");
        assert_eq!(wrongs.len(), 2);
        assert_eq!(wrong_update(&PodCertificateRequestStrategy, short, good).len(), 1);
    }

    #[test]
    fn an_answer_is_one_and_complete() {
        let check = |status: Value, old: Value| {
            let mut object = request();
            object["status"] = status;
            let mut errors = Errors::new();
            super::status(&mut errors, &object, &json!({"status": old}));
            errors.len()
        };
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        assert_eq!(check(json!({"conditions": [condition("Denied")]}), Value::Null), 0);
        assert_eq!(check(json!({"conditions": [condition("Denied"), condition("Failed")]}), Value::Null), 1);
        assert_eq!(check(json!({"conditions": [condition("Odd")]}), Value::Null), 1);
        assert_eq!(check(json!({"conditions": []}), json!({"conditions": [condition("Denied")]})), 1);
        assert_eq!(check(json!({"conditions": [condition("Issued")]}), Value::Null), 4, "times and chain are missing");
        assert_eq!(check(json!({"certificateChain": "x"}), Value::Null), 1);
    }
}
