//! DaemonSets: node labels, failed pods, rolling updates, rollbacks and revisions.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, path_of, ready_pods, workload};
use crate::{
    api::{Patch, core, name, uid},
    context::{Context, brief, eventually},
    operations::unique,
    pods::{is_ready, with},
};

crate::rows! { "apps";
    "ControllerRevision" {
        "should manage the lifecycle of a ControllerRevision" => revisions,
    }
    "Daemon set" {
        "should list and delete a collection of DaemonSets" => |c| super::collection(c, "DaemonSet", "daemonsets"),
        "should retry creating failed daemon pods" => failed_pod,
        "should rollback without unnecessary restarts" => rollback,
        "should run and stop complex daemon" => complex,
        "should update pod when spec was updated and update strategy is RollingUpdate" => rolling_update,
    }
}

const HASH: &str = "controller-revision-hash";

async fn create(context: &Context, over: Value) -> Result<(String, String)> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "daemonsets");
    context.create(&path, &with(workload(context, "daemonsets", 0), over)).await?;
    Ok((namespace, format!("{path}/workload")))
}

async fn on_every_node(context: &Context, namespace: &str) -> Result<Vec<Value>> {
    let count = context.nodes().await?.len();
    ready_pods(context, namespace, count).await
}

async fn set_image(context: &Context, path: &str, image: &str) -> Result<Value> {
    context.modify(path, |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into()).await
}

async fn revisions_of(context: &Context, namespace: &str) -> Result<Vec<Value>> {
    let mut all = context.list(&path_of(namespace, "controllerrevisions")).await?;
    all.sort_by_key(|revision| revision["revision"].as_i64());
    Ok(all)
}

async fn complex(context: Context) -> Result<()> {
    let label = format!("daemonset-color-{}", unique());
    let over = json!({"spec": {"template": {"spec": {"nodeSelector": {label.as_str(): "blue"}}}}});
    let (namespace, path) = create(&context, over).await?;
    let none = |set: &Value| set["status"]["observedGeneration"] == 1 && set["status"]["desiredNumberScheduled"] == 0;
    context.until(&path, "wants no pod", none).await?;
    ready_pods(&context, &namespace, 0).await?;
    let node = format!("/api/v1/nodes/{}", name(&context.nodes().await?[0]));
    let paint =
        async |color: Value| context.merge(&node, json!({"metadata": {"labels": {label.as_str(): color}}})).await;
    let result = async {
        paint("blue".into()).await?;
        let pods = ready_pods(&context, &namespace, 1).await?;
        ensure!(
            node.ends_with(&format!("/{}", pods[0]["spec"]["nodeName"].as_str().unwrap_or("?"))),
            "on another node"
        );
        paint("green".into()).await?;
        ready_pods(&context, &namespace, 0).await?;
        context
            .modify(&path, |set| {
                set["spec"]["template"]["spec"]["nodeSelector"][&label] = "green".into();
                set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
            })
            .await?;
        ready_pods(&context, &namespace, 1).await
    }
    .await;
    paint(Value::Null).await?;
    result.map(drop)
}

async fn failed_pod(context: Context) -> Result<()> {
    let (namespace, _) = create(&context, json!({})).await?;
    let pods = on_every_node(&context, &namespace).await?;
    let victim = format!("{}/{}", core(&namespace, "pods"), name(&pods[0]));
    let was = uid(&pods[0]).to_owned();
    context.modify_at(&victim, &format!("{victim}/status"), |pod| pod["status"]["phase"] = "Failed".into()).await?;
    eventually("the failed pod is replaced", LIMIT, || async {
        let pods = on_every_node(&context, &namespace).await?;
        ensure!(pods.iter().all(|pod| uid(pod) != was), "it is still there");
        Ok(())
    })
    .await?;
    context.until_gone(&victim).await
}

async fn rolling_update(context: Context) -> Result<()> {
    let (namespace, path) = create(&context, json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}})).await?;
    on_every_node(&context, &namespace).await?;
    let first = revisions_of(&context, &namespace).await?;
    ensure!(first.len() == 1 && first[0]["revision"] == 1, "{first:?}");
    let hash = &first[0]["metadata"]["labels"][HASH];
    let pods = on_every_node(&context, &namespace).await?;
    ensure!(pods.iter().all(|pod| pod["metadata"]["labels"][HASH] == *hash), "pods have another hash than {hash}");
    set_image(&context, &path, &context.agnhost_other).await?;
    eventually("all pods have the new image", LIMIT, || async {
        let pods = on_every_node(&context, &namespace).await?;
        ensure!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == context.agnhost_other), "not yet");
        Ok(())
    })
    .await?;
    let both = revisions_of(&context, &namespace).await?;
    ensure!(both.len() == 2 && both[1]["revision"] == 2, "{both:?}");
    let hash = &both[1]["metadata"]["labels"][HASH];
    let pods = on_every_node(&context, &namespace).await?;
    ensure!(pods.iter().all(|pod| pod["metadata"]["labels"][HASH] == *hash), "pods have another hash than {hash}");
    let rolled = |set: &Value| {
        let status = &set["status"];
        status["updatedNumberScheduled"] == status["desiredNumberScheduled"] && status["observedGeneration"] == 2
    };
    context.until(&path, "tells that all are updated", rolled).await.map(drop)
}

