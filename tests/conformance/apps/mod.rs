//! Rows of the area apps.

mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod job;
mod replicas;
mod statefulset;

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    api::{core, group, merge, name, uid},
    context::{Context, brief, eventually},
    operations::{Operations, contains, three},
    pods::{is_ready, netexec, pause, pod, with},
};

mod table {
    use super::*;

    crate::rows! { "apps";
        "Deployment" {
            "Deployment should have a working scale subresource" => |c| scale(c, "deployments"),
            "RecreateDeployment should delete old pods and create new ones" => |c| rollout(c, "Recreate"),
            "RollingUpdateDeployment should delete old pods and create new ones" => |c| rollout(c, "RollingUpdate"),
            "deployment should delete old replica sets" => old_sets,
            "should validate Deployment Status endpoints" => |c| status(c, "deployments"),
        }
        "ReplicaSet" {
            "Replicaset should have a working scale subresource" => |c| scale(c, "replicasets"),
            "should adopt matching pods on creation and release no longer matching pods" => |c| adopt_and_release(c, "replicasets"),
            "should list and delete a collection of ReplicaSets" => |c| collection(c, "ReplicaSet", "replicasets"),
            "should serve a basic image on each replica with a public image" => |c| serve(c, "replicasets"),
            "should validate Replicaset Status endpoints" => |c| status(c, "replicasets"),
        }
        "ReplicationController" {
            "should adopt matching pods on creation" => |c| adopt_and_release(c, "replicationcontrollers"),
            "should get and update a ReplicationController scale" => |c| scale(c, "replicationcontrollers"),
            "should release no longer matching pods" => |c| adopt_and_release(c, "replicationcontrollers"),
            "should serve a basic image on each replica with a public image" => |c| serve(c, "replicationcontrollers"),
            "should surface a failure condition on a common issue like exceeded quota" => quota_failure,
        }
        "StatefulSet Basic StatefulSet functionality" {
            "should have a working scale subresource" => |c| scale(c, "statefulsets"),
            "should validate Statefulset Status endpoints" => |c| status(c, "statefulsets"),
        }
        "Daemon set" {
            "should run and stop simple daemon" => simple_daemon,
            "should verify changes to a daemon set status" => |c| status(c, "daemonsets"),
        }
        "DisruptionController Listing PodDisruptionBudgets for all namespaces" {
            "should list and delete a collection of PodDisruptionBudgets" => budgets,
        }
        "CronJob" {
            "should support CronJob API operations" => cron_operations,
        }
        "Job" {
            "should apply changes to a job status" => |c| status(c, "jobs"),
        }
    }
}

pub fn tests() -> Vec<Test> {
    [
        table::tests(),
        cronjob::tests(),
        daemonset::tests(),
        deployment::tests(),
        disruption::tests(),
        job::tests(),
        replicas::tests(),
        statefulset::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How long a set of pods may take to become as wanted.
const LIMIT: Duration = Duration::from_secs(180);

fn path_of(namespace: &str, plural: &str) -> String {
    match plural {
        "replicationcontrollers" => core(namespace, plural),
        "jobs" | "cronjobs" => group("batch/v1", namespace, plural),
        _ => group("apps/v1", namespace, plural),
    }
}

fn template(context: &Context) -> Value {
    json!({"metadata": {"labels": {"app": "e2e"}}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [netexec(context)]}})
}

/// A workload of that kind with pods labelled `app=e2e`.
fn workload(context: &Context, plural: &str, replicas: u32) -> Value {
    let template = template(context);
    let spec = match plural {
        "jobs" => json!({"template": with(template, json!({"spec": {"restartPolicy": "Never"}})), "completions": 1}),
        "replicationcontrollers" => json!({"replicas": replicas, "selector": {"app": "e2e"}, "template": template}),
        "daemonsets" => json!({"selector": {"matchLabels": {"app": "e2e"}}, "template": template}),
        "statefulsets" => {
            json!({"replicas": replicas, "serviceName": "test", "selector": {"matchLabels": {"app": "e2e"}}, "template": template})
        }
        _ => json!({"replicas": replicas, "selector": {"matchLabels": {"app": "e2e"}}, "template": template}),
    };
    json!({"metadata": {"name": "workload", "labels": {"app": "e2e"}}, "spec": spec})
}

async fn ready_pods(context: &Context, namespace: &str, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} pods are ready"), LIMIT, || async {
        let pods = context.list(&format!("{}?labelSelector=app=e2e", core(namespace, "pods"))).await?;
        let pods: Vec<Value> = pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
        ensure!(pods.len() == count && pods.iter().all(is_ready), "{} pods", pods.len());
        Ok(pods)
    })
    .await
}

