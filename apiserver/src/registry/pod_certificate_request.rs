//! PodCertificateRequests: a node asks a signer for a pod's certificate. What
//! was asked never changes; the answer is given once.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::Cause;
use x509_parser::{
    asn1_rs::Integer,
    certification_request::X509CertificationRequest,
    error::X509Error,
    pem::Pem,
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
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
/// A certificate begins about when it is issued.
const BEGIN_MARGIN: i64 = 300;
const STUB_BYTES_MAX: usize = 10 * 1024;
const CHAIN_BYTES_MAX: usize = 100 * 1024;
const NOT_A_REQUEST: &str = "must parse as a valid PKCS#10 request";
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
            Operation::Status { old } => status(&mut errors, object, old, Timestamp::now()),
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
    let stub = path.child("stubPKCS10Request");
    let der = text(spec, "stubPKCS10Request");
    if der.is_empty() {
        errors.required(&stub, "");
    } else if der.len() > STUB_BYTES_MAX * 4 / 3 + 4 {
        errors.too_long(&stub, STUB_BYTES_MAX);
    } else if let Err(why) = public_key(spec) {
        errors.invalid(&stub, "<value omitted>", why);
    }
}

/// The key of the request, once it has proven that it is the sender's.
fn public_key(spec: &Value) -> Result<Vec<u8>, &'static str> {
    let der = BASE64.decode(text(spec, "stubPKCS10Request")).map_err(|_| NOT_A_REQUEST)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|_| NOT_A_REQUEST)?;
    let key = &request.certification_request_info.subject_pki;
    match key.parsed().map_err(|_| NOT_A_REQUEST)? {
        PublicKey::RSA(rsa) if !matches!(rsa.key_size(), 3072 | 4096) => {
            return Err("RSA keys must have modulus size 3072 or 4096");
        }
        PublicKey::RSA(_) => {}
        PublicKey::EC(point) if !matches!(point.key_size(), 256 | 384 | 521 | 528) => {
            return Err("elliptic public keys must use curve P256 or P384");
        }
        PublicKey::EC(_) => {}
        _ if key.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519 => {}
        _ => return Err("unknown public key type; supported types are Ed25519, ECDSA, and RSA"),
    }
    let verified = match request.verify_signature() {
        Err(X509Error::SignatureUnsupportedAlgorithm) => verify_p521(&request),
        result => result.is_ok(),
    };
    if verified { Ok(key.raw.to_vec()) } else { Err("could not verify proof-of-possession signature") }
}

/// The one curve that the library behind the other checks has not.
fn verify_p521(request: &X509CertificationRequest<'_>) -> bool {
    use p521::ecdsa::{Signature, VerifyingKey, signature::Verifier};
    const WIDTH: usize = 66;
    let point = &request.certification_request_info.subject_pki.subject_public_key.data;
    let Ok(key) = VerifyingKey::from_sec1_bytes(point) else { return false };
    let signature = &request.signature_value.data;
    let parse = |input| -> Option<Signature> {
        let (_, pair) = <Vec<Integer<'_>>>::from_der(input).ok()?;
        let [r, s] = &pair[..] else { return None };
        let mut bytes = [0; 2 * WIDTH];
        for (half, number) in bytes.chunks_mut(WIDTH).zip([r, s]) {
            let digits = number.as_ref();
            let digits = &digits[digits.iter().take_while(|byte| **byte == 0).count()..];
            half.get_mut(WIDTH.checked_sub(digits.len())?..)?.copy_from_slice(digits);
        }
        Signature::from_slice(&bytes).ok()
    };
    parse(signature).is_some_and(|signature| key.verify(request.certification_request_info.raw, &signature).is_ok())
}

fn outcome(status: &Value) -> Option<&str> {
    list(status, "conditions").iter().map(|condition| text(condition, "type")).find(|kind| OUTCOMES.contains(kind))
}

fn status(errors: &mut Errors, object: &Value, old: &Value, now: Timestamp) {
    let path = Path::new("status");
    let (new, before) = (&object["status"], &old["status"]);
    conditions(errors, &path.child("conditions"), list(new, "conditions"));
    if !errors.is_empty() {
        return;
    }
    let same = |a: &Value, b: &Value| {
        let strip = |value: &Value| if value.is_null() { json!({}) } else { value.clone() };
        strip(a) == strip(b)
    };
    if outcome(before).is_some() {
        if !same(new, before) {
            errors.invalid(&path, new, "immutable after PodCertificateRequest is issued, denied, or failed");
        }
        return;
    }
    match outcome(new) {
        Some("Issued") => {
            if let Err((field, why)) = issued(object, now) {
                match why {
                    Wrong::Missing(why) => errors.required(&path.child(field), why),
                    Wrong::Value(why) if field == CHAIN => errors.invalid(&path.child(field), "<value omitted>", why),
                    Wrong::Value(why) => errors.invalid(&path.child(field), &new[field], why),
                }
            }
        }
        Some(_) => {
            let filled = [CHAIN, "notBefore", "beginRefreshAt", "notAfter"]
                .iter()
                .any(|name| field(new, name).is_some_and(|value| value.as_str() != Some("")));
            if filled {
                let why = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
                errors.invalid(&path, new, why);
            }
        }
        None if !same(new, before) => {
            let why = "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(&path, new, why);
        }
        None => {}
    }
}

