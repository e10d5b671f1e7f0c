//! Secrets.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use skiff_api::Cause;

use super::config_map::{DATA_BYTES_MAX, decoded_len, immutable};
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{child, copy_field, default_text, entries, remove, set, text, text_at},
};

/// Annotation naming the account of a token secret.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const REDACTED: &str = "<secret contents redacted>";

pub struct SecretStrategy;

impl Strategy for SecretStrategy {
    fn default(&self, op: Operation<'_>, object: &mut Value) {
        if let (Operation::Update { old }, true) = (op, text(object, "type").is_empty()) {
            copy_field(object, old, "type");
        }
        default_text(object, "type", "Opaque");
        merge_string_data(object);
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let data = Path::new("data");
        let mut bytes = 0;
        for (key, value) in entries(object, "data") {
            errors.invalid_all(&data.key(key), key, formats::config_key(key));
            bytes += decoded_len(value);
        }
        if bytes > DATA_BYTES_MAX {
            errors.too_long(&data, DATA_BYTES_MAX);
        }
        contents(&mut errors, object);
        if let Operation::Update { old } = op {
            errors.immutable(&Path::new("type"), &object["type"], &old["type"]);
            immutable(&mut errors, object, old, &["data"]);
        }
        errors.into_causes()
    }
}

/// `stringData` is a write-only way to give `data`; it wins over it.
fn merge_string_data(object: &mut Value) {
    let Some(Value::Object(plain)) = remove(object, "stringData") else { return };
    let data = child(object, "data");
    for (key, value) in plain {
        set(data, &key, BASE64.encode(value.as_str().unwrap_or_default()));
    }
}

/// What well-known types must hold.
fn contents(errors: &mut Errors, object: &Value) {
    let data = Path::new("data");
    let has = |key: &str| object["data"].get(key).is_some();
    match text(object, "type") {
        "kubernetes.io/service-account-token" if text_at(object, &["metadata", "annotations", ACCOUNT]).is_empty() => {
            let metadata = Path::new("metadata");
            errors.required(&metadata.child("annotations").key(ACCOUNT), "");
        }
        "kubernetes.io/dockercfg" => json_key(errors, object, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_key(errors, object, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.required(&data.key("username"), "");
            errors.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if text_at(object, &["data", "ssh-privatekey"]).is_empty() => {
            errors.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    errors.required(&data.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn json_key(errors: &mut Errors, object: &Value, key: &str) {
    let data = Path::new("data");
    let Some(encoded) = object["data"].get(key).and_then(Value::as_str) else {
        errors.required(&data.key(key), "");
        return;
    };
    let parsed = BASE64.decode(encoded).ok().map(|bytes| serde_json::from_slice::<Value>(&bytes));
    if let Some(Err(error)) = parsed {
        errors.invalid(&data.key(key), REDACTED, error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn string_data_is_merged_and_wins() {
        let mut object = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        SecretStrategy.default(Operation::Create, &mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "eQ==", "b": "eg=="}}));
    }

    #[test]
    fn types_demand_their_keys() {
        let check = |object: Value| {
            let mut errors = Errors::new();
            contents(&mut errors, &object);
            lines(errors.into_causes())
        };
        assert_eq!(
            check(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
            ["data[tls.key]: Required value"]
        );
        assert_eq!(
            check(json!({"type": "kubernetes.io/dockerconfigjson"})),
            ["data[.dockerconfigjson]: Required value"]
        );
        assert_eq!(
            check(json!({"type": "kubernetes.io/service-account-token"})),
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]
        );
    }
}