async fn scale(context: Context, plural: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, plural);
    context.create(&path, &workload(&context, plural, 1)).await?;
    ready_pods(&context, &namespace, 1).await?;
    let at = format!("{path}/workload/scale");
    let read = context.get(&at).await?;
    ensure!(read["kind"] == "Scale" && read["spec"]["replicas"] == 1 && read["status"]["replicas"] == 1, "{read}");
    let written = context.modify(&at, |scale| scale["spec"]["replicas"] = 2.into()).await?;
    ensure!(written["spec"]["replicas"] == 2, "{written}");
    ensure!(context.get(&format!("{path}/workload")).await?["spec"]["replicas"] == 2, "the workload has another size");
    ready_pods(&context, &namespace, 2).await?;
    let patched = context.merge(&at, json!({"spec": {"replicas": 4}})).await?;
    ensure!(patched["spec"]["replicas"] == 4, "{patched}");
    ready_pods(&context, &namespace, 4).await.map(drop)
}

async fn status(context: Context, plural: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, plural);
    context.create(&path, &workload(&context, plural, 1)).await?;
    context.get_soon(&format!("{path}/workload/status")).await?;
    let mut watch = context.watch(&format!("{path}?fieldSelector=metadata.name=workload")).await?;
    let at = format!("{path}/workload/status");
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let patch = json!({"status": {"conditions": [condition("StatusPatched")]}});
    contains(&context.merge(&at, patch.clone()).await?, &patch)?;
    let shows = |kind: &'static str| move |event: &Value| !crate::pods::condition(&event["object"], kind).is_null();
    watch.until("the patched status", LIMIT, shows("StatusPatched")).await?;
    let update = json!({"status": {"conditions": [condition("StatusUpdate")]}});
    let written = context.modify_at(&format!("{path}/workload"), &at, |object| merge(object, &update)).await?;
    contains(&written, &update)?;
    watch.until("the updated status", LIMIT, shows("StatusUpdate")).await.map(drop)
}