fn conditions(errors: &mut Errors, path: &Path<'_>, conditions: &[Value]) {
    let mut outcomes = 0;
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = text(condition, "type");
        if !OUTCOMES.contains(&kind) {
            errors.not_supported(&path.child("type"), kind, &OUTCOMES);
            continue;
        }
        outcomes += 1;
        if outcomes > 1 {
            let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.invalid(&path.child("type"), kind, why);
        }
        if text(condition, "status") != "True" {
            errors.not_supported(&path.child("status"), text(condition, "status"), &["True"]);
        }
    }
}

const CHAIN: &str = "certificateChain";

/// What is wrong with a field.
enum Wrong {
    Missing(&'static str),
    Value(String),
}

/// Times and key of an issued certificate agree with what was asked and what the status says.
fn issued(object: &Value, now: Timestamp) -> Result<(), (&'static str, Wrong)> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let bad = |field: &'static str, why: &str| Err((field, Wrong::Value(why.to_owned())));
    let chain = text(status, CHAIN);
    if chain.len() > CHAIN_BYTES_MAX {
        return bad(CHAIN, &format!("may not be more than {CHAIN_BYTES_MAX} bytes"));
    }
    let mut blocks = Pem::iter_from_buffer(chain.as_bytes()).map_while(Result::ok);
    let Some(leaf) = blocks.next() else {
        return bad(CHAIN, "issued certificate chain must contain at least one certificate");
    };
    const ONLY_CERTIFICATES: &str = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
    if leaf.label != "CERTIFICATE" {
        return bad(CHAIN, ONLY_CERTIFICATES);
    }
    let Ok((_, certificate)) = X509Certificate::from_der(&leaf.contents) else {
        return bad(CHAIN, "leaf certificate does not parse as valid X.509");
    };
    if public_key(spec).is_ok_and(|key| key != certificate.public_key().raw) {
        return bad(CHAIN, "leaf certificate was not issued to the requested public key");
    }
    let time = |name: &'static str, why: &'static str| {
        let time = text(status, name).parse::<Timestamp>().map_err(|_| (name, Wrong::Missing(why)))?;
        Ok(time.as_second())
    };
    let begin = time("notBefore", "must be present and consistent with the issued certificate")?;
    let end = time("notAfter", "must be present and consistent with the issued certificate")?;
    let refresh = time("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]")?;
    if certificate.validity().not_before.timestamp() != begin {
        return bad("notBefore", "must be set to the NotBefore time encoded in the leaf certificate");
    }
    if (begin - now.as_second()).abs() > BEGIN_MARGIN {
        return bad("notBefore", "must be set to within 5 minutes of kube-apiserver's current time");
    }
    if certificate.validity().not_after.timestamp() != end {
        return bad("notAfter", "must be set to the NotAfter time encoded in the leaf certificate");
    }
    let seconds = int(spec, "maxExpirationSeconds").unwrap_or(SECONDS_DEFAULT);
    if end - begin < SECONDS_MIN {
        return bad(CHAIN, "leaf certificate lifetime must be >= 1 hour");
    }
    if end - begin > seconds {
        return bad(CHAIN, &format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({seconds})"));
    }
    if refresh < begin + REFRESH_MARGIN {
        return bad("beginRefreshAt", "must be at least 10 minutes after status.notBefore");
    }
    if refresh > end - REFRESH_MARGIN {
        return bad("beginRefreshAt", "must be at least 10 minutes before status.notAfter");
    }
    for block in blocks {
        if block.label != "CERTIFICATE" {
            return bad(CHAIN, ONLY_CERTIFICATES);
        }
        if X509Certificate::from_der(&block.contents).is_err() {
            return bad(CHAIN, "intermediate certificate does not parse as valid X.509");
        }
    }
    Ok(())
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

    fn answered(request: &Value, status: Value, old: Value) -> Vec<String> {
        let mut object = request.clone();
        object["status"] = status;
        let mut errors = Errors::new();
        super::status(&mut errors, &object, &json!({"status": old}), Timestamp::now());
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn an_answer_is_one_and_final() {
        let request = request();
        let check = |status: Value, old: Value| answered(&request, status, old).len();
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        assert_eq!(check(json!({"conditions": [condition("Denied")]}), Value::Null), 0);
        assert_eq!(check(json!({"conditions": [condition("Denied"), condition("Failed")]}), Value::Null), 1);
        assert_eq!(check(json!({"conditions": [condition("Odd")]}), Value::Null), 1);
        assert_eq!(check(json!({"conditions": []}), json!({"conditions": [condition("Denied")]})), 1);
        assert_eq!(check(json!({"conditions": [condition("Issued")]}), Value::Null), 1, "the chain is missing");
        assert_eq!(check(json!({"certificateChain": "x"}), Value::Null), 1);
        let more = json!({"conditions": [condition("Failed")], "notAfter": "2026-01-01T00:00:00Z"});
        assert_eq!(check(more, Value::Null), 1);
    }

    #[test]
    fn a_certificate_fits_what_was_asked() {
        let key = rcgen::KeyPair::generate().unwrap();
        let stub = rcgen::CertificateParams::new(Vec::new()).unwrap().serialize_request(&key).unwrap();
        let mut request = request();
        request["spec"]["stubPKCS10Request"] = BASE64.encode(stub.der()).into();
        let now = Timestamp::now().as_second();
        let text = |seconds: i64| Timestamp::from_second(seconds).unwrap().to_string();
        let chain = |key: &rcgen::KeyPair, begin: i64, end: i64| {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.not_before = time::OffsetDateTime::from_unix_timestamp(begin).unwrap();
            params.not_after = time::OffsetDateTime::from_unix_timestamp(end).unwrap();
            params.self_signed(key).unwrap().pem()
        };
        let status = |chain: String, begin: i64, refresh: i64, end: i64| {
            json!({"conditions": [{"type": "Issued", "status": "True"}], "certificateChain": chain,
                "notBefore": text(begin), "beginRefreshAt": text(refresh), "notAfter": text(end)})
        };
        let check = |status: Value| answered(&request, status, Value::Null).join("\n");
        let (end, refresh) = (now + 7200, now + 3600);
        assert_eq!(check(status(chain(&key, now, end), now, refresh, end)), "");
        let other = rcgen::KeyPair::generate().unwrap();
        for (status, wanted) in [
            (status(chain(&other, now, end), now, refresh, end), "was not issued to the requested public key"),
            (status(chain(&key, now, end), now + 1, refresh, end), "NotBefore time encoded in the leaf"),
            (status(chain(&key, now - 900, end), now - 900, refresh, end), "within 5 minutes"),
            (status(chain(&key, now, end), now, refresh, end + 1), "NotAfter time encoded in the leaf"),
            (status(chain(&key, now, now + 60), now, refresh, now + 60), "lifetime must be >= 1 hour"),
            (status(chain(&key, now, now + 90_000), now, refresh, now + 90_000), "spec.maxExpirationSeconds (86400)"),
            (status(chain(&key, now, end), now, now + 9, end), "10 minutes after status.notBefore"),
            (status(chain(&key, now, end), now, end - 9, end), "10 minutes before status.notAfter"),
            (status("nothing".into(), now, refresh, end), "at least one certificate"),
        ] {
            let found = check(status);
            assert!(found.contains(wanted), "{wanted}: {found}");
        }
    }

    #[test]
    fn weak_keys_are_refused_and_p521_is_not() {
        use p521::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Signer};
        let key = SigningKey::from_slice(&[1; 66].map(|byte| byte & 1)).unwrap();
        let point = VerifyingKey::from(&key).to_sec1_point(false);
        let tlv = |tag: u8, parts: &[&[u8]]| {
            let content = parts.concat();
            let length = content.len();
            let head =
                if length < 128 { vec![tag, length as u8] } else { vec![tag, 0x82, (length >> 8) as u8, length as u8] };
            [head, content].concat()
        };
        let algorithm =
            tlv(0x30, &[&tlv(6, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]]), &tlv(6, &[&[0x2b, 0x81, 4, 0, 0x23]])]);
        let public = tlv(0x30, &[&algorithm, &tlv(3, &[&[0], point.as_bytes()])]);
        let info = tlv(0x30, &[&tlv(2, &[&[0]]), &tlv(0x30, &[]), &public, &tlv(0xa0, &[])]);
        let signed = |words: &[u8]| {
            let signature: Signature = key.sign(words);
            let (r, s) = signature.split_bytes();
            let number = |digits: &[u8]| {
                let digits = &digits[digits.iter().take_while(|byte| **byte == 0).count()..];
                let pad: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
                tlv(2, &[pad, digits])
            };
            let both = tlv(0x30, &[&number(&r), &number(&s)]);
            let by = tlv(0x30, &[&tlv(6, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4]])]);
            json!({"stubPKCS10Request": BASE64.encode(tlv(0x30, &[&info, &by, &tlv(3, &[&[0], &both])]))})
        };
        public_key(&signed(&info)).unwrap();
        assert_eq!(public_key(&signed(b"other words")).unwrap_err(), "could not verify proof-of-possession signature");
    }
}
