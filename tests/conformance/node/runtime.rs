//! How containers end, and runtime classes.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::{Context, brief},
    operations::{Operations, three, unique},
    pods::{condition, container, pause, pod, shell, with},
};

crate::rows! { "node";
    "Container Runtime blackbox test on terminated container" {
        "should report termination message as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set" => |c| message(c, "echo DONE", json!({"terminationMessagePolicy": "FallbackToLogsOnError"}), true, ""),
        "should report termination message from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set" => |c| message(c, "echo -n OK > /dev/termination-log", json!({"terminationMessagePolicy": "FallbackToLogsOnError"}), true, "OK"),
        "should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set" => |c| message(c, "echo -n DONE; false", json!({"terminationMessagePolicy": "FallbackToLogsOnError"}), false, "DONE"),
        "should report termination message if TerminationMessagePath is set as non-root user and at a non-default path" => |c| message(c, "echo -n DONE > /dev/termination-custom-log", json!({"terminationMessagePath": "/dev/termination-custom-log", "securityContext": {"runAsUser": 1000}}), true, "DONE"),
    }
    "Container Runtime blackbox test when starting a container that exits" {
        "should run with the expected status" => expected_status,
    }
    "RuntimeClass" {
        "should reject a Pod requesting a deleted RuntimeClass" => |c| refused(c, true),
        "should reject a Pod requesting a non-existent RuntimeClass" => |c| refused(c, false),
        "should schedule a Pod requesting a RuntimeClass and initialize its Overhead" => |c| scheduled(c, true),
        "should schedule a Pod requesting a RuntimeClass without PodOverhead" => |c| scheduled(c, false),
        "should support RuntimeClasses API operations" => operations,
    }
}

async fn message(context: Context, script: &str, over: Value, succeeds: bool, wanted: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create_pod(&namespace, &pod("ends", &[with(shell(&context, script), over)])).await?;
    let ended = context.wait_end(&namespace, "ends").await?;
    ensure!((ended["status"]["phase"] == "Succeeded") == succeeds, "{}", brief(&ended));
    let message = container(&ended, "main")["state"]["terminated"]["message"].as_str().unwrap_or_default();
    ensure!(message == wanted, "the message is {message:?}");
    Ok(())
}

/// Fails the first time, succeeds the second, and runs on from the third.
const THREE_LIVES: &str = "echo x >>/count/lives
case $(wc -l </count/lives) in 1) exit 1;; 2) exit 0;; *) while :; do sleep 1; done;; esac";

async fn expected_status(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let cases = [("Always", "Running", 2, true), ("OnFailure", "Succeeded", 1, false), ("Never", "Failed", 0, false)];
    for (policy, phase, count, ready) in cases {
        let name = format!("lives-{}", policy.to_lowercase());
        let mount = json!({"volumeMounts": [{"name": "count", "mountPath": "/count"}]});
        let pod = with(
            pod(&name, &[with(shell(&context, THREE_LIVES), mount)]),
            json!({"spec": {
            "restartPolicy": policy, "volumes": [{"name": "count", "emptyDir": {}}]}}),
        );
        context.create_pod(&namespace, &pod).await?;
        let path = format!("{}/{name}", core(&namespace, "pods"));
        let what = format!("{phase} after {count} restarts");
        let as_wanted = |pod: &Value| {
            let state = container(pod, "main");
            pod["status"]["phase"] == phase && state["restartCount"] == count && state["ready"] == ready
        };
        context.until_within(&path, &what, Duration::from_secs(180), as_wanted).await?;
        context.delete(&path).await?;
        context.until_gone(&path).await?;
    }
    Ok(())
}

const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

async fn refused(context: Context, deleted: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let class = format!("e2e-{}", unique());
    if deleted {
        context.create(CLASSES, &json!({"metadata": {"name": class}, "handler": "e2e-handler"})).await?;
        context.delete(&format!("{CLASSES}/{class}")).await?;
        context.until_gone(&format!("{CLASSES}/{class}")).await?;
    }
    let pod = with(pod("classed", &[pause(&context)]), json!({"spec": {"runtimeClassName": class}}));
    let answer = context.call("POST", &core(&namespace, "pods"), Some(&pod)).await?.expect(403)?;
    ensure!(answer.message().contains(&class), "{}", answer.message());
    Ok(())
}

async fn scheduled(context: Context, overhead: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let class = format!("e2e-{}", unique());
    let fixed = json!({"podFixed": {"cpu": "10m", "memory": "1Mi"}});
    let mut body = json!({"metadata": {"name": class}, "handler": "runc"});
    if overhead {
        body["overhead"] = fixed.clone();
    }
    context.leftover(&format!("{CLASSES}/{class}"));
    context.create(CLASSES, &body).await?;
    let pod = with(pod("classed", &[pause(&context)]), json!({"spec": {"runtimeClassName": class}}));
    context.create_pod(&namespace, &pod).await?;
    let is_scheduled = |pod: &Value| condition(pod, "PodScheduled")["status"] == "True";
    let pod = context.wait_pod(&namespace, "classed", "is scheduled", is_scheduled).await?;
    let wanted = if overhead { &fixed["podFixed"] } else { &Value::Null };
    ensure!(pod["spec"]["overhead"] == *wanted, "the overhead is {}", pod["spec"]["overhead"]);
    Ok(())
}

async fn operations(context: Context) -> Result<()> {
    let objects = three(&json!({"handler": "e2e-handler"}));
    let (version, kind, plural) = ("node.k8s.io/v1", "RuntimeClass", "runtimeclasses");
    Operations { version, kind, plural, namespace: None, objects, status: None }.run(&context).await
}
