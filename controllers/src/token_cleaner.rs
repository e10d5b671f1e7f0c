//! Removes bootstrap tokens whose time is over.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use skiff_api::Object;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::write;

pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const PREFIX: &str = "bootstrap-token-";
pub(crate) const KIND: &str = "bootstrap.kubernetes.io/token";

pub struct TokenCleaner;

/// When a token ends, if it says so.
pub(crate) fn expiration(secret: &Value) -> Option<Timestamp> {
    let bytes = BASE64.decode(secret["data"]["expiration"].as_str()?).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

/// Whether a Secret is at the place of a token.
pub(crate) fn is_token(secret: &Object) -> bool {
    secret.meta.namespace == NAMESPACE && secret.meta.name.starts_with(PREFIX)
}

impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::new::<Secret>(|new, _, _| {
            new.filter(|secret| is_token(secret)).map(ObjectRef::of).into_iter().collect()
        })]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(secret) = world.object::<Secret>(&key.namespace, &key.name) else { return outcome };
        let Some(end) = secret.value().ok().filter(|value| value["type"] == KIND).and_then(|value| expiration(&value))
        else {
            return outcome;
        };
        match Duration::try_from(end.duration_since(context.now)) {
            Ok(rest) if !rest.is_zero() => outcome.requeue_after = Some(rest),
            _ => outcome.push(write::delete::<Secret>(&secret)),
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulation;

    #[test]
    fn only_what_is_over_goes() {
        let token = |name: &str, end: &str| {
            format!(
                "apiVersion: v1
kind: Secret
type: {KIND}
metadata: {{name: {PREFIX}{name}, namespace: {NAMESPACE}}}
data: {{expiration: {}}}",
                BASE64.encode(end)
            )
        };
        let world = [token("old", "2025-12-31T23:59:59Z"), token("new", "2027-01-01T00:00:00Z")].join("\n---\n");
        let mut simulation = Simulation::new(&world);
        simulation.settle(&[&TokenCleaner], false, |_| {});
        assert!(simulation.value("secrets", NAMESPACE, "bootstrap-token-old").is_none());
        assert!(simulation.value("secrets", NAMESPACE, "bootstrap-token-new").is_some());
    }
}
