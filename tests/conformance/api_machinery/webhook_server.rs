//! The webhook server of the test image, with a service in front of it.

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::aggregator::certificate;
use crate::{
    api::{core, group},
    context::{Context, LIMIT},
};

pub const NAME: &str = "e2e-webhook";
pub const PORT: u16 = 9443;

/// Starts the server in a namespace; returns the bundle that trusts it, base64.
pub async fn deploy(context: &Context, namespace: &str) -> Result<String> {
    let (leaf, key, authority) = certificate(&format!("{NAME}.{namespace}.svc"))?;
    let secret = json!({"metadata": {"name": NAME}, "stringData": {"tls.crt": leaf, "tls.key": key}});
    context.create(&core(namespace, "secrets"), &secret).await?;
    let labels = json!({"webhook": "true"});
    let container = json!({"name": "webhook", "image": context.agnhost, "imagePullPolicy": "IfNotPresent",
        "args": ["webhook", "--tls-cert-file", "/certs/tls.crt", "--tls-private-key-file", "/certs/tls.key", "--port", "8444"],
        "readinessProbe": {"tcpSocket": {"port": 8444}, "periodSeconds": 1},
        "volumeMounts": [{"name": "certs", "mountPath": "/certs", "readOnly": true}]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 0, "containers": [container],
            "volumes": [{"name": "certs", "secret": {"secretName": NAME}}]}}}});
    let deployments = group("apps/v1", namespace, "deployments");
    context.create(&deployments, &deployment).await?;
    let service = json!({"metadata": {"name": NAME}, "spec": {
        "selector": labels, "ports": [{"port": PORT, "protocol": "TCP", "targetPort": 8444}]}});
    context.create(&core(namespace, "services"), &service).await?;
    let path = format!("{deployments}/{NAME}");
    context.until_within(&path, "is available", LIMIT * 4, |object| object["status"]["availableReplicas"] == 1).await?;
    let slices = group("discovery.k8s.io/v1", namespace, "endpointslices");
    let slices = format!("{slices}?labelSelector=kubernetes.io%2Fservice-name%3D{NAME}");
    context
        .until(&slices, "has a ready endpoint", |list| list["items"][0]["endpoints"][0]["conditions"]["ready"] == true)
        .await?;
    Ok(BASE64.encode(authority))
}

/// The `clientConfig` of one of its paths.
pub fn client_config(namespace: &str, path: &str, bundle: &str) -> Value {
    json!({"caBundle": bundle, "service": {"namespace": namespace, "name": NAME, "path": path, "port": PORT}})
}
