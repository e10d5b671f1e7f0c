//! Namespaces and what happens when they go.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{core, merge},
    context::{Context, consistently},
    operations::contains,
    pods::{condition, pause, pod, with},
};

crate::rows! { "api-machinery";
    "Namespaces" {
        "should apply a finalizer to a Namespace" => finalizer,
        "should apply an update to a Namespace" => update,
        "should apply changes to a namespace status" => status,
        "should ensure that all pods are removed when a namespace is deleted" => |c| emptied(c, "pods"),
        "should ensure that all services are removed when a namespace is deleted" => |c| emptied(c, "services"),
        "should patch a Namespace" => patch,
    }
    "OrderedNamespaceDeletion namespace deletion" {
        "should delete pod first" => pods_first,
    }
}

async fn patch(context: Context) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}", context.namespace().await?);
    context.merge(&path, json!({"metadata": {"labels": {"testLabel": "testValue"}}})).await?;
    let read = context.get(&path).await?;
    ensure!(read["metadata"]["labels"]["testLabel"] == "testValue", "{read}");
    Ok(())
}

async fn update(context: Context) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}", context.namespace().await?);
    let updated = context.modify(&path, |object| object["metadata"]["labels"]["updated"] = "yes".into()).await?;
    ensure!(updated["metadata"]["labels"]["updated"] == "yes", "{updated}");
    Ok(())
}

async fn status(context: Context) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}", context.namespace().await?);
    let at = format!("{path}/status");
    let one = json!({"conditions": [{"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by an e2e test"}]});
    let patched = context
        .merge(&at, json!({"metadata": {"annotations": {"e2e-patched-ns-status": "yes"}}, "status": one}))
        .await?;
    contains(&patched["status"], &one)?;
    ensure!(patched["metadata"]["annotations"]["e2e-patched-ns-status"] == "yes", "{patched}");
    let two = json!({"conditions": [{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Updated by an e2e test"}]});
    let updated = context.modify_at(&path, &at, |object| merge(&mut object["status"], &two)).await?;
    contains(&updated["status"], &two)
}

async fn finalizer(context: Context) -> Result<()> {
    let name = context.namespace().await?;
    let path = format!("/api/v1/namespaces/{name}");
    let at = format!("{path}/finalize");
    let fake = "e2e.example.com/fakeFinalizer";
    let add = |object: &mut Value| {
        if let Some(list) = object["spec"]["finalizers"].as_array_mut() {
            list.push(fake.into());
        }
    };
    let with_it = context.modify_at(&path, &at, add).await?;
    contains(&with_it["spec"]["finalizers"], &json!([fake, "kubernetes"]))?;
    let remove = |object: &mut Value| object["spec"]["finalizers"] = json!(["kubernetes"]);
    let without = context.modify_at(&path, &at, remove).await?;
    ensure!(without["spec"]["finalizers"] == json!(["kubernetes"]), "{without}");
    Ok(())
}

async fn emptied(context: Context, plural: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = format!("/api/v1/namespaces/{namespace}");
    if plural == "pods" {
        context.start_pod(&namespace, &pod("doomed", &[pause(&context)])).await?;
    } else {
        let service =
            json!({"metadata": {"name": "doomed"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
        context.create(&core(&namespace, plural), &service).await?;
    }
    context.delete(&path).await?;
    context.until_gone(&path).await?;
    context.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await?;
    let left = context.list(&core(&namespace, plural)).await?;
    ensure!(left.is_empty(), "{} {plural} in the new namespace", left.len());
    Ok(())
}

async fn pods_first(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let held = with(pod("held", &[pause(&context)]), json!({"metadata": {"finalizers": ["e2e.example.com/hold"]}}));
    context.start_pod(&namespace, &held).await?;
    let collection = core(&namespace, "configmaps");
    context.create(&collection, &json!({"metadata": {"name": "kept"}})).await?;
    let path = format!("/api/v1/namespaces/{namespace}");
    context.delete(&path).await?;
    let told = |object: &Value| condition(object, "NamespaceContentRemaining")["status"] == "True";
    let waited = context.until(&path, "says that content remains", told).await;
    let kept = consistently("the config map outlives the pod", Duration::from_secs(4), || async {
        context.get(&format!("{collection}/kept")).await.map(drop)
    })
    .await;
    let release =
        context.merge(&format!("{}/held", core(&namespace, "pods")), json!({"metadata": {"finalizers": null}})).await;
    waited?;
    kept?;
    release?;
    context.until_gone(&path).await
}
