//! Secrets of type `kubernetes.io/service-account-token`: long-lived tokens of
//! accounts, for those who still use them. A token is put into each, and a
//! Secret goes when its account does.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};
use skiff_api::Object;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::write;

const KIND: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Makes tokens that end with their Secret.
pub trait SecretTokens: Send + Sync + 'static {
    /// A token of an account (namespace, name, uid) bound to a Secret (name, uid).
    fn token(&self, namespace: &str, account: (&str, &str), secret: (&str, &str)) -> Option<String>;
}

pub struct TokenSecretController {
    pub tokens: Arc<dyn SecretTokens>,
    pub root_ca_pem: String,
}

/// Name of the account a token Secret belongs to.
fn account_of(object: &Object) -> Option<String> {
    let account = object.meta.annotations.get(ACCOUNT_NAME)?;
    Some(account.to_string())
}

impl Controller for TokenSecretController {
    fn name(&self) -> &'static str {
        "tokens-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let secrets = Trigger::new::<Secret>(|new, _, _| {
            new.filter(|secret| account_of(secret).is_some()).map(ObjectRef::of).into_iter().collect()
        });
        let accounts = Trigger::new::<ServiceAccount>(|new, old, world| {
            // Most changes of accounts are of no account to their Secrets.
            if let (Some(new), Some(old)) = (new, old)
                && new.meta.uid == old.meta.uid
            {
                return Vec::new();
            }
            let Some(account) = new.or(old) else { return Vec::new() };
            let Some(store) = world.store_of::<Secret>() else { return Vec::new() };
            let all = store.list(Some(&account.meta.namespace));
            all.iter()
                .filter(|secret| account_of(secret).as_deref() == Some(&account.meta.name))
                .map(|secret| ObjectRef::of(secret))
                .collect()
        });
        vec![secrets, accounts]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(secret) = world.object::<Secret>(&key.namespace, &key.name) else { return outcome };
        let (Ok(mut value), Some(name)) = (secret.value(), account_of(&secret)) else { return outcome };
        if value["type"] != KIND || secret.meta.is_deleting() {
            return outcome;
        }
        let uid = secret.meta.annotations.get(ACCOUNT_UID).map(ToString::to_string).unwrap_or_default();
        let account = world.object::<ServiceAccount>(&key.namespace, &name);
        match account {
            Some(account) if uid.is_empty() || account.meta.uid.as_str() == uid => {
                if self.fill(&mut value, &account, &secret) {
                    outcome.push(write::update::<Secret>(&secret, value));
                }
            }
            // The account is gone or is another one of the same name: so is what the token was good for.
            _ => outcome.push(write::delete::<Secret>(&secret)),
        }
        outcome
    }
}

impl TokenSecretController {
    /// Adds what is missing; false when nothing is.
    fn fill(&self, value: &mut Value, account: &Object, secret: &Object) -> bool {
        let before = value.clone();
        if !value["data"].is_object() {
            value["data"] = json!({});
        }
        if value["data"]["token"].as_str().unwrap_or_default().is_empty() {
            let names = (account.meta.name.as_str(), account.meta.uid.as_str());
            let bound = (secret.meta.name.as_str(), secret.meta.uid.as_str());
            let Some(token) = self.tokens.token(&account.meta.namespace, names, bound) else { return false };
            value["data"]["token"] = BASE64.encode(token).into();
        }
        value["metadata"]["annotations"][ACCOUNT_UID] = account.meta.uid.as_str().into();
        value["data"]["ca.crt"] = BASE64.encode(&self.root_ca_pem).into();
        value["data"]["namespace"] = BASE64.encode(account.meta.namespace.as_bytes()).into();
        *value != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulation;

    struct Tokens;

    impl SecretTokens for Tokens {
        fn token(&self, namespace: &str, account: (&str, &str), secret: (&str, &str)) -> Option<String> {
            Some(format!("{namespace}/{}/{}/{}", account.0, account.1.is_empty(), secret.0))
        }
    }

    #[test]
    fn a_secret_gets_its_token_and_goes_with_its_account() {
        let controller = TokenSecretController { tokens: Arc::new(Tokens), root_ca_pem: "CA".into() };
        let mut simulation = Simulation::new(
            "apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: ns}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata: {name: robot-token, namespace: ns, annotations: {kubernetes.io/service-account.name: robot}}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata: {name: lost, namespace: ns, annotations: {kubernetes.io/service-account.name: nobody}}",
        );
        simulation.settle(&[&controller], false, |_| {});
        let secret = simulation.value("secrets", "ns", "robot-token").unwrap();
        assert_eq!(secret["data"]["token"], BASE64.encode("ns/robot/false/robot-token"));
        assert_eq!(secret["data"]["ca.crt"], BASE64.encode("CA"));
        assert!(secret["metadata"]["annotations"][ACCOUNT_UID].is_string());
        assert!(simulation.value("secrets", "ns", "lost").is_none());
    }
}
