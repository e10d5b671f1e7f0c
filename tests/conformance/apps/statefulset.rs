//! StatefulSets: order, bursts, partitions, rollbacks and pods that a node refuses.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, path_of, ready_pods};
use crate::{
    api::{Patch, Watch, core, name, uid},
    context::{Context, brief, consistently, eventually},
    pods::{is_ready, pause, pod, shell, with},
};

crate::rows! { "apps";
    "StatefulSet Basic StatefulSet functionality" {
        "Burst scaling should run to completion even with unhealthy pods" => burst,
        "Scaling should happen in predictable order and halt if any stateful pod is unhealthy" => ordered,
        "Should recreate evicted statefulset" => refused_pod,
        "should list, patch and delete a collection of StatefulSets" => collection,
        "should perform canary updates and phased rolling updates of template modifications" => canary,
        "should perform rolling updates and roll backs of template modifications" => rollback,
    }
}

/// How long nothing may move to count as a halt.
const HALT: Duration = Duration::from_secs(10);
/// The file whose absence makes a pod unready.
const FLAG: &str = "/tmp/ready";
const HASH: &str = "controller-revision-hash";

/// A set whose pods are ready while a file is there.
fn set(context: &Context, replicas: u32) -> Value {
    let script = format!("touch {FLAG}; trap 'exit 0' TERM; sleep 100000 & wait");
    let probe = json!({"readinessProbe": {"exec": {"command": ["test", "-e", FLAG]}, "periodSeconds": 1,
        "successThreshold": 1, "failureThreshold": 1, "timeoutSeconds": 10}});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [with(shell(context, &script), probe)]});
    json!({"metadata": {"name": "ss"}, "spec": {"replicas": replicas, "serviceName": "test",
        "selector": {"matchLabels": {"app": "e2e"}},
        "template": {"metadata": {"labels": {"app": "e2e"}}, "spec": spec}}})
}

struct Set<'a> {
    context: &'a Context,
    namespace: String,
    path: String,
}

impl<'a> Set<'a> {
    async fn create(context: &'a Context, body: &Value) -> Result<Set<'a>> {
        let namespace = context.namespace().await?;
        let path = path_of(&namespace, "statefulsets");
        context.create(&path, body).await?;
        Ok(Set { context, path: format!("{path}/ss"), namespace })
    }

    fn pods_path(&self) -> String {
        format!("{}?labelSelector=app=e2e", core(&self.namespace, "pods"))
    }

    async fn ready(&self, count: usize) -> Result<Vec<Value>> {
        let mut pods = ready_pods(self.context, &self.namespace, count).await?;
        pods.sort_by(|a, b| name(a).cmp(name(b)));
        Ok(pods)
    }

    async fn pods(&self) -> Result<Vec<Value>> {
        let mut pods = self.context.list(&self.pods_path()).await?;
        pods.sort_by(|a, b| name(a).cmp(name(b)));
        Ok(pods)
    }

    /// Makes pods unready, or ready again.
    async fn set_ready(&self, pods: &[Value], ready: bool) -> Result<()> {
        let verb = if ready { "touch" } else { "rm -f" };
        for pod in pods {
            self.context.exec(&self.namespace, name(pod), "main", &format!("{verb} {FLAG}")).await?;
            if !ready {
                let unready = |pod: &Value| !is_ready(pod);
                self.context.wait_pod(&self.namespace, name(pod), "is not ready", unready).await?;
            }
        }
        Ok(())
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.context.until_within(&self.path, what, LIMIT, wanted).await
    }

    async fn ready_replicas(&self, count: i64) -> Result<()> {
        let tells = |set: &Value| set["status"]["readyReplicas"].as_i64().unwrap_or(0) == count;
        self.until(&format!("tells {count} ready replicas"), tells).await.map(drop)
    }

    async fn scale(&self, replicas: u32) -> Result<()> {
        self.context.merge(&self.path, json!({"spec": {"replicas": replicas}})).await.map(drop)
    }

    /// Nothing is created or deleted although something should be.
    async fn halts_at(&self, count: usize) -> Result<()> {
        let same = || async {
            let found = self.pods().await?;
            ensure!(found.len() == count, "{} pods", found.len());
            ensure!(found.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()), "a pod is deleted");
            Ok(())
        };
        consistently("the set halts", HALT, same).await
    }

    async fn set_image(&self, image: &str) -> Result<()> {
        let image = image.to_owned();
        let change = |set: &mut Value| set["spec"]["template"]["spec"]["containers"][0]["image"] = image.clone().into();
        self.context.modify(&self.path, change).await.map(drop)
    }

    async fn partition(&self, partition: u32) -> Result<()> {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
        self.context.merge(&self.path, json!({"spec": {"updateStrategy": strategy}})).await.map(drop)
    }

