//! Owners and dependents.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    api::{core, group, name, uid},
    context::{Context, LIMIT, consistently, eventually},
    pods::{pause, pod, with},
};

crate::rows! { "api-machinery";
    "Garbage collector" {
        "should delete RS created by deployment when not orphaning" => |c| deployment(c, "Background"),
        "should delete pods created by rc when not orphaning" => background,
        "should keep the rc around until all its pods are deleted if the deleteOptions says so" => foreground,
        "should not be blocked by dependency circle" => circle,
        "should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted" => two_owners,
        "should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan" => |c| deployment(c, "Orphan"),
        "should orphan pods created by rc if delete options say so" => orphan,
    }
}

async fn deployment(context: Context, policy: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = group("apps/v1", &namespace, "deployments");
    let labels = json!({"app": "gc-test"});
    let body = json!({"metadata": {"name": "owner"}, "spec": {"replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [pause(&context)]}}}});
    context.create(&path, &body).await?;
    let sets = group("apps/v1", &namespace, "replicasets");
    let one = || async {
        let list = context.list(&sets).await?;
        ensure!(list.len() == 1, "{} replica sets", list.len());
        Ok(list[0].clone())
    };
    eventually("the replica set is there", LIMIT, one).await?;
    context.delete_with(&format!("{path}/owner"), json!({"propagationPolicy": policy})).await?;
    context.until_gone(&format!("{path}/owner")).await?;
    if policy == "Orphan" {
        consistently("the replica set stays", Duration::from_secs(8), || async { one().await.map(drop) }).await?;
        let owners = one().await?["metadata"]["ownerReferences"].clone();
        ensure!(owners.as_array().is_none_or(Vec::is_empty), "still owned: {owners}");
        return Ok(());
    }
    eventually("nothing is left", LIMIT, || async {
        let (sets, pods) = (context.list(&sets).await?, context.list(&core(&namespace, "pods")).await?);
        ensure!(sets.is_empty() && pods.is_empty(), "{} replica sets, {} pods", sets.len(), pods.len());
        Ok(())
    })
    .await
}

/// A replication controller with its pods created; readiness does not matter.
async fn controller(context: &Context, namespace: &str, name: &str, replicas: usize) -> Result<Value> {
    let labels = json!({"type": name});
    let body = json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": labels,
        "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1,
            "nodeSelector": {"no": "node"}, "containers": [pause(context)]}}}});
    let path = core(namespace, "replicationcontrollers");
    context.create(&path, &body).await?;
    let path = format!("{path}/{name}");
    context.until(&path, "has its pods", |object| object["status"]["replicas"] == replicas).await
}

async fn background(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    controller(&context, &namespace, "simple", 10).await?;
    let path = format!("{}/simple", core(&namespace, "replicationcontrollers"));
    context.delete_with(&path, json!({"propagationPolicy": "Background"})).await?;
    eventually("all pods are gone", LIMIT, || async {
        let pods = context.list(&core(&namespace, "pods")).await?;
        ensure!(pods.is_empty(), "{} pods", pods.len());
        Ok(())
    })
    .await?;
    context.until_gone(&path).await
}

async fn orphan(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    controller(&context, &namespace, "simple", 100).await?;
    let path = format!("{}/simple", core(&namespace, "replicationcontrollers"));
    context.delete_with(&path, json!({"propagationPolicy": "Orphan"})).await?;
    context.until_gone(&path).await?;
    consistently("all pods stay", Duration::from_secs(10), || async {
        let pods = context.list(&core(&namespace, "pods")).await?;
        ensure!(pods.len() == 100, "{} pods", pods.len());
        Ok(())
    })
    .await
}

async fn foreground(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    controller(&context, &namespace, "simple", 100).await?;
    let path = format!("{}/simple", core(&namespace, "replicationcontrollers"));
    context.delete_with(&path, json!({"propagationPolicy": "Foreground"})).await?;
    loop {
        // Read first: the owner must still be there while there are dependents.
        let pods = context.list(&core(&namespace, "pods")).await?.len();
        let owner = context.call("GET", &path, None).await?;
        if owner.code == 404 {
            let left = context.list(&core(&namespace, "pods")).await?;
            ensure!(left.is_empty(), "the controller is gone, {} pods are not", left.len());
            return Ok(());
        }
        ensure!(!owner.body["metadata"]["deletionTimestamp"].is_null(), "no mark with {pods} pods");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn two_owners(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let first = controller(&context, &namespace, "to-be-deleted", 100).await?;
    let second = controller(&context, &namespace, "to-stay", 0).await?;
    let pods = context.list(&format!("{}?labelSelector=type=to-be-deleted", core(&namespace, "pods"))).await?;
    ensure!(pods.len() == 100, "{} pods", pods.len());
    for pod in pods.iter().take(50) {
        let path = format!("{}/{}", core(&namespace, "pods"), name(pod));
        let owner =
            json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "to-stay", "uid": uid(&second)});
        let add = |pod: &mut Value| {
            if let Some(owners) = pod["metadata"]["ownerReferences"].as_array_mut() {
                owners.push(owner.clone());
            }
        };
        context.modify(&path, add).await?;
    }
    let path = format!("{}/{}", core(&namespace, "replicationcontrollers"), name(&first));
    context.delete_with(&path, json!({"propagationPolicy": "Foreground"})).await?;
    context.until_gone(&path).await?;
    consistently("pods of the other owner stay", Duration::from_secs(5), || async {
        let pods = context.list(&core(&namespace, "pods")).await?;
        ensure!(pods.len() == 50, "{} pods", pods.len());
        for pod in &pods {
            let owners = pod["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            if owners.len() != 1 || owners[0]["name"] != "to-stay" || !pod["metadata"]["deletionTimestamp"].is_null() {
                bail!("{}: {owners:?}", name(pod));
            }
        }
        Ok(())
    })
    .await
}

async fn circle(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let mut pods = Vec::new();
    for number in 1..=3 {
        let object =
            with(pod(&format!("pod{number}"), &[pause(&context)]), json!({"spec": {"nodeSelector": {"no": "node"}}}));
        pods.push(context.create_pod(&namespace, &object).await?);
    }
    for (at, object) in pods.iter().enumerate() {
        let owner = &pods[(at + 2) % 3];
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": name(owner), "uid": uid(owner),
            "controller": true, "blockOwnerDeletion": true});
        let path = format!("{}/{}", core(&namespace, "pods"), name(object));
        context.merge(&path, json!({"metadata": {"ownerReferences": [reference]}})).await?;
    }
    let path = format!("{}/pod1", core(&namespace, "pods"));
    context.delete_with(&path, json!({"propagationPolicy": "Foreground", "gracePeriodSeconds": 0})).await?;
    eventually("the circle is gone", LIMIT + LIMIT, || async {
        let left = context.list(&core(&namespace, "pods")).await?;
        ensure!(left.is_empty(), "{} left", left.len());
        Ok(())
    })
    .await
}
