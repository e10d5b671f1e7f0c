//! Creates or adopts the Node object.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use serde_json::{Value, json};
use skiff_api::GroupVersionResource;
use skiff_client::{ClientError, Patch, work_queue::backoff};

use super::facts::architecture;
use crate::config::AgentConfig;

/// Labels that every node has.
pub fn default_labels(config: &AgentConfig) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    labels.extend(config.labels.clone());
    labels
}

/// Registers until it works; returns the object's uid and its labels.
pub async fn register(config: &AgentConfig, status: &NodeStatus) -> (String, BTreeMap<String, String>) {
    let mut failures = 0;
    loop {
        match try_register(config, status).await {
            Ok(found) => return found,
            Err(error) => {
                tracing::warn!(component = "node", node = config.node_name, %error, "register node");
                let wait = backoff(Duration::from_millis(100), Duration::from_secs(7), failures);
                failures = (failures + 1).min(16);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn try_register(
    config: &AgentConfig,
    status: &NodeStatus,
) -> Result<(String, BTreeMap<String, String>), ClientError> {
    let nodes = GroupVersionResource::of::<Node>();
    let node = match config.client.create(&nodes, None, &body(config, status)?).await {
        Ok(created) => created,
        Err(error) if error.is_already_exists() => {
            let existing = config.client.get(&nodes, None, &config.node_name).await?;
            let labels = default_labels(config);
            let changed = labels.iter().any(|(key, value)| existing.meta.labels.get(key) != Some(value));
            if changed {
                let patch = Patch::Strategic(json!({"metadata": {"labels": labels}}));
                config.client.patch(&nodes, None, &config.node_name, None, &patch).await?
            } else {
                existing
            }
        }
        Err(error) => return Err(error),
    };
    Ok((node.meta.uid.0.clone(), node.meta.labels.clone()))
}

fn body(config: &AgentConfig, status: &NodeStatus) -> Result<Value, ClientError> {
    let mut body = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": config.node_name,
            "labels": default_labels(config),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": {},
        "status": status,
    });
    if !config.taints.is_empty() {
        body["spec"]["taints"] = serde_json::to_value(&config.taints)?;
    }
    if let Some(provider_id) = &config.provider_id {
        body["spec"]["providerID"] = provider_id.as_str().into();
    }
    Ok(body)
}