    /// (current revision, update revision) once the present spec was seen.
    async fn revisions(&self) -> Result<(String, String)> {
        let seen = |set: &Value| set["status"]["observedGeneration"] == set["metadata"]["generation"];
        let set = self.until("was seen", seen).await?;
        let of = |field: &str| set["status"][field].as_str().unwrap_or_default().to_owned();
        Ok((of("currentRevision"), of("updateRevision")))
    }

    /// Waits until every pod is ready and has the wanted revision.
    async fn have(&self, wanted: &[&str]) -> Result<()> {
        eventually(&format!("pods have the revisions {wanted:?}"), LIMIT, || async {
            let pods = self.pods().await?;
            ensure!(pods.len() == wanted.len() && pods.iter().all(is_ready), "{} pods", pods.len());
            for (pod, revision) in pods.iter().zip(wanted) {
                let has = &pod["metadata"]["labels"][HASH];
                ensure!(has == revision, "{} has {has}", name(pod));
            }
            Ok(())
        })
        .await
    }

    async fn watch(&self) -> Result<Watch> {
        let version = self.context.get(&self.pods_path()).await?;
        self.context.watch(&format!("{}&resourceVersion={}", self.pods_path(), crate::api::version(&version))).await
    }
}

/// Waits for events of that type about these pods, in this order.
async fn in_order(watch: &mut Watch, kind: &str, names: &[&str]) -> Result<()> {
    for wanted in names {
        let event = watch.until(&format!("{kind} {wanted}"), LIMIT, |event| event["type"] == kind).await?;
        ensure!(name(&event["object"]) == *wanted, "{kind} {} before {wanted}", name(&event["object"]));
    }
    Ok(())
}

async fn ordered(context: Context) -> Result<()> {
    let set = Set::create(&context, &set(&context, 1)).await?;
    let pods = set.ready(1).await?;
    let mut watch = set.watch().await?;
    set.set_ready(&pods, false).await?;
    set.ready_replicas(0).await?;
    set.scale(3).await?;
    set.halts_at(1).await?;
    set.set_ready(&pods, true).await?;
    let pods = set.ready(3).await?;
    in_order(&mut watch, "ADDED", &["ss-1", "ss-2"]).await?;

    let mut watch = set.watch().await?;
    set.set_ready(&pods, false).await?;
    set.ready_replicas(0).await?;
    set.scale(0).await?;
    set.halts_at(3).await?;
    set.set_ready(&pods, true).await?;
    in_order(&mut watch, "DELETED", &["ss-2", "ss-1", "ss-0"]).await?;
    set.until("has no replicas", |set| set["status"]["replicas"] == 0).await.map(drop)
}

async fn burst(context: Context) -> Result<()> {
    let body = with(set(&context, 1), json!({"spec": {"podManagementPolicy": "Parallel"}}));
    let set = Set::create(&context, &body).await?;
    let pods = set.ready(1).await?;
    set.set_ready(&pods, false).await?;
    set.ready_replicas(0).await?;
    set.scale(3).await?;
    eventually("all three pods exist", LIMIT, || async {
        let count = set.pods().await?.len();
        ensure!(count == 3, "{count} pods");
        Ok(())
    })
    .await?;
    set.set_ready(&pods, true).await?;
    let pods = set.ready(3).await?;
    set.set_ready(&pods, false).await?;
    set.ready_replicas(0).await?;
    set.scale(0).await?;
    eventually("all pods are gone", LIMIT, || async {
        let count = set.pods().await?.len();
        ensure!(count == 0, "{count} pods");
        Ok(())
    })
    .await?;
    set.until("has no replicas", |set| set["status"]["replicas"] == 0).await.map(drop)
}

/// The node refuses a pod whose port is taken; the set tries until it is free.
async fn refused_pod(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let node = context.nodes().await?.swap_remove(0);
    let port = json!([{"containerPort": 21017, "hostPort": 21017, "name": "conflict"}]);
    let on_node = |container: Value| {
        json!({"nodeName": name(&node), "terminationGracePeriodSeconds": 1,
            "containers": [with(container, json!({"ports": port}))]})
    };
    let first = with(pod("test-pod", &[]), json!({"spec": on_node(pause(&context))}));
    context.start_pod(&namespace, &first).await?;
    let mut watch = context.watch(&format!("{}?labelSelector=app=e2e", core(&namespace, "pods"))).await?;
    let mut body = set(&context, 1);
    body["spec"]["template"]["spec"] = on_node(pause(&context));
    context.create(&path_of(&namespace, "statefulsets"), &body).await?;
    let refused = |event: &Value| event["type"] != "DELETED" && event["object"]["status"]["phase"] == "Failed";
    let failed = watch.until("the refusal", LIMIT, refused).await?;
    let was = uid(&failed["object"]).to_owned();
    let gone = |event: &Value| event["type"] == "DELETED" && uid(&event["object"]) == was;
    watch.until("its deletion", LIMIT, gone).await?;
    context.delete_now(&format!("{}/test-pod", core(&namespace, "pods"))).await?;
    let path = format!("{}/ss-0", core(&namespace, "pods"));
    eventually("another pod runs", LIMIT, || async {
        let pod = context.get(&path).await?;
        ensure!(uid(&pod) != was && pod["status"]["phase"] == "Running", "{}", brief(&pod));
        Ok(())
    })
    .await
}

