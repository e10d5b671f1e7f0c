//! What a pod knows of itself, as files.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::source::reader;
use crate::{api::core, context::Context, pods::with};

crate::rows! { "storage";
    "Downward API volume" {
        "should provide container's cpu limit" => |c| resource(c, false, "limits.cpu", "2"),
        "should provide container's cpu request" => |c| resource(c, false, "requests.cpu", "1"),
        "should provide container's memory limit" => |c| resource(c, false, "limits.memory", "67108864"),
        "should provide container's memory request" => |c| resource(c, false, "requests.memory", "33554432"),
        "should provide node allocatable (cpu) as default cpu limit if the limit is not set" => |c| allocatable(c, false, "limits.cpu"),
        "should provide node allocatable (memory) as default memory limit if the limit is not set" => |c| allocatable(c, false, "limits.memory"),
        "should provide podname only" => |c| pod_name(c, false),
        "should set DefaultMode on files" => |c| default_mode(c, false),
        "should set mode on item file" => |c| item_mode(c, false),
        "should update annotations on modification" => |c| modification(c, false, "annotations"),
        "should update labels on modification" => |c| modification(c, false, "labels"),
    }
    "Projected downwardAPI" {
        "should provide container's cpu limit" => |c| resource(c, true, "limits.cpu", "2"),
        "should provide container's cpu request" => |c| resource(c, true, "requests.cpu", "1"),
        "should provide container's memory limit" => |c| resource(c, true, "limits.memory", "67108864"),
        "should provide container's memory request" => |c| resource(c, true, "requests.memory", "33554432"),
        "should provide node allocatable (cpu) as default cpu limit if the limit is not set" => |c| allocatable(c, true, "limits.cpu"),
        "should provide node allocatable (memory) as default memory limit if the limit is not set" => |c| allocatable(c, true, "limits.memory"),
        "should provide podname only" => |c| pod_name(c, true),
        "should set DefaultMode on files" => |c| default_mode(c, true),
        "should set mode on item file" => |c| item_mode(c, true),
        "should update annotations on modification" => |c| modification(c, true, "annotations"),
        "should update labels on modification" => |c| modification(c, true, "labels"),
    }
}

const SHOW: &str = "cat /etc/info/it; echo; stat -L -c %A /etc/info/it";

/// A volume `info` with the file `it`.
fn volume(projected: bool, item: Value, default_mode: Option<u32>) -> Value {
    let items = [with(item, json!({"path": "it"}))];
    let mut source = if projected {
        json!({"projected": {"sources": [{"downwardAPI": {"items": items}}]}})
    } else {
        json!({"downwardAPI": {"items": items}})
    };
    if let Some(mode) = default_mode {
        let kind = if projected { "projected" } else { "downwardAPI" };
        source[kind]["defaultMode"] = mode.into();
    }
    with(source, json!({"name": "info"}))
}

fn name_field() -> Value {
    json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}})
}

async fn pod_name(context: Context, projected: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = reader(&context, "the-name", &[volume(projected, name_field(), None)], SHOW);
    context.expect_output(&namespace, &pod, &["the-name\n"]).await
}

async fn default_mode(context: Context, projected: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = reader(&context, "the-name", &[volume(projected, name_field(), Some(0o400))], SHOW);
    context.expect_output(&namespace, &pod, &["-r--------"]).await
}

async fn item_mode(context: Context, projected: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let item = with(name_field(), json!({"mode": 0o400}));
    let pod = reader(&context, "the-name", &[volume(projected, item, None)], SHOW);
    context.expect_output(&namespace, &pod, &["-r--------"]).await
}

fn resource_field(resource: &str) -> Value {
    json!({"resourceFieldRef": {"containerName": "main", "resource": resource}})
}

async fn resource(context: Context, projected: bool, resource: &str, wanted: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let mut pod = reader(&context, "sized", &[volume(projected, resource_field(resource), None)], "cat /etc/info/it");
    pod["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let output = context.output(&namespace, &pod).await?;
    ensure!(output.trim() == wanted, "{resource} is {output:?}");
    Ok(())
}

async fn allocatable(context: Context, projected: bool, resource: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = reader(&context, "unsized", &[volume(projected, resource_field(resource), None)], "cat /etc/info/it");
    let output = context.output(&namespace, &pod).await?;
    ensure!(output.trim().parse::<u64>().is_ok_and(|value| value > 0), "{resource} is {output:?}");
    Ok(())
}

async fn modification(context: Context, projected: bool, field: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let item = json!({"fieldRef": {"fieldPath": format!("metadata.{field}")}});
    let script = "while :; do cat /etc/info/it; echo; sleep 1; done";
    let mut pod = reader(&context, "changing", &[volume(projected, item, None)], script);
    pod["metadata"][field] = json!({"key1": "value1", "key2": "value2"});
    context.start_pod(&namespace, &pod).await?;
    context.wait_log(&namespace, "changing", "main", "key1=\"value1\"\nkey2=\"value2\"").await?;
    let path = format!("{}/changing", core(&namespace, "pods"));
    context.modify(&path, |pod| pod["metadata"][field]["key3"] = "value3".into()).await?;
    context.wait_log(&namespace, "changing", "main", "key3=\"value3\"").await
}
