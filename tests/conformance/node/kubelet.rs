//! What the node agent does around containers.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::Context,
    pods::{container, pod, shell, with},
};

crate::rows! { "node";
    "Kubelet when scheduling a busybox command in a pod" {
        "should print the output to logs" => output,
    }
    "Kubelet when scheduling a busybox command that always fails in a pod" {
        "should be possible to delete" => delete_failing,
        "should have an terminated reason" => reason,
    }
    "Kubelet when scheduling a read only busybox container" {
        "should not write to root filesystem" => read_only,
    }
    "Kubelet when scheduling an agnhost Pod with hostAliases" {
        "should write entries to /etc/hosts" => aliases,
    }
    "KubeletManagedEtcHosts" {
        "should test kubelet managed /etc/hosts file" => etc_hosts,
    }
}

async fn output(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create_pod(&namespace, &pod("prints", &[shell(&context, "echo 'Hello World' ; sleep 240")])).await?;
    context.wait_log(&namespace, "prints", "main", "Hello World\n").await
}

fn failing(context: &Context) -> Value {
    with(pod("fails", &[shell(context, "exit 3")]), json!({"spec": {"restartPolicy": "Always"}}))
}

async fn delete_failing(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create_pod(&namespace, &failing(&context)).await?;
    let path = format!("{}/fails", core(&namespace, "pods"));
    context.delete(&path).await?;
    context.until_gone(&path).await
}

async fn reason(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create_pod(&namespace, &failing(&context)).await?;
    let ended = |pod: &Value| {
        ["state", "lastState"].iter().any(|state| {
            let ended = &container(pod, "main")[*state]["terminated"];
            ended["exitCode"] == 3 && ended["reason"].as_str().is_some_and(|reason| !reason.is_empty())
        })
    };
    context.wait_pod(&namespace, "fails", "has a terminated reason", ended).await.map(drop)
}

async fn read_only(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let security = json!({"securityContext": {"readOnlyRootFilesystem": true}});
    let script = "echo test > /file; sleep 240";
    context.create_pod(&namespace, &pod("reads", &[with(shell(&context, script), security)])).await?;
    context.wait_log(&namespace, "reads", "main", "can't create /file: Read-only file system").await
}

async fn aliases(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let aliases = json!({"spec": {"hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]}});
    let pod = with(pod("aliased", &[shell(&context, "cat /etc/hosts")]), aliases);
    let output = context.output(&namespace, &pod).await?;
    let words: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(words.contains(&vec!["123.45.67.89", "foo", "bar"]), "{output}");
    Ok(())
}

async fn etc_hosts(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    const HEADER: &str = "# Kubernetes-managed hosts file.";
    let mount = json!({"name": "own", "volumeMounts": [{"name": "host", "mountPath": "/etc/hosts"}]});
    let containers = [shell(&context, "sleep 1000"), with(shell(&context, "sleep 1000"), mount)];
    let volumes = json!({"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/etc/hosts", "type": "File"}}]}});
    let plain = with(pod("plain", &containers), volumes.clone());
    context.start_pod(&namespace, &plain).await?;
    let host = with(with(pod("host", &containers), volumes), json!({"spec": {"hostNetwork": true}}));
    context.start_pod(&namespace, &host).await?;
    for (pod, container, managed) in
        [("plain", "main", true), ("plain", "own", false), ("host", "main", false), ("host", "own", false)]
    {
        let text = context.exec(&namespace, pod, container, "cat /etc/hosts").await?;
        ensure!(text.starts_with(HEADER) == managed, "{pod}/{container}: {text:?}");
    }
    Ok(())
}
