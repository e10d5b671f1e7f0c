//! Signs the `cluster-info` ConfigMap with every bootstrap token that may sign,
//! so that who holds a token can tell the cluster's kubeconfig from a forged one.
//!
//! A signature is a JWS (RFC 7515, HS256) whose content is detached: the
//! kubeconfig next to it. Its key is the whole token, `id.secret`.

use std::{collections::BTreeMap, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use ring::hmac;
use serde_json::{Value, json};
use skiff_api::GroupResource;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    seen,
    token_cleaner::{KIND, NAMESPACE as TOKENS, PREFIX, expiration, is_token},
    write,
};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

pub struct BootstrapSigner;

impl Controller for BootstrapSigner {
    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let signed = || vec![ObjectRef::new(NAMESPACE, NAME)];
        vec![
            Trigger::new::<ConfigMap>(move |new, old, _| {
                let is_it = |map: &skiff_api::Object| map.meta.namespace == NAMESPACE && map.meta.name == NAME;
                if new.or(old).is_some_and(is_it) { signed() } else { Vec::new() }
            }),
            Trigger::new::<Secret>(
                move |new, old, _| if new.or(old).is_some_and(is_token) { signed() } else { Vec::new() },
            ),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Secret>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(map) = seen::get::<ConfigMap>(world, &key.namespace, &key.name) else { return outcome };
        let data = map.typed.data.clone().unwrap_or_default();
        let Some(content) = data.get(CONTENT) else { return outcome };
        let mut wanted: BTreeMap<String, String> =
            data.iter().filter(|(name, _)| !name.starts_with(SIGNATURE)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let secrets = world.store_of::<Secret>().map(|store| store.list(Some(TOKENS))).unwrap_or_default();
        for secret in secrets.iter().filter(|secret| is_token(secret)) {
            let Ok(value) = secret.value() else { continue };
            let Some(Token { id, token, end }) = Token::of(&secret.meta.name, &value) else { continue };
            if let Some(end) = end {
                match Duration::try_from(end.duration_since(context.now)) {
                    Ok(rest) if !rest.is_zero() => {
                        outcome.requeue_after = Some(outcome.requeue_after.map_or(rest, |have| have.min(rest)));
                    }
                    _ => continue,
                }
            }
            wanted.insert(format!("{SIGNATURE}{id}"), sign(&id, &token, content));
        }
        if wanted != data
            && let Ok(mut value) = map.object.value()
        {
            value["data"] = json!(wanted);
            outcome.push(write::update::<ConfigMap>(&map.object, value));
        }
        outcome
    }
}

/// A token that may sign.
struct Token {
    id: String,
    /// All of it.
    token: String,
    end: Option<Timestamp>,
}

impl Token {
    fn of(name: &str, secret: &Value) -> Option<Token> {
        let text = |field: &str| {
            let bytes = BASE64.decode(secret["data"][field].as_str()?).ok()?;
            String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
        };
        if secret["type"] != KIND || text("usage-bootstrap-signing")? != "true" {
            return None;
        }
        let (id, rest) = (text("token-id")?, text("token-secret")?);
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_right = id.len() == 6 && id.bytes().all(is_plain) && name.strip_prefix(PREFIX) == Some(&id);
        // An end that cannot be read counts as over.
        if !is_right || (!secret["data"]["expiration"].is_null() && expiration(secret).is_none()) {
            return None;
        }
        Some(Token { token: format!("{id}.{rest}"), id, end: expiration(secret) })
    }
}

fn sign(id: &str, token: &str, content: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
    let signature = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(content)).as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulation;

    fn token(id: &str, end: &str, signing: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "type": KIND,
            "metadata": {"name": format!("{PREFIX}{id}"), "namespace": TOKENS},
            "data": {"token-id": BASE64.encode(id), "token-secret": BASE64.encode("abcdef0123456789"),
                "expiration": BASE64.encode(end), "usage-bootstrap-signing": BASE64.encode(signing)}})
    }

    fn data(simulation: &Simulation) -> Value {
        simulation.value("configmaps", NAMESPACE, NAME).unwrap()["data"].clone()
    }

    #[test]
    fn tokens_that_may_sign_do_and_others_do_not() {
        let mut simulation = Simulation::new("");
        simulation
            .put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {CONTENT: "where", "jws-kubeconfig-gone00": "old"}}));
        simulation.put(token("yes123", "2027-01-01T00:00:00Z", "true"));
        simulation.put(token("old123", "2025-01-01T00:00:00Z", "true"));
        simulation.put(token("bad123", "whenever", "true"));
        simulation.put(token("not123", "2027-01-01T00:00:00Z", "false"));
        simulation.settle(&[&BootstrapSigner], false, |_| {});
        let after = data(&simulation);
        let names: Vec<&String> = after.as_object().unwrap().keys().collect();
        assert_eq!(names, ["jws-kubeconfig-yes123", CONTENT]);
        let parts: Vec<&str> = after["jws-kubeconfig-yes123"].as_str().unwrap().split('.').collect();
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[0]).unwrap(), br#"{"alg":"HS256","kid":"yes123"}"#);
        assert_eq!(parts[1], "", "the content stands beside");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"yes123.abcdef0123456789");
        let signed = format!("{}.{}", parts[0], URL_SAFE_NO_PAD.encode("where"));
        hmac::verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();

        simulation.edit("configmaps", NAMESPACE, NAME, |map| map["data"][CONTENT] = "elsewhere".into());
        simulation.settle(&[&BootstrapSigner], false, |_| {});
        assert_ne!(data(&simulation)["jws-kubeconfig-yes123"], after["jws-kubeconfig-yes123"]);
    }

    #[test]
    fn a_signature_ends_with_its_token() {
        let mut simulation = Simulation::new("");
        simulation
            .put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {CONTENT: "where"}}));
        simulation.put(token("yes123", "2026-01-01T00:01:00Z", "true"));
        simulation.step(&BootstrapSigner, &ObjectRef::new(NAMESPACE, NAME));
        assert!(data(&simulation)["jws-kubeconfig-yes123"].is_string());
        simulation.pass(61);
        simulation.step(&BootstrapSigner, &ObjectRef::new(NAMESPACE, NAME));
        assert_eq!(data(&simulation), json!({CONTENT: "where"}));
    }
}