async fn rollback(context: Context) -> Result<()> {
    let (namespace, path) = create(&context, json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}})).await?;
    let pods = on_every_node(&context, &namespace).await?;
    ensure!(pods.len() > 1, "one node shows nothing");
    let good = pods[0]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    let bad = "foo.invalid/foo:non-existent";
    set_image(&context, &path, bad).await?;
    let all = format!("{}?labelSelector=app=e2e", core(&namespace, "pods"));
    // One node has a pod that cannot start; the update must stop there.
    let left = eventually("the update hangs on one node", LIMIT, || async {
        let pods = context.list(&all).await?;
        let (new, old): (Vec<_>, Vec<_>) =
            pods.into_iter().partition(|pod| pod["spec"]["containers"][0]["image"] == bad);
        ensure!(new.len() == 1 && old.iter().all(is_ready), "{} new pods", new.len());
        ensure!(old.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()), "an old pod goes");
        Ok(old.iter().map(|pod| uid(pod).to_owned()).collect::<BTreeSet<_>>())
    })
    .await?;
    ensure!(left.len() == pods.len() - 1, "{} of {} old pods are left", left.len(), pods.len());
    set_image(&context, &path, &good).await?;
    let after = on_every_node(&context, &namespace).await?;
    let after: BTreeSet<String> = after.iter().map(|pod| uid(pod).to_owned()).collect();
    ensure!(left.is_subset(&after), "a pod was restarted for nothing");
    let revisions = revisions_of(&context, &namespace).await?;
    ensure!(revisions.last().is_some_and(|revision| revision["revision"] == 3), "{revisions:?}");
    Ok(())
}

/// Hand-made, changed and deleted revisions do not confuse the numbering.
async fn revisions(context: Context) -> Result<()> {
    let label = json!({"metadata": {"labels": {"daemonset-name": "e2e"}}});
    let over = with(
        label.clone(),
        json!({"spec": {"template": label, "selector": {"matchLabels": {"daemonset-name": "e2e"}}}}),
    );
    let (namespace, path) = create(&context, over).await?;
    on_every_node(&context, &namespace).await?;
    let all = path_of(&namespace, "controllerrevisions");
    let selected = "labelSelector=daemonset-name=e2e";
    let count = async |wanted: usize| {
        eventually(&format!("there are {wanted} revisions"), LIMIT, || async {
            let found = context.list(&format!("{all}?{selected}")).await?;
            ensure!(found.len() == wanted, "{} are there", found.len());
            Ok(found)
        })
        .await
    };
    let set = context.get(&path).await?;
    let everywhere = context.list(&format!("/apis/apps/v1/controllerrevisions?{selected}")).await?;
    ensure!(everywhere.len() == 1, "{} revisions in all namespaces", everywhere.len());
    let initial = everywhere.into_iter().next().context("no revision")?;
    ensure!(initial["metadata"]["ownerReferences"][0]["uid"] == uid(&set), "{initial}");
    let at = format!("{all}/{}", name(&initial));
    let patched = context.patch(&at, Patch::Strategic, &json!({"metadata": {"labels": {"e2e": "patched"}}})).await?;
    ensure!(patched["metadata"]["labels"]["e2e"] == "patched", "{patched}");

    let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
    labels[HASH] = "handmade".into();
    let owner = &initial["metadata"]["ownerReferences"];
    let made = json!({"metadata": {"name": "workload-handmade", "labels": labels, "ownerReferences": owner},
        "data": initial["data"], "revision": initial["revision"].as_i64().unwrap_or(0) + 1});
    context.create(&all, &made).await?;
    count(2).await?;
    context.delete(&at).await?;
    let left = count(1).await?;
    ensure!(name(&left[0]) == "workload-handmade", "{} is left", name(&left[0]));
    let at = format!("{all}/workload-handmade");
    let updated = context.modify(&at, |revision| revision["metadata"]["labels"]["e2e"] = "updated".into()).await?;
    ensure!(updated["metadata"]["labels"]["e2e"] == "updated", "{updated}");

    let patch = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 2}},
        "updateStrategy": {"type": "RollingUpdate"}}});
    context.patch(&path, Patch::Strategic, &patch).await?;
    count(2).await?;
    context.delete(&format!("{all}?labelSelector=e2e=updated")).await?;
    let left = count(1).await?;
    ensure!(left[0]["revision"] == 3, "{}", brief(&left[0]));
    Ok(())
}