async fn collection(context: Context) -> Result<()> {
    let label = crate::operations::unique();
    let body = with(set(&context, 1), json!({"metadata": {"labels": {"e2e": label}}}));
    let set = Set::create(&context, &body).await?;
    set.ready(1).await?;
    let selected = format!("{}?labelSelector=e2e={label}", path_of(&set.namespace, "statefulsets"));
    let everywhere = format!("/apis/apps/v1/statefulsets?labelSelector=e2e={label}");
    ensure!(context.list(&everywhere).await?.len() == 1, "not one set in all namespaces");
    let mut watch = context.watch(&selected).await?;
    let spec = json!({"terminationGracePeriodSeconds": 2,
        "containers": [{"name": "main", "image": context.agnhost_other, "command": ["/agnhost", "pause"]}]});
    let patch = json!({"metadata": {"labels": {"test-ss": "patched"}}, "spec": {"replicas": 2,
        "template": {"spec": spec}}});
    context.patch(&set.path, Patch::Strategic, &patch).await?;
    let patched = |event: &Value| event["object"]["metadata"]["labels"]["test-ss"] == "patched";
    let event = watch.until("the patch", LIMIT, patched).await?;
    let spec = &event["object"]["spec"];
    ensure!(spec["replicas"] == 2, "{spec}");
    ensure!(spec["template"]["spec"]["containers"][0]["image"] == context.agnhost_other, "{spec}");
    context.delete(&selected).await?;
    watch.until("the deletion", LIMIT, |event| event["type"] == "DELETED").await?;
    ensure!(context.list(&everywhere).await?.is_empty(), "the set is still listed");
    Ok(())
}

async fn canary(context: Context) -> Result<()> {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}});
    let set = Set::create(&context, &with(set(&context, 3), json!({"spec": {"updateStrategy": strategy}}))).await?;
    set.ready(3).await?;
    let (old, same) = set.revisions().await?;
    ensure!(!old.is_empty() && old == same, "{old} and {same}");
    set.have(&[&old, &old, &old]).await?;
    set.set_image(skiff_tests::image::BUSYBOX_NEXT).await?;
    let (current, new) = set.revisions().await?;
    ensure!(current == old && new != old, "{current} and {new}");
    set.halts_at(3).await?;
    set.have(&[&old, &old, &old]).await?;

    set.partition(2).await?;
    set.have(&[&old, &old, &new]).await?;
    for victim in ["ss-0", "ss-2"] {
        let path = format!("{}/{victim}", core(&set.namespace, "pods"));
        let was = uid(&context.get(&path).await?).to_owned();
        context.delete(&path).await?;
        context.until_within(&path, "is another pod", LIMIT, |pod| uid(pod) != was).await?;
    }
    set.have(&[&old, &old, &new]).await?;
    set.partition(1).await?;
    set.have(&[&old, &new, &new]).await?;
    set.partition(0).await?;
    set.have(&[&new, &new, &new]).await?;
    let done = |set: &Value| {
        let status = &set["status"];
        status["currentRevision"] == new.as_str()
            && status["updateRevision"] == new.as_str()
            && status["updatedReplicas"] == 3
            && status["currentReplicas"] == 3
    };
    set.until("has one revision", done).await.map(drop)
}

/// One roll over three pods of which ss-1 is unready at first.
async fn roll(set: &Set<'_>, image: &str) -> Result<String> {
    let pods = set.ready(3).await?;
    let (old, _) = set.revisions().await?;
    set.set_ready(&pods[1..2], false).await?;
    let mut watch = set.watch().await?;
    set.set_image(image).await?;
    let (current, new) = set.revisions().await?;
    ensure!(current == old && new != old, "{current} and {new}");
    // In order means that nothing moves while a pod is unready.
    set.halts_at(3).await?;
    set.set_ready(&pods[1..2], true).await?;
    in_order(&mut watch, "DELETED", &["ss-2", "ss-1", "ss-0"]).await?;
    set.have(&[&new, &new, &new]).await?;
    let done = |object: &Value| {
        object["status"]["currentRevision"] == new.as_str() && object["status"]["updateRevision"] == new.as_str()
    };
    set.until("has one revision", done).await?;
    Ok(new)
}

async fn rollback(context: Context) -> Result<()> {
    let set = Set::create(&context, &set(&context, 3)).await?;
    set.ready(3).await?;
    let (first, _) = set.revisions().await?;
    set.have(&[&first, &first, &first]).await?;
    let second = roll(&set, skiff_tests::image::BUSYBOX_NEXT).await?;
    ensure!(second != first, "no new revision");
    let third = roll(&set, &context.busybox).await?;
    ensure!(third == first, "rolling back made the revision {third} instead of {first}");
    Ok(())
}
