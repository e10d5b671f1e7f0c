//! What runs after the start and before the end of a container.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::Context,
    pods::{netexec, pod, shell, with},
};

crate::rows! { "node";
    "Container Lifecycle Hook when create a pod with lifecycle hook" {
        "should execute poststart exec hook properly" => |c| hook(c, "postStart", false),
        "should execute poststart http hook properly" => |c| hook(c, "postStart", true),
        "should execute prestop exec hook properly" => |c| hook(c, "preStop", false),
        "should execute prestop http hook properly" => |c| hook(c, "preStop", true),
    }
    "PreStop" {
        "should call prestop when killing a pod" => |c| hook(c, "preStop", false),
    }
}

/// The hook asks a server, whose log shows that it ran.
async fn hook(context: Context, kind: &str, http: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let server = context.start_pod(&namespace, &pod("handler", &[netexec(&context)])).await?;
    let address = server["status"]["podIP"].as_str().context("the handler has an address")?;
    let path = format!("/echo?msg={kind}");
    let action: Value = if http {
        json!({"httpGet": {"host": address, "port": 8080, "path": path}})
    } else {
        json!({"exec": {"command": ["sh", "-c", format!("wget -q -O - 'http://{address}:8080{path}'")]}})
    };
    let container = with(shell(&context, "sleep 1000"), json!({"lifecycle": {kind: action}}));
    let hooked = with(pod("hooked", &[container]), json!({"spec": {"terminationGracePeriodSeconds": 10}}));
    context.start_pod(&namespace, &hooked).await?;
    if kind == "preStop" {
        context.delete(&format!("{}/hooked", core(&namespace, "pods"))).await?;
    }
    context.wait_log(&namespace, "handler", "main", &format!("GET {path}")).await
}
