//! The heartbeat: a Lease that is renewed every few seconds.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};
use skiff_api::GroupVersionResource;
use skiff_client::{Client, ClientError};
use tokio_util::sync::CancellationToken;

use crate::limits;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the lease of a node until `token` is cancelled.
pub async fn run(client: Client, node_name: String, node_uid: String, token: CancellationToken) {
    let mut current: Option<Value> = None;
    loop {
        let renewed = renew(&client, &node_name, &node_uid, current.take()).await;
        let pause = match renewed {
            Ok(lease) => {
                current = Some(lease);
                // A spread keeps many nodes from renewing in step.
                limits::LEASE_RENEW_PERIOD.mul_f64(1.0 + rand::random::<f64>() * 0.04)
            }
            Err(error) => {
                tracing::warn!(component = "lease", node = node_name, %error, "renew node lease");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn renew(client: &Client, name: &str, uid: &str, current: Option<Value>) -> Result<Value, ClientError> {
    let leases = GroupVersionResource::of::<Lease>();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let lease = match current {
        Some(lease) => Some(lease),
        None => match client.get(&leases, Some(NAMESPACE), name).await {
            Ok(object) => Some(object.value()?),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    let written = match lease {
        Some(mut lease) => {
            lease["spec"]["holderIdentity"] = name.into();
            lease["spec"]["leaseDurationSeconds"] = limits::LEASE_DURATION_SECONDS.into();
            lease["spec"]["renewTime"] = now.into();
            client.update(&leases, Some(NAMESPACE), name, None, &lease).await?
        }
        None => {
            let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": owner},
                "spec": {
                    "holderIdentity": name,
                    "leaseDurationSeconds": limits::LEASE_DURATION_SECONDS,
                    "renewTime": now,
                },
            });
            client.create(&leases, Some(NAMESPACE), &lease).await?
        }
    };
    Ok(written.value()?)
}
