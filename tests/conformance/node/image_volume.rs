//! Volumes that are images.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::name,
    context::Context,
    operations::unique,
    pods::{pod, shell, with},
};

crate::rows! { "node";
    "ImageVolume" {
        "should succeed with pod and pull policy of Always" => always,
    }
}

/// A registry on the loopback address of a node offers an image; a pod there mounts it.
async fn always(context: Context) -> Result<()> {
    const PORT: u16 = 50_723;
    let namespace = context.namespace().await?;
    let node = context.nodes().await?.swap_remove(0);
    let on_node = json!({"spec": {"nodeName": name(&node)}});
    let content = format!("kitten-{}", unique());
    let arguments = ["registry", "--port", &PORT.to_string(), "--name", "kitten", "--file", "data.json", "--content"];
    let mut arguments: Vec<Value> = arguments.iter().map(|word| Value::from(*word)).collect();
    arguments.push(content.as_str().into());
    let registry = json!({"name": "main", "image": context.agnhost, "imagePullPolicy": "IfNotPresent",
        "args": arguments});
    let registry = with(with(pod("registry", &[registry]), on_node.clone()), json!({"spec": {"hostNetwork": true}}));
    context.start_pod(&namespace, &registry).await?;
    context.wait_log(&namespace, "registry", "main", "serving").await?;

    let source = json!({"reference": format!("localhost:{PORT}/kitten:latest"), "pullPolicy": "Always"});
    let volume = json!({"spec": {"volumes": [{"name": "volume", "image": source}]}});
    let mount = json!({"volumeMounts": [{"name": "volume", "mountPath": "/volume"}]});
    let reader = with(shell(&context, "sleep 10000"), mount);
    context.start_pod(&namespace, &with(with(pod("reader", &[reader]), on_node), volume)).await?;
    let text = context.exec(&namespace, "reader", "main", "cat /volume/data.json").await?;
    ensure!(text.trim() == content, "{text:?}");
    let written = context.exec(&namespace, "reader", "main", "touch /volume/x 2>&1 && echo written || true").await?;
    ensure!(!written.contains("written"), "the image can be written");
    Ok(())
}
