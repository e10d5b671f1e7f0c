//! Group `certificates.k8s.io`: CertificateSigningRequests.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{
    core::pod::strategy::seconds,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{child, copy_field, field, int, items, list, set, text},
};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const SECONDS_MIN: i64 = 600;

pub struct CertificateSigningRequestStrategy;

impl Strategy for CertificateSigningRequestStrategy {
    fn prepare(&self, context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        match op {
            Operation::Create => requester(context, object),
            Operation::Update { old } => {
                copy_field(object, old, "spec");
                copy_field(object, old, "status");
            }
            // Approval adds conditions and nothing else; status adds the certificate.
            Operation::Subresource { name: "approval", old } => {
                let conditions = field(&object["status"], "conditions").cloned();
                copy_field(object, old, "spec");
                copy_field(object, old, "status");
                if let Some(conditions) = conditions {
                    set(child(object, "status"), "conditions", conditions);
                }
                stamp(context, object, &old["status"]);
            }
            Operation::Status { old } => stamp(context, object, &old["status"]),
            _ => {}
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match op {
            Operation::Create => spec(&mut errors, &object["spec"]),
            Operation::Subresource { name: "approval", old } => {
                conditions(&mut errors, &object["status"], &old["status"], &["Approved", "Denied"]);
            }
            Operation::Status { old } => {
                conditions(&mut errors, &object["status"], &old["status"], &["Failed"]);
                certificate(&mut errors, &object["status"], &old["status"]);
            }
            _ => {}
        }
        errors.into_causes()
    }
}

/// Who asks is what the server knows, not what the body says.
fn requester(context: &RequestContext<'_>, object: &mut Value) {
    let spec = child(object, "spec");
    let user = context.user;
    set(spec, "username", user.username.as_str());
    for (name, value) in [("uid", json!(user.uid)), ("groups", json!(user.groups)), ("extra", json!(user.extra))] {
        let empty = value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if empty {
            super::value::remove(spec, name);
        } else {
            set(spec, name, value);
        }
    }
}

/// Times of conditions that are new or changed.
fn stamp(context: &RequestContext<'_>, object: &mut Value, old: &Value) {
    let now = seconds(context.now);
    for condition in items(child(object, "status"), "conditions") {
        let before = list(old, "conditions").iter().find(|other| text(other, "type") == text(condition, "type"));
        if field(condition, "lastUpdateTime").is_none() {
            set(condition, "lastUpdateTime", now.as_str());
        }
        if field(condition, "lastTransitionTime").is_none() {
            let same = before.filter(|before| text(before, "status") == text(condition, "status"));
            let since = same.and_then(|before| field(before, "lastTransitionTime")).cloned();
            set(condition, "lastTransitionTime", since.unwrap_or_else(|| now.as_str().into()));
        }
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    if text(spec, "request").is_empty() {
        errors.required(&path.child("request"), "");
    }
    match text(spec, "signerName") {
        "" => errors.required(&path.child("signerName"), ""),
        "kubernetes.io/legacy-unknown" => {
            errors.invalid(
                &path.child("signerName"),
                "kubernetes.io/legacy-unknown",
                "the legacy signerName is not allowed via this API version",
            );
        }
        name => errors.invalid_all(&path.child("signerName"), name, formats::domain_prefixed_path(name)),
    }
    if int(spec, "expirationSeconds").is_some_and(|seconds| seconds < SECONDS_MIN) {
        errors.invalid(
            &path.child("expirationSeconds"),
            &spec["expirationSeconds"],
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
    let usages_path = path.child("usages");
    let usages: Vec<&str> = list(spec, "usages").iter().filter_map(Value::as_str).collect();
    if usages.is_empty() {
        errors.required(&usages_path, "usages cannot be empty");
    }
    for (i, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            errors.not_supported(&usages_path.index(i), *usage, &USAGES);
        } else if usages[..i].contains(usage) {
            errors.duplicate(&usages_path.index(i), *usage);
        }
    }
}

/// Only `allowed` types may come or go; approval and denial exclude each other.
fn conditions(errors: &mut Errors, new: &Value, old: &Value, allowed: &[&str]) {
    let path = Path::new("status");
    let path = path.child("conditions");
    let (new, old) = (list(new, "conditions"), list(old, "conditions"));
    let has = |conditions: &[Value], kind: &str| conditions.iter().any(|condition| text(condition, "type") == kind);
    for (i, condition) in new.iter().enumerate() {
        let path = path.index(i);
        let kind = text(condition, "type");
        if kind.is_empty() {
            errors.required(&path.child("type"), "");
        }
        if matches!(kind, "Approved" | "Denied" | "Failed") && text(condition, "status") != "True" {
            errors.not_supported(&path.child("status"), text(condition, "status"), &["True"]);
        }
        if new[..i].iter().any(|other| text(other, "type") == kind) {
            errors.duplicate(&path.child("type"), kind);
        }
    }
    if has(new, "Approved") && has(new, "Denied") {
        errors.invalid(&path, "Denied", "Approved and Denied conditions are mutually exclusive");
    }
    for kind in ["Approved", "Denied", "Failed"] {
        match (has(old, kind), has(new, kind)) {
            (true, false) => errors.forbidden(&path, format!("updates may not remove a condition of type {kind:?}")),
            (false, true) if !allowed.contains(&kind) => {
                errors.forbidden(&path, format!("updates may not add a condition of type {kind:?}"));
            }
            _ => {}
        }
    }
}

fn certificate(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("status");
    let before = field(old, "certificate");
    if before.is_some() && before != field(new, "certificate") {
        errors.forbidden(
            &path.child("certificate"),
            "updates may not set certificate content once existing certificate content is set",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    #[test]
    fn approval_and_denial_exclude_each_other_and_stay() {
        let with = |kinds: &[&str]| json!({"conditions": kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect::<Vec<_>>()});
        let check = |new: &[&str], old: &[&str], allowed: &[&str]| {
            let mut errors = Errors::new();
            conditions(&mut errors, &with(new), &with(old), allowed);
            lines(errors.into_causes())
        };
        let approval = ["Approved", "Denied"];
        assert!(check(&["Approved"], &[], &approval).is_empty());
        assert_eq!(check(&["Approved", "Denied"], &["Approved"], &approval).len(), 1);
        assert_eq!(
            check(&[], &["Approved"], &approval),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        assert_eq!(check(&["Approved"], &[], &["Failed"]).len(), 1, "status may not approve");
    }

    #[test]
    fn a_request_names_signer_and_usages() {
        let mut errors = Errors::new();
        spec(
            &mut errors,
            &json!({"request": "x", "signerName": "example.com/a", "usages": ["client auth", "client auth", "x"]}),
        );
        let lines = lines(errors.into_causes());
        assert_eq!(lines[0], "spec.usages[1]: Duplicate value: \"client auth\"");
        assert!(lines[1].starts_with("spec.usages[2]: Unsupported value: \"x\""));
    }
}
