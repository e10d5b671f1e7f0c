//! Deployments: rollover, proportional scaling and the whole life.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, path_of, ready_pods, workload};
use crate::{
    api::{Patch, core, merge, name, uid, version},
    context::{Context, brief, eventually},
    operations::unique,
    pods::{condition, netexec, with},
};

crate::rows! { "apps";
    "Deployment" {
        "deployment should support proportional scaling" => proportional,
        "deployment should support rollover" => rollover,
        "should run the lifecycle of a Deployment" => lifecycle,
    }
}

const BAD_IMAGE: &str = "webserver.invalid/webserver:404";

fn complete(object: &Value, replicas: u32) -> bool {
    let status = &object["status"];
    status["observedGeneration"] == object["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[*field] == replicas)
}

async fn sets(context: &Context, namespace: &str) -> Result<Vec<Value>> {
    context.list(&path_of(namespace, "replicasets")).await
}

async fn set_image(context: &Context, path: &str, image: &str) -> Result<Value> {
    context.modify(path, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into()).await
}

/// A new template replaces one that was still being rolled out.
async fn rollover(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    // Pods that exist before are adopted through the set that has them.
    let sets_path = path_of(&namespace, "replicasets");
    let mut old = workload(&context, "replicasets", 1);
    old["metadata"]["name"] = "old".into();
    context.create(&sets_path, &old).await?;
    ready_pods(&context, &namespace, 1).await?;
    let path = path_of(&namespace, "deployments");
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let mut body = with(
        workload(&context, "deployments", 1),
        json!({"spec": {"strategy": strategy,
        "minReadySeconds": 10}}),
    );
    body["spec"]["template"]["spec"]["containers"][0]["image"] = BAD_IMAGE.into();
    context.create(&path, &body).await?;
    let path = format!("{path}/workload");
    let begun = |object: &Value| object["status"]["updatedReplicas"] == 1;
    context.until_within(&path, "has begun", LIMIT, begun).await?;
    set_image(&context, &path, &context.agnhost_other).await?;
    context.until_within(&path, "is complete", LIMIT, |object| complete(object, 1)).await?;
    let all = sets(&context, &namespace).await?;
    ensure!(all.len() == 3, "{} sets", all.len());
    for set in &all {
        let is_new = set["spec"]["template"]["spec"]["containers"][0]["image"] == context.agnhost_other;
        ensure!(set["spec"]["replicas"] == u32::from(is_new), "{} has {}", name(set), set["spec"]["replicas"]);
        // Revisions count the templates that the deployment itself had.
        let revision = &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
        let wanted = if is_new {
            json!("2")
        } else if name(set) == "old" {
            Value::Null
        } else {
            json!("1")
        };
        ensure!(*revision == wanted, "{} has the revision {revision}", name(set));
    }
    let object = context.get(&path).await?;
    ensure!(object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2", "{}", object["metadata"]);
    let old = all.iter().find(|set| name(set) == "old").context("the old set is gone")?;
    ensure!(old["metadata"]["ownerReferences"][0]["uid"] == uid(&object), "the old set was not adopted");
    Ok(())
}

/// While a rollout hangs, both sets grow by their shares.
async fn proportional(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "deployments");
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    context
        .create(&path, &with(workload(&context, "deployments", 10), json!({"spec": {"strategy": strategy}})))
        .await?;
    let path = format!("{path}/workload");
    context.until_within(&path, "is complete", LIMIT, |object| complete(object, 10)).await?;
    let first = sets(&context, &namespace).await?.remove(0);
    let updated = set_image(&context, &path, BAD_IMAGE).await?;
    let generation = updated["metadata"]["generation"].clone();
    let seen = |object: &Value| object["status"]["observedGeneration"] == generation;
    context.until(&path, "is seen", seen).await?;
    sizes(&context, &namespace, name(&first), 8, 5).await?;
    let old = format!("{}/{}", path_of(&namespace, "replicasets"), name(&first));
    let available = |set: &Value| set["status"]["availableReplicas"] == 8;
    context.until_within(&old, "has 8 available pods", LIMIT, available).await?;
    context.merge(&path, json!({"spec": {"replicas": 30}})).await?;
    // 13 pods become 33: of 20 more the larger set gets 12, the other 8.
    sizes(&context, &namespace, name(&first), 20, 13).await
}

async fn sizes(context: &Context, namespace: &str, first: &str, old: u32, new: u32) -> Result<()> {
    eventually(&format!("the sets want {old} and {new} pods"), LIMIT, || async {
        let all = sets(context, namespace).await?;
        let found: BTreeMap<bool, &Value> =
            all.iter().map(|set| (name(set) == first, &set["spec"]["replicas"])).collect();
        ensure!(all.len() == 2 && *found[&true] == old && *found[&false] == new, "{found:?}");
        Ok(())
    })
    .await
}

async fn lifecycle(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let label = unique();
    let path = path_of(&namespace, "deployments");
    let body = with(workload(&context, "deployments", 1), json!({"metadata": {"labels": {"static": label}}}));
    context.create(&path, &body).await?;
    let selected = format!("labelSelector=static={label}");
    let everywhere = format!("/apis/apps/v1/deployments?{selected}");
    let mut watch = context.watch(&format!("{path}?{selected}")).await?;
    let at = format!("{path}/workload");
    context.until_within(&at, "is complete", LIMIT, |object| complete(object, 1)).await?;
    watch.until("a ready replica", LIMIT, |event| event["object"]["status"]["readyReplicas"] == 1).await?;

    let spec = json!({"terminationGracePeriodSeconds": 2,
        "containers": [with(netexec(&context), json!({"image": context.agnhost_other}))]});
    let patch = json!({"metadata": {"labels": {"test-deployment": "patched"}},
        "spec": {"replicas": 2, "template": {"spec": spec}}});
    context.patch(&at, Patch::Strategic, &patch).await?;
    let is_patched = |event: &Value| event["object"]["metadata"]["labels"]["test-deployment"] == "patched";
    watch.until("the patch", LIMIT, is_patched).await?;
    context.until_within(&at, "is complete again", LIMIT, |object| complete(object, 2)).await?;
    let listed = context.list(&everywhere).await?;
    ensure!(listed.len() == 1 && listed[0]["spec"]["replicas"] == 2, "{listed:?}");

    let updated = context
        .modify(&at, |object| merge(&mut object["metadata"]["labels"], &json!({"test-deployment": "updated"})))
        .await?;
    ensure!(updated["metadata"]["labels"]["test-deployment"] == "updated", "{}", updated["metadata"]);
    let status = format!("{at}/status");
    ensure!(context.get(&status).await?["kind"] == "Deployment", "no status");
    let known = context.get(&at).await?;
    ensure!(condition(&known, "Available")["status"] == "True", "{}", brief(&known));
    ensure!(condition(&known, "Progressing")["reason"] == "NewReplicaSetAvailable", "{}", brief(&known));

    let mark = json!({"metadata": {"labels": {"test-deployment": "status"}}, "status": {"readyReplicas": 0, "availableReplicas": 0}});
    let mut after = context.watch(&format!("{path}?{selected}&resourceVersion={}", version(&known))).await?;
    context.merge(&status, mark).await?;
    let none_ready = |event: &Value| event["object"]["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0;
    after.until("the patched status", LIMIT, none_ready).await?;
    // The controller mends what was written into the status.
    let mended = |event: &Value| event["object"]["status"]["readyReplicas"] == 2;
    after.until("the status of before", LIMIT, mended).await?;

    context.delete_with(&format!("{path}?{selected}"), json!({"propagationPolicy": "Background"})).await?;
    after.until("the deletion", LIMIT, |event| event["type"] == "DELETED").await?;
    ensure!(context.list(&everywhere).await?.is_empty(), "it is still listed");
    eventually("its pods go", LIMIT, || async {
        let left = context.list(&format!("{}?labelSelector=app=e2e", core(&namespace, "pods"))).await?.len();
        ensure!(left == 0, "{left} pods left");
        Ok(())
    })
    .await
}
