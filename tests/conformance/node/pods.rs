//! Pods as API objects and as processes.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{core, items, name, version},
    context::{Context, LIMIT, brief, eventually},
    operations::{contains, unique},
    pods::{condition, container, is_ready, netexec, pause, pod, shell, with},
};

crate::rows! { "node";
    "Pods" {
        "should allow activeDeadlineSeconds to be updated" => deadline,
        "should be submitted and removed" => submitted,
        "should be updated" => updated,
        "should contain environment variables for services" => service_variables,
        "should delete a collection of pods" => collection,
        "should get a host IP" => host_ip,
        "should patch a pod status" => patch_status,
        "should run through the lifecycle of Pods and PodStatus" => lifecycle,
    }
    "Pods Extended Pods Set QOS Class" {
        "should be set on Pods with matching resource requests and limits for memory and cpu" => guaranteed,
    }
    "Pods Extended (pod generation) Pod Generation" {
        "custom-set generation on new pods and graceful delete" => custom_generation,
        "issue 500 podspec updates and verify generation and observedGeneration eventually converge" => many_generations,
        "pod generation should start at 1 and increment per update" => generation,
    }
    "Ephemeral Containers" {
        "should update the ephemeral containers in an existing pod" => |c| ephemeral(c, true),
        "will start an ephemeral container in an existing pod" => |c| ephemeral(c, false),
    }
    "Pod InPlace Resize Container" {
        "resize pod via the replace endpoint" => resize_by_put,
    }
}

async fn submitted(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let label = unique();
    let selected = format!("{}?labelSelector=time={label}", core(&namespace, "pods"));
    let begin = context.get(&selected).await?;
    ensure!(items(&begin).is_empty(), "there are pods already");
    let mut watch = context.watch(&format!("{selected}&resourceVersion={}", version(&begin))).await?;
    let object = with(
        pod("submitted", &[pause(&context)]),
        json!({"metadata": {"labels": {"time": label}}, "spec": {"terminationGracePeriodSeconds": 5}}),
    );
    context.create_pod(&namespace, &object).await?;
    ensure!(context.list(&selected).await?.len() == 1, "not listed");
    watch.expect("ADDED").await?;
    context.wait_ready(&namespace, "submitted").await?;
    let path = format!("{}/submitted", core(&namespace, "pods"));
    context.delete(&path).await?;
    let marked = |event: &Value| !event["object"]["metadata"]["deletionTimestamp"].is_null();
    watch.until("the mark of deletion", LIMIT, marked).await?;
    let last = watch.until("the deletion", LIMIT, |event| event["type"] == "DELETED").await?;
    ensure!(last["object"]["metadata"]["deletionGracePeriodSeconds"].as_i64().is_some(), "{last}");
    ensure!(context.list(&selected).await?.is_empty(), "still listed");
    Ok(())
}

async fn updated(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let label = unique();
    let object = with(pod("updated", &[pause(&context)]), json!({"metadata": {"labels": {"time": "old"}}}));
    context.start_pod(&namespace, &object).await?;
    let path = format!("{}/updated", core(&namespace, "pods"));
    context.modify(&path, |pod| pod["metadata"]["labels"]["time"] = label.clone().into()).await?;
    context.wait_ready(&namespace, "updated").await?;
    let listed = context.list(&format!("{}?labelSelector=time={label}", core(&namespace, "pods"))).await?;
    ensure!(listed.len() == 1, "{} listed", listed.len());
    Ok(())
}

async fn deadline(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("mortal", &[pause(&context)])).await?;
    let path = format!("{}/mortal", core(&namespace, "pods"));
    context.modify(&path, |pod| pod["spec"]["activeDeadlineSeconds"] = 5.into()).await?;
    let failed = |pod: &Value| pod["status"]["phase"] == "Failed" && pod["status"]["reason"] == "DeadlineExceeded";
    context.wait_pod(&namespace, "mortal", "exceeds its deadline", failed).await.map(drop)
}

async fn service_variables(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("server", &[netexec(&context)])).await?;
    let service = json!({"metadata": {"name": "fooservice"}, "spec": {
        "selector": {"name": "server"}, "ports": [{"port": 8765, "targetPort": 8080}]}});
    context.create(&core(&namespace, "services"), &service).await?;
    let suffixes = [
        "SERVICE_HOST=",
        "SERVICE_PORT=8765",
        "PORT=tcp://",
        "PORT_8765_TCP_PORT=8765",
        "PORT_8765_TCP_PROTO=tcp",
        "PORT_8765_TCP=tcp://",
        "PORT_8765_TCP_ADDR=",
    ];
    eventually("the environment names the service", LIMIT, || async {
        let client = pod(&format!("client-{}", unique()), &[shell(&context, "env")]);
        let output = context.output(&namespace, &client).await?;
        for suffix in suffixes {
            ensure!(output.contains(&format!("FOOSERVICE_{suffix}")), "no {suffix} in {output}");
        }
        Ok(())
    })
    .await
}