async fn collection(context: Context, kind: &'static str, plural: &'static str) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(&json!({"spec": workload(&context, plural, 0)["spec"]}));
    Operations { version: "apps/v1", kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn serve(context: Context, plural: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create(&path_of(&namespace, plural), &workload(&context, plural, 2)).await?;
    for pod in ready_pods(&context, &namespace, 2).await? {
        let path = format!("{}/{}:8080/proxy/hostname", core(&namespace, "pods"), name(&pod));
        let answer = context.text(&path).await?;
        ensure!(answer == name(&pod), "{} answers {answer:?}", name(&pod));
    }
    Ok(())
}

async fn adopt_and_release(context: Context, plural: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let orphan = with(
        pod("orphan", &[pause(&context)]),
        json!({"metadata": {"labels": {"app": "e2e"}}, "spec": {"restartPolicy": "Always"}}),
    );
    context.start_pod(&namespace, &orphan).await?;
    let owner = context.create(&path_of(&namespace, plural), &workload(&context, plural, 1)).await?;
    let path = format!("{}/orphan", core(&namespace, "pods"));
    let owned = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == uid(&owner);
    context.until(&path, "is adopted", owned).await?;
    context.merge(&path, json!({"metadata": {"labels": {"app": "released"}}})).await?;
    let free = |pod: &Value| pod["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty);
    context.until(&path, "is released", free).await.map(drop)
}

async fn quota_failure(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let quota = json!({"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}});
    context.create(&core(&namespace, "resourcequotas"), &quota).await?;
    let counted = |quota: &Value| quota["status"]["hard"]["pods"] == "2";
    context.until(&format!("{}/two", core(&namespace, "resourcequotas")), "is counted", counted).await?;
    let path = path_of(&namespace, "replicationcontrollers");
    context.create(&path, &workload(&context, "replicationcontrollers", 3)).await?;
    let path = format!("{path}/workload");
    let failure = |object: &Value| !crate::pods::condition(object, "ReplicaFailure").is_null();
    context.until(&path, "tells the failure", failure).await?;
    context.modify(&path, |object| object["spec"]["replicas"] = 2.into()).await?;
    context.until(&path, "forgets the failure", |object| !failure(object)).await.map(drop)
}

async fn rollout(context: Context, strategy: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "deployments");
    let body = with(workload(&context, "deployments", 2), json!({"spec": {"strategy": {"type": strategy}}}));
    context.create(&path, &body).await?;
    let old = ready_pods(&context, &namespace, 2).await?;
    let path = format!("{path}/workload");
    let image = context.agnhost_other.clone();
    context
        .modify(&path, |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = image.clone().into())
        .await?;
    let done = |object: &Value| {
        let status = &object["status"];
        status["observedGeneration"] == object["metadata"]["generation"]
            && [&status["replicas"], &status["updatedReplicas"], &status["availableReplicas"]]
                .iter()
                .all(|count| **count == 2)
    };
    // With Recreate, old and new pods never run together.
    let pods = format!("{}?labelSelector=app=e2e", core(&namespace, "pods"));
    eventually("the rollout is complete", LIMIT, || async {
        let images: std::collections::BTreeSet<String> = context
            .list(&pods)
            .await?
            .iter()
            .filter(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| pod["spec"]["containers"][0]["image"].to_string())
            .collect();
        if strategy == "Recreate" && images.len() > 1 {
            panic!("old and new pods run together");
        }
        let object = context.get(&path).await?;
        ensure!(done(&object), "{}", brief(&object));
        Ok(())
    })
    .await?;
    let new = ready_pods(&context, &namespace, 2).await?;
    ensure!(new.iter().all(|pod| old.iter().all(|other| uid(other) != uid(pod))), "an old pod is left");
    let object = context.get(&path).await?;
    ensure!(
        object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2",
        "{}",
        object["metadata"]["annotations"]
    );
    Ok(())
}

async fn old_sets(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "deployments");
    let body = with(workload(&context, "deployments", 1), json!({"spec": {"revisionHistoryLimit": 0}}));
    context.create(&path, &body).await?;
    ready_pods(&context, &namespace, 1).await?;
    let image = context.agnhost_other.clone();
    context
        .modify(&format!("{path}/workload"), |object| {
            object["spec"]["template"]["spec"]["containers"][0]["image"] = image.clone().into()
        })
        .await?;
    eventually("one replica set is left", LIMIT, || async {
        let sets = context.list(&path_of(&namespace, "replicasets")).await?;
        let images: Vec<&Value> =
            sets.iter().map(|set| &set["spec"]["template"]["spec"]["containers"][0]["image"]).collect();
        ensure!(images.len() == 1 && *images[0] == image.as_str(), "{images:?}");
        Ok(())
    })
    .await
}

async fn simple_daemon(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "daemonsets");
    context.create(&path, &workload(&context, "daemonsets", 0)).await?;
    let count = context.nodes().await?.len();
    let pods = ready_pods(&context, &namespace, count).await?;
    let victim = name(&pods[0]).to_owned();
    context.delete(&format!("{}/{victim}", core(&namespace, "pods"))).await?;
    eventually("a new pod takes its place", LIMIT, || async {
        let pods = ready_pods(&context, &namespace, count).await?;
        ensure!(pods.iter().all(|pod| name(pod) != victim), "it is still there");
        Ok(())
    })
    .await?;
    context.delete_with(&format!("{path}/workload"), json!({"propagationPolicy": "Background"})).await?;
    ready_pods(&context, &namespace, 0).await.map(drop)
}

async fn budgets(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(&json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"no": "pod"}}}}));
    let (version, kind, plural) = ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn cron_operations(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let job = json!({"template": {"spec": {"restartPolicy": "OnFailure", "containers": [pause(&context)]}}});
    let objects = three(
        &json!({"spec": {"schedule": "* */1 * * ?", "concurrencyPolicy": "Allow", "suspend": true, "jobTemplate": {"spec": job}}}),
    );
    let status = Some(json!({"lastScheduleTime": "2025-01-02T03:04:05Z"}));
    let (version, kind, plural) = ("batch/v1", "CronJob", "cronjobs");
    Operations { version, kind, plural, namespace, objects, status }.run(&context).await
}
