//! A small application of three parts that find each other by name: a frontend,
//! a primary that takes entries and replicas that follow it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::kubectl::Kubectl;
use crate::{
    api::{core, group},
    context::{Context, eventually},
    pods::with,
};

/// How long the parts may take to find each other.
const TOGETHER_LIMIT: Duration = Duration::from_secs(180);

pub async fn works(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let namespace = kubectl.namespace.clone();
    let manifests: Vec<Value> = [
        part(&context, "frontend", 3, 80, &["--backend-port", "6379", "--http-port", "80"]),
        part(&context, "agnhost-primary", 1, 6379, &["--http-port", "6379"]),
        part(&context, "agnhost-replica", 2, 6379, &["--http-port", "6379", "--replicaof", "agnhost-primary:6379"]),
    ]
    .into_iter()
    .flatten()
    .collect();
    for manifest in &manifests {
        kubectl.with_input(&["create", "-f", "-"], manifest).await?;
    }
    for (name, count) in [("frontend", 3), ("agnhost-primary", 1), ("agnhost-replica", 2)] {
        let path = format!("{}/{name}", group("apps/v1", &namespace, "deployments"));
        let ready = |object: &Value| object["status"]["readyReplicas"] == count;
        context.until_within(&path, "all are ready", TOGETHER_LIMIT, ready).await?;
    }
    let asked = async |query: &str, wanted: &str| -> Result<()> {
        let path = format!("{}/frontend:80/proxy/guestbook?{query}", core(&namespace, "services"));
        eventually(&format!("{query} answers {wanted}"), TOGETHER_LIMIT, || async {
            let text = context.text(&path).await?;
            ensure!(text == wanted, "{text}");
            Ok(())
        })
        .await
    };
    asked("cmd=get&key=messages&value=", "{\"data\":\"\"}").await?;
    asked("cmd=set&key=messages&value=TestEntry", "{\"message\":\"Updated\"}").await?;
    asked("cmd=get&key=messages&value=", "{\"data\":\"TestEntry\"}").await?;
    for manifest in &manifests {
        kubectl.with_input(&["delete", "--grace-period=0", "--force", "-f", "-"], manifest).await?;
    }
    Ok(())
}

/// Service and deployment of one part.
fn part(context: &Context, name: &str, replicas: u32, port: u16, words: &[&str]) -> [Value; 2] {
    let labels = json!({"app": "guestbook", "tier": name});
    let arguments: Vec<&str> = [&["guestbook"], words].concat();
    let container = json!({"name": name, "image": context.agnhost, "imagePullPolicy": "IfNotPresent",
        "args": arguments, "ports": [{"containerPort": port}]});
    let template = json!({"metadata": {"labels": labels},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}});
    let base = json!({"metadata": {"name": name, "labels": labels}});
    [
        with(
            base.clone(),
            json!({"apiVersion": "v1", "kind": "Service",
            "spec": {"selector": labels, "ports": [{"port": port}]}}),
        ),
        with(
            base,
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}}),
        ),
    ]
}
