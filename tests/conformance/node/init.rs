//! Containers that run before the others.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::{Context, brief},
    pods::{condition, container, pause, pod, shell, with},
};

crate::rows! { "node";
    "InitContainer" {
        "should invoke init containers on a RestartAlways pod" => always,
        "should invoke init containers on a RestartNever pod" => never,
        "should not start app containers and fail the pod if init containers fail on a RestartNever pod" => never_failing,
        "should not start app containers if init containers fail on a RestartAlways pod" => always_failing,
    }
}

/// A pod with two init containers and the container `run1`.
fn initialized(context: &Context, policy: &str, first: &str, second: &str, main: Value) -> Value {
    let init =
        [with(shell(context, first), json!({"name": "init1"})), with(shell(context, second), json!({"name": "init2"}))];
    let main = with(main, json!({"name": "run1"}));
    with(pod("initialized", &[main]), json!({"spec": {"restartPolicy": policy, "initContainers": init}}))
}

fn expect_both_done(pod: &Value) -> Result<()> {
    ensure!(condition(pod, "Initialized")["status"] == "True", "{}", brief(pod));
    for name in ["init1", "init2"] {
        ensure!(container(pod, name)["state"]["terminated"]["exitCode"] == 0, "{name}: {}", brief(pod));
        ensure!(container(pod, name)["ready"] == true, "{name}: {}", brief(pod));
    }
    Ok(())
}

async fn never(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = initialized(&context, "Never", "true", "true", shell(&context, "true"));
    context.create_pod(&namespace, &pod).await?;
    let ended = context.wait_end(&namespace, "initialized").await?;
    ensure!(ended["status"]["phase"] == "Succeeded", "{}", brief(&ended));
    expect_both_done(&ended)
}

async fn always(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = initialized(&context, "Always", "true", "true", pause(&context));
    let ready = context.start_pod(&namespace, &pod).await?;
    expect_both_done(&ready)
}

async fn always_failing(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = initialized(&context, "Always", "false", "true", pause(&context));
    context.create_pod(&namespace, &pod).await?;
    let restarted = |pod: &Value| container(pod, "init1")["restartCount"].as_u64().is_some_and(|count| count >= 3);
    let path = format!("{}/initialized", core(&namespace, "pods"));
    let pod = context.until_within(&path, "three restarts", Duration::from_secs(300), restarted).await?;
    ensure!(pod["status"]["phase"] == "Pending", "{}", brief(&pod));
    let initialized = condition(&pod, "Initialized");
    ensure!(initialized["status"] == "False" && initialized["reason"] == "ContainersNotInitialized", "{initialized}");
    ensure!(container(&pod, "init2")["state"]["waiting"].is_object(), "{}", brief(&pod));
    ensure!(container(&pod, "run1")["state"]["waiting"].is_object(), "{}", brief(&pod));
    Ok(())
}

async fn never_failing(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = initialized(&context, "Never", "true", "false", shell(&context, "true"));
    context.create_pod(&namespace, &pod).await?;
    let ended = context.wait_end(&namespace, "initialized").await?;
    ensure!(ended["status"]["phase"] == "Failed", "{}", brief(&ended));
    ensure!(condition(&ended, "Initialized")["status"] == "False", "{}", brief(&ended));
    ensure!(container(&ended, "init1")["state"]["terminated"]["exitCode"] == 0, "{}", brief(&ended));
    ensure!(container(&ended, "init2")["state"]["terminated"]["exitCode"] == 1, "{}", brief(&ended));
    ensure!(container(&ended, "run1")["state"]["waiting"].is_object(), "{}", brief(&ended));
    Ok(())
}
