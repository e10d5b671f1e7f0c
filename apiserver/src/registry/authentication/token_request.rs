//! `serviceaccounts/token`: a fresh token for an account, perhaps bound to a
//! pod, node or secret.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionKind, GroupVersionResource, Object, Status};
use skiff_client::Snapshot;

use crate::{
    admission::endpoint,
    authn::service_account::{Binding, Reference, TokenIssuer},
    registry::{
        core::pod::strategy::seconds,
        endpoint::{Endpoint, EndpointRequest, EndpointResponse},
        validation::{Errors, Path},
        value::{child, default, field, int, list, set, text, text_at},
    },
};

const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// The lifetime that pods get instead of this odd request, so that old clients
/// which never reread their token keep working; they are warned after the hour.
const POD_TOKEN_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

pub struct TokenRequestEndpoint {
    pub issuer: Arc<TokenIssuer>,
}

#[async_trait]
impl Endpoint for TokenRequestEndpoint {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status> {
        let accounts = GroupVersionResource::new("", "v1", "serviceaccounts");
        let kind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        let mut body = endpoint::admit(&request, &accounts, "token", &kind).await?;
        let (namespace, account_name) = (request.context.namespace, request.name);
        let resources = request.store.resources();
        let row = resources
            .lookup("", "v1", "serviceaccounts")
            .ok_or_else(|| Status::internal("the resource table has no serviceaccounts"))?;
        let account = request.store.get(&row, namespace, account_name).await?;
        let spec = child(&mut body, "spec");
        default(spec, "expirationSeconds", SECONDS_DEFAULT);
        if list(spec, "audiences").is_empty() {
            set(spec, "audiences", json!(self.issuer.audiences()));
        }
        let wanted = int(spec, "expirationSeconds").unwrap_or(SECONDS_DEFAULT);
        validate(spec, wanted)?;
        let audiences: Vec<String> =
            list(spec, "audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut binding = Binding {
            namespace: namespace.to_owned(),
            serviceaccount: Reference { name: account_name.to_owned(), uid: account.meta.uid.0.clone() },
            ..Binding::default()
        };
        bind(&mut binding, request.context.snapshot, &account, &spec["boundObjectRef"])?;
        let now = request.context.now;
        let mut lifetime = wanted;
        if wanted == POD_TOKEN_SECONDS && binding.pod.is_some() && audiences == self.issuer.audiences() {
            binding.warnafter = Some(now.as_second() + wanted);
            lifetime = EXTENDED_SECONDS;
        }
        let issued = self.issuer.issue(binding, &audiences, Duration::from_secs(lifetime.unsigned_abs()), now);
        // The answer names the lifetime that was asked for: that is when the node agent should refresh.
        let shown = if lifetime == wanted { issued.expires } else { now + jiff::SignedDuration::from_secs(wanted) };
        set(&mut body, "status", json!({"token": issued.token, "expirationTimestamp": seconds(shown)}));
        let metadata = child(&mut body, "metadata");
        set(metadata, "name", account_name);
        set(metadata, "namespace", namespace);
        set(metadata, "creationTimestamp", seconds(now));
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}

fn validate(spec: &Value, wanted: i64) -> Result<(), Status> {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    if wanted < SECONDS_MIN {
        errors.invalid(&path.child("expirationSeconds"), wanted, "may not specify a duration less than 10 minutes");
    }
    if wanted > SECONDS_MAX {
        errors.invalid(&path.child("expirationSeconds"), wanted, "may not specify a duration larger than 2^32 seconds");
    }
    if let Some(reference) = field(spec, "boundObjectRef")
        && text(reference, "name").is_empty()
    {
        errors.required(&path.child("boundObjectRef").child("name"), "");
    }
    if errors.is_empty() {
        return Ok(());
    }
    // Upstream does not name the account here.
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", errors.into_causes()))
}

/// Checks the object the token shall die with and notes it.
fn bind(binding: &mut Binding, snapshot: &Snapshot, account: &Object, reference: &Value) -> Result<(), Status> {
    if reference.is_null() {
        return Ok(());
    }
    let name = text(reference, "name");
    let find = |namespace: &str, resource: &'static str| -> Result<Arc<Object>, Status> {
        let store = snapshot.store(&GroupResource::new("", resource));
        let object =
            store.and_then(|store| store.get(namespace, name)).ok_or_else(|| Status::not_found("", resource, name))?;
        let uid = text(reference, "uid");
        if !uid.is_empty() && uid != object.meta.uid.as_str() {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", resource, name, why));
        }
        Ok(object)
    };
    let note = |object: &Object| Reference { name: object.meta.name.clone(), uid: object.meta.uid.0.clone() };
    match (text(reference, "apiVersion"), text(reference, "kind")) {
        ("v1", "Pod") => {
            let pod = find(&account.meta.namespace, "pods")?;
            let value = pod.value().map_err(Status::internal)?;
            let used = text_at(&value, &["spec", "serviceAccountName"]);
            if used != account.meta.name {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.meta.name
                );
                return Err(Status::bad_request(why));
            }
            binding.pod = Some(note(&pod));
            let node_name = text_at(&value, &["spec", "nodeName"]);
            if !node_name.is_empty() {
                let node = snapshot.store(&GroupResource::new("", "nodes")).and_then(|store| store.get("", node_name));
                let uid = node.map(|node| node.meta.uid.0.clone()).unwrap_or_default();
                binding.node = Some(Reference { name: node_name.to_owned(), uid });
            }
        }
        ("v1", "Node") => binding.node = Some(note(&*find("", "nodes")?)),
        ("v1", "Secret") => binding.secret = Some(note(&*find(&account.meta.namespace, "secrets")?)),
        (version, kind) => {
            return Err(Status::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_limits() {
        assert!(validate(&json!({}), 600).is_ok());
        let error = validate(&json!({}), 599).unwrap_err();
        assert!(
            error.message.contains(
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"
            )
        );
        assert!(validate(&json!({"boundObjectRef": {"kind": "Pod"}}), 600).is_err());
    }
}
