//! ReplicaSets and ReplicationControllers: change, replace, status and removal.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, path_of, ready_pods, workload};
use crate::{
    api::{Patch, merge, name},
    context::{Context, brief},
    operations::unique,
    pods::{pause, with},
};

crate::rows! { "apps";
    "ReplicaSet" {
        "Replace and Patch tests" => replace_and_patch,
    }
    "ReplicationController" {
        "should test the lifecycle of a ReplicationController" => lifecycle,
    }
}

async fn replace_and_patch(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "replicasets");
    let label = unique();
    let body = with(workload(&context, "replicasets", 1), json!({"metadata": {"labels": {"e2e": label}}}));
    context.create(&path, &body).await?;
    let at = format!("{path}/workload");
    ready_pods(&context, &namespace, 1).await?;
    context.merge(&format!("{at}/scale"), json!({"spec": {"replicas": 2}})).await?;
    ready_pods(&context, &namespace, 2).await?;
    let mut watch = context.watch(&format!("{path}?labelSelector=e2e={label}")).await?;
    let spec = json!({"terminationGracePeriodSeconds": 2,
        "containers": [with(pause(&context), json!({"image": context.agnhost_other}))]});
    let patch = json!({"metadata": {"labels": {"test-rs": "patched"}}, "spec": {"replicas": 3,
        "template": {"spec": spec}}});
    let patched = context.patch(&at, Patch::Strategic, &patch).await?;
    ensure!(patched["spec"]["replicas"] == 3, "{}", patched["spec"]);
    let is_patched = |event: &Value| {
        let object = &event["object"];
        object["metadata"]["labels"]["test-rs"] == "patched"
            && object["spec"]["replicas"] == 3
            && object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 2
            && object["spec"]["template"]["spec"]["containers"][0]["image"] == context.agnhost_other
    };
    watch.until("the patch", LIMIT, is_patched).await?;
    let all = |object: &Value| object["status"]["readyReplicas"] == 3 && object["status"]["availableReplicas"] == 3;
    context.until_within(&at, "has three ready pods", LIMIT, all).await.map(drop)
}

async fn lifecycle(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "replicationcontrollers");
    let label = unique();
    let selected = format!("{path}?labelSelector=static={label}");
    let mut watch = context.watch(&selected).await?;
    let body =
        with(workload(&context, "replicationcontrollers", 1), json!({"metadata": {"labels": {"static": label}}}));
    context.create(&path, &body).await?;
    watch.until("the creation", LIMIT, |event| event["type"] == "ADDED").await?;
    watch.until("a ready replica", LIMIT, |event| event["object"]["status"]["readyReplicas"] == 1).await?;

    let at = format!("{path}/workload");
    let patch = json!({"metadata": {"labels": {"test-rc": "patched"}}});
    context.patch(&at, Patch::Strategic, &patch).await?;
    watch.until("the patch", LIMIT, |event| event["object"]["metadata"]["labels"]["test-rc"] == "patched").await?;

    let status = format!("{at}/status");
    context.merge(&status, json!({"status": {"readyReplicas": 0, "availableReplicas": 0}})).await?;
    let none = |event: &Value| event["object"]["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0;
    watch.until("the patched status", LIMIT, none).await?;
    let mended = |event: &Value| event["object"]["status"]["readyReplicas"] == 1;
    watch.until("the status of before", LIMIT, mended).await?;
    let read = context.get(&status).await?;
    ensure!(read["kind"] == "ReplicationController" && name(&read) == "workload", "{}", brief(&read));

    let scale = format!("{at}/scale");
    let patched = context.merge(&scale, json!({"spec": {"replicas": 2}})).await?;
    ensure!(patched["kind"] == "Scale" && patched["spec"]["replicas"] == 2, "{patched}");
    watch.until("two ready replicas", LIMIT, |event| event["object"]["status"]["readyReplicas"] == 2).await?;

    context
        .modify(&at, |object| {
            merge(&mut object["spec"], &json!({"replicas": 3}));
            object["metadata"]["annotations"]["test-rc"] = "updated".into();
        })
        .await?;
    let updated = |event: &Value| event["object"]["metadata"]["annotations"]["test-rc"] == "updated";
    watch.until("the update", LIMIT, updated).await?;
    watch.until("three ready replicas", LIMIT, |event| event["object"]["status"]["readyReplicas"] == 3).await?;
    let everywhere = format!("/api/v1/replicationcontrollers?labelSelector=static={label}");
    ensure!(context.list(&everywhere).await?.len() == 1, "not one in all namespaces");
    context.delete_with(&selected, json!({"propagationPolicy": "Background"})).await?;
    watch.until("the deletion", LIMIT, |event| event["type"] == "DELETED").await?;
    ensure!(context.list(&everywhere).await?.is_empty(), "it is still listed");
    Ok(())
}