async fn collection(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    for number in 1..=3 {
        let object = with(
            pod(&format!("many-{number}"), &[pause(&context)]),
            json!({"metadata": {"labels": {"type": "Testing"}}}),
        );
        context.create_pod(&namespace, &object).await?;
    }
    let selected = format!("{}?labelSelector=type=Testing", core(&namespace, "pods"));
    ensure!(context.list(&selected).await?.len() == 3, "not three");
    context.delete_with(&selected, json!({"gracePeriodSeconds": 0})).await?;
    eventually("all are gone", LIMIT, || async {
        let left = context.list(&selected).await?;
        ensure!(left.is_empty(), "{} left", left.len());
        Ok(())
    })
    .await
}

async fn host_ip(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let ready = context.start_pod(&namespace, &pod("hosted", &[pause(&context)])).await?;
    let address = ready["status"]["hostIP"].as_str().context("no hostIP")?;
    ensure!(address.parse::<IpAddr>().is_ok(), "{address}");
    Ok(())
}

async fn patch_status(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("patched", &[pause(&context)])).await?;
    let path = format!("{}/patched/status", core(&namespace, "pods"));
    let change = json!({"metadata": {"annotations": {"patchedstatus": "yes"}}, "status": {"message": "Patched by e2e", "reason": "E2E"}});
    let patched = context.merge(&path, change.clone()).await?;
    contains(&patched, &change)
}

async fn lifecycle(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let selected = format!("{}?labelSelector=static=true", core(&namespace, "pods"));
    let begin = context.get(&selected).await?;
    let mut watch = context.watch(&format!("{selected}&resourceVersion={}", version(&begin))).await?;
    let object = with(pod("life", &[pause(&context)]), json!({"metadata": {"labels": {"static": "true"}}}));
    context.create_pod(&namespace, &object).await?;
    watch.expect("ADDED").await?;
    watch.until("running", LIMIT, |event| is_ready(&event["object"])).await?;
    let path = format!("{}/life", core(&namespace, "pods"));
    let change = json!({"metadata": {"labels": {"patched": "yes"}}, "spec": {"containers": [{"name": "main", "image": context.agnhost_other}]}});
    context.patch(&path, crate::api::Patch::Strategic, &change).await?;
    let patched =
        |event: &Value| event["type"] == "MODIFIED" && event["object"]["metadata"]["labels"]["patched"] == "yes";
    let event = watch.until("the patch", LIMIT, patched).await?;
    ensure!(event["object"]["spec"]["containers"][0]["image"] == context.agnhost_other.as_str(), "{event}");
    let at = format!("{path}/status");
    context
        .modify_at(&at, &at, |pod| {
            if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
                for condition in conditions.iter_mut().filter(|condition| condition["type"] == "Ready") {
                    condition["status"] = "False".into();
                }
            }
        })
        .await?;
    let unready = |event: &Value| event["type"] == "MODIFIED" && !is_ready(&event["object"]);
    watch.until("the written status", LIMIT, unready).await?;
    context.delete(&selected).await?;
    watch.until("the deletion", LIMIT, |event| event["type"] == "DELETED").await.map(drop)
}

async fn guaranteed(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let sizes = json!({"cpu": "100m", "memory": "100Mi"});
    let container = with(pause(&context), json!({"resources": {"requests": sizes, "limits": sizes}}));
    context.create_pod(&namespace, &pod("sized", &[container])).await?;
    let read = context.get(&format!("{}/sized", core(&namespace, "pods"))).await?;
    ensure!(read["status"]["qosClass"] == "Guaranteed", "{}", read["status"]);
    Ok(())
}

/// Waits until the node agent has seen this generation.
async fn observed(context: &Context, namespace: &str, pod: &str, generation: i64) -> Result<()> {
    let seen =
        |pod: &Value| pod["metadata"]["generation"] == generation && pod["status"]["observedGeneration"] == generation;
    context.wait_pod(namespace, pod, &format!("has observed generation {generation}"), seen).await.map(drop)
}

