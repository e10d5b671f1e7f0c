//! Labels the server's own node with the role of the control plane, which the
//! node itself may not do.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_api::GroupVersionResource;
use skiff_client::{Client, Patch, Snapshot};

/// What `kubectl get nodes` shows as the role.
const ROLE: &str = "node-role.kubernetes.io/control-plane";
/// After a write that failed for a reason that may pass.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the label on the node, whenever it is registered; runs for ever.
pub async fn run(client: Client, snapshot: Snapshot, name: &str) -> Result<()> {
    let store = snapshot.store_of::<Node>().context("nodes are not served")?;
    let mut changes = store.subscribe();
    loop {
        let lacks = store.get("", name).is_some_and(|node| !node.meta.labels.contains_key(ROLE));
        if lacks {
            let patch = Patch::Merge(json!({"metadata": {"labels": {ROLE: "true"}}}));
            let written = client.patch(&GroupVersionResource::of::<Node>(), None, name, None, &patch).await;
            if let Err(error) = written {
                tracing::warn!(component = "node-role", %error, "label this node");
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
        }
        if changes.next().await.is_none() {
            return std::future::pending().await;
        }
    }
}
