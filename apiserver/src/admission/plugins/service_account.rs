//! ServiceAccount: every pod runs as an account of its namespace and, unless
//! told otherwise, finds a token, the cluster's CA and its namespace in a
//! projected volume at a well-known path.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ServiceAccount as Account;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Status};

use super::lookup::find_soon;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    authz::node::references,
    registry::value::{child, field, items_mut, list, set, text, text_at},
};

const DEFAULT_ACCOUNT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The lifetime by which the server recognises this request (see `token_request`).
const TOKEN_SECONDS: i64 = 3607;
const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The default account of a new namespace is made by a controller; pods made at once wait for it.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(50);

pub struct ServiceAccount;

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Create
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let Some(mut pod) = request.object.take() else { return Ok(()) };
        let result = admit(request, &mut pod).await;
        request.object = Some(pod);
        result
    }
}

async fn admit(request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    if !text_at(pod, &["metadata", "annotations", MIRROR_ANNOTATION]).is_empty() {
        return mirror(request, pod);
    }
    let spec = child(pod, "spec");
    if text(spec, "serviceAccountName").is_empty() {
        set(spec, "serviceAccountName", DEFAULT_ACCOUNT);
        set(spec, "serviceAccount", DEFAULT_ACCOUNT);
    }
    let account_name = text(spec, "serviceAccountName").to_owned();
    let account = account(request, &account_name).await?;
    let account = account.typed::<Account>().map_err(Status::internal)?;
    let automount =
        spec["automountServiceAccountToken"].as_bool().or(account.automount_service_account_token).unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    if list(spec, "imagePullSecrets").is_empty()
        && let Some(secrets) = account.image_pull_secrets.as_ref().filter(|secrets| !secrets.is_empty())
    {
        set(spec, "imagePullSecrets", json!(secrets));
    }
    Ok(())
}

/// A mirror pod stands for a process of the node, which has no account.
fn mirror(request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Status> {
    if !text(&pod["spec"], "serviceAccountName").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    if !references(pod).secrets.is_empty() {
        return Err(request.forbidden("a mirror pod may not reference secrets"));
    }
    let mut sources = list(&pod["spec"], "volumes").iter().flat_map(|volume| list(&volume["projected"], "sources"));
    if sources.any(|source| field(source, "serviceAccountToken").is_some()) {
        return Err(request.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

async fn account(request: &AdmissionRequest<'_>, name: &str) -> Result<Arc<Object>, Status> {
    let patience = if name == DEFAULT_ACCOUNT { DEFAULT_PATIENCE } else { PATIENCE };
    let accounts = GroupResource::new("", "serviceaccounts");
    find_soon(request.snapshot, accounts, request.namespace, name, patience).await.ok_or_else(|| {
        let namespace = request.namespace;
        request.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ))
    })
}

fn mount_token(spec: &mut Value) {
    let existing =
        list(spec, "volumes").iter().map(|volume| text(volume, "name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let have = existing.is_some();
    let name = existing.map_or_else(
        || format!("{VOLUME_PREFIX}{}", skiff_api::names::random_suffix(5, &mut rand::rng())),
        str::to_owned,
    );
    let mut needed = false;
    for list_name in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(list_name).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            if list(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            items_mut(container, "volumeMounts").push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if needed && !have {
        items_mut(spec, "volumes").push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": ROOT_CA_CONFIG_MAP, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;

    fn account(name: &str, automount: Option<bool>) -> Value {
        let mut account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "n"}, "imagePullSecrets": [{"name": "pull"}]});
        if let Some(automount) = automount {
            account["automountServiceAccountToken"] = json!(automount);
        }
        account
    }

    async fn run(account_mounts: Option<bool>, pod_mounts: Option<bool>) -> Value {
        let case = Case::new().with("", "serviceaccounts", account("default", account_mounts));
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        if let Some(mounts) = pod_mounts {
            pod["spec"]["automountServiceAccountToken"] = json!(mounts);
        }
        case.create("", "pods", "n", pod).mutate(&ServiceAccount).await.unwrap()
    }

    #[tokio::test]
    async fn the_token_volume_is_injected() {
        let pod = run(None, None).await;
        let spec = &pod["spec"];
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
        let name = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(name.starts_with("kube-api-access-") && name.len() == "kube-api-access-".len() + 5);
        assert_eq!(
            spec["containers"][0]["volumeMounts"],
            json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    }

    #[tokio::test]
    async fn the_pod_decides_before_the_account() {
        for (account, pod, want) in [
            (None, None, true),
            (Some(false), None, false),
            (Some(true), None, true),
            (Some(false), Some(true), true),
            (Some(true), Some(false), false),
        ] {
            assert_eq!(run(account, pod).await["spec"].get("volumes").is_some(), want, "{account:?} {pod:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_account_is_refused() {
        let case = Case::new().with("", "serviceaccounts", account("default", None));
        let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "x"}});
        let error = case.create("", "pods", "n", pod).mutate(&ServiceAccount).await.unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: error looking up service account n/x: serviceaccount \"x\" not found"
        );
    }

    #[tokio::test]
    async fn a_mirror_pod_has_no_account_and_no_secrets() {
        let case = Case::new();
        let refusal = async |spec: Value| {
            let pod = json!({"metadata": {"name": "p", "annotations": {MIRROR_ANNOTATION: "x"}}, "spec": spec});
            let tried = case.create("", "pods", "n", pod).mutate(&ServiceAccount).await;
            tried.map(|_| String::new()).unwrap_or_else(|status| status.message)
        };
        assert_eq!(refusal(json!({"containers": [{"name": "c"}]})).await, "");
        let secret = json!({"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]});
        let token = json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]});
        for (spec, why) in [
            (json!({"serviceAccountName": "a"}), "reference service accounts"),
            (secret, "reference secrets"),
            (token, "use ServiceAccountToken volume projections"),
        ] {
            assert!(refusal(spec).await.ends_with(&format!("a mirror pod may not {why}")), "{why}");
        }
    }
}