async fn generation(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let created = context
        .create_pod(
            &namespace,
            &with(pod("counted", &[pause(&context)]), json!({"spec": {"activeDeadlineSeconds": 5000}})),
        )
        .await?;
    ensure!(created["metadata"]["generation"] == 1, "begins with {}", created["metadata"]["generation"]);
    context.wait_ready(&namespace, "counted").await?;
    observed(&context, &namespace, "counted", 1).await?;
    let path = format!("{}/counted", core(&namespace, "pods"));
    context.modify(&path, |pod| pod["spec"]["activeDeadlineSeconds"] = 4000.into()).await?;
    observed(&context, &namespace, "counted", 2).await?;
    let image = context.agnhost_other.clone();
    context.modify(&path, |pod| pod["spec"]["containers"][0]["image"] = image.clone().into()).await?;
    observed(&context, &namespace, "counted", 3).await?;
    context.modify(&path, |pod| pod["metadata"]["labels"]["only"] = "metadata".into()).await?;
    observed(&context, &namespace, "counted", 3).await?;
    context.modify(&path, |_| ()).await?;
    observed(&context, &namespace, "counted", 3).await
}

async fn custom_generation(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let object = with(
        pod("custom", &[shell(&context, "trap '' TERM; sleep 1000")]),
        json!({"metadata": {"generation": 100}, "spec": {"terminationGracePeriodSeconds": 10}}),
    );
    let created = context.create_pod(&namespace, &object).await?;
    ensure!(created["metadata"]["generation"] == 1, "begins with {}", created["metadata"]["generation"]);
    context.wait_ready(&namespace, "custom").await?;
    let path = format!("{}/custom", core(&namespace, "pods"));
    context.delete(&path).await?;
    let marked = context.get(&path).await?;
    ensure!(marked["metadata"]["generation"] == 2, "{} after deletion", marked["metadata"]["generation"]);
    Ok(())
}

async fn many_generations(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("counted", &[pause(&context)])).await?;
    let path = format!("{}/counted", core(&namespace, "pods"));
    for seconds in 0..499 {
        context.modify(&path, |pod| pod["spec"]["activeDeadlineSeconds"] = (9999 - seconds).into()).await?;
    }
    observed(&context, &namespace, "counted", 500).await
}

async fn ephemeral(context: Context, update: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("host", &[pause(&context)])).await?;
    let at = format!("{}/host/ephemeralcontainers", core(&namespace, "pods"));
    let debugger = with(
        shell(&context, "echo marco; echo polo; sleep 1000"),
        json!({"name": "debugger", "stdin": true, "tty": true}),
    );
    let change = json!({"spec": {"ephemeralContainers": [debugger]}});
    context.patch(&at, crate::api::Patch::Strategic, &change).await?;
    let running = |name: &'static str| move |pod: &Value| container(pod, name)["state"]["running"].is_object();
    context.wait_pod(&namespace, "host", "runs the debugger", running("debugger")).await?;
    context.wait_log(&namespace, "host", "debugger", "polo").await?;
    if update {
        let second = with(debugger, json!({"name": "debugger2"}));
        let add = |pod: &mut Value| {
            if let Some(list) = pod["spec"]["ephemeralContainers"].as_array_mut() {
                list.push(second.clone());
            }
        };
        context.modify_at(&format!("{}/host", core(&namespace, "pods")), &at, add).await?;
        let read = context.get(&at).await?;
        ensure!(read["spec"]["ephemeralContainers"].as_array().map(Vec::len) == Some(2), "{read}");
        context.wait_pod(&namespace, "host", "runs the second", running("debugger2")).await?;
        context.wait_log(&namespace, "host", "debugger2", "polo").await?;
    }
    Ok(())
}

async fn resize_by_put(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let sizes = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
    let object = pod("sized", &[with(pause(&context), json!({"resources": sizes("100m", "100Mi")}))]);
    context.start_pod(&namespace, &object).await?;
    let path = format!("{}/sized", core(&namespace, "pods"));
    let wanted = sizes("200m", "200Mi");
    context
        .modify_at(&path, &format!("{path}/resize"), |pod| pod["spec"]["containers"][0]["resources"] = wanted.clone())
        .await?;
    let resized = |pod: &Value| {
        let status = container(pod, "main");
        status["resources"] == wanted
            && status["restartCount"] == 0
            && condition(pod, "PodResizePending").is_null()
            && condition(pod, "PodResizeInProgress").is_null()
    };
    let pod = context.wait_pod(&namespace, "sized", "has its new size", resized).await?;
    ensure!(name(&pod) == "sized", "{}", brief(&pod));
    Ok(())
}
