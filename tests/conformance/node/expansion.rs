//! `$(NAME)` in variables, commands and sub paths.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::{Context, consistently},
    pods::{container, pod, shell, with},
};

crate::rows! { "node";
    "Variable Expansion" {
        "should allow composing env vars into new env vars" => compose,
        "should allow substituting values in a container's args" => in_args,
        "should allow substituting values in a container's command" => in_command,
        "should allow substituting values in a volume subpath" => in_sub_path,
        "should fail substituting values in a volume subpath with absolute path" => |c| refused(c, "/tmp"),
        "should fail substituting values in a volume subpath with backticks" => |c| refused(c, ".."),
        "should succeed in writing subpaths in container" => writing,
        "should verify that a failing subpath expansion can be modified during the lifecycle of a container" => repaired,
    }
}

async fn compose(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let env = json!({"env": [{"name": "FOO", "value": "foo-value"}, {"name": "BAR", "value": "bar-value"},
        {"name": "FOOBAR", "value": "$(FOO);;$(BAR)"}]});
    let pod = pod("composed", &[with(shell(&context, "env"), env)]);
    context
        .expect_output(&namespace, &pod, &["FOO=foo-value\n", "BAR=bar-value\n", "FOOBAR=foo-value;;bar-value\n"])
        .await
}

async fn in_args(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let over = json!({"command": ["sh", "-c"], "args": ["TEST_VAR=wrong echo \"$(TEST_VAR)\""],
        "env": [{"name": "TEST_VAR", "value": "test-value"}]});
    context.expect_output(&namespace, &pod("args", &[with(shell(&context, ""), over)]), &["test-value\n"]).await
}

async fn in_command(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let over = json!({"command": ["sh", "-c", "TEST_VAR=wrong echo \"$(TEST_VAR)\""],
        "env": [{"name": "TEST_VAR", "value": "test-value"}]});
    context.expect_output(&namespace, &pod("command", &[with(shell(&context, ""), over)]), &["test-value\n"]).await
}

async fn in_sub_path(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let over = json!({
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "vol", "mountPath": "/logs", "subPathExpr": "$(POD_NAME)"},
            {"name": "vol", "mountPath": "/whole"}]});
    let pod = pod("expanded", &[with(shell(&context, "test -d /whole/expanded; echo result $?"), over)]);
    let pod = with(pod, json!({"spec": {"volumes": [{"name": "vol", "emptyDir": {}}]}}));
    context.expect_output(&namespace, &pod, &["result 0"]).await
}

async fn refused(context: Context, value: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let over = json!({"env": [{"name": "POD_NAME", "value": value}],
        "volumeMounts": [{"name": "vol", "mountPath": "/logs", "subPathExpr": "$(POD_NAME)"}]});
    let pod = with(
        pod("refused", &[with(shell(&context, "sleep 1000"), over)]),
        json!({"spec": {
        "volumes": [{"name": "vol", "emptyDir": {}}]}}),
    );
    context.create_pod(&namespace, &pod).await?;
    let waiting = |pod: &Value| container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    context.wait_pod(&namespace, "refused", "cannot start", waiting).await?;
    let path = format!("{}/refused", core(&namespace, "pods"));
    consistently("the container does not start", Duration::from_secs(4), || async {
        let pod = context.get(&path).await?;
        ensure!(pod["status"]["phase"] == "Pending", "{}", pod["status"]);
        Ok(())
    })
    .await?;
    context.delete(&path).await?;
    context.until_gone(&path).await
}

/// A pod whose sub path comes from an annotation.
fn annotated(context: &Context, name: &str, annotation: &str) -> Value {
    let over = json!({
        "env": [{"name": "POD_NAME", "value": "foo"},
            {"name": "ANNOTATION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['mysubpath']"}}}],
        "volumeMounts": [{"name": "vol", "mountPath": "/subpath_mount", "subPathExpr": "$(ANNOTATION)/$(POD_NAME)"},
            {"name": "vol", "mountPath": "/volume_mount"}]});
    let pod = with(
        pod(name, &[with(shell(context, "sleep 1000"), over)]),
        json!({"spec": {
        "volumes": [{"name": "vol", "emptyDir": {}}]}}),
    );
    with(pod, json!({"metadata": {"annotations": {annotation: "mypath"}}}))
}

async fn writing(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &annotated(&context, "writing", "mysubpath")).await?;
    context.exec(&namespace, "writing", "main", "touch /volume_mount/mypath/foo/test.log").await?;
    context.exec(&namespace, "writing", "main", "test -f /subpath_mount/test.log").await?;
    let path = format!("{}/writing", core(&namespace, "pods"));
    context.modify(&path, |pod| pod["metadata"]["annotations"]["mysubpath"] = "mynewpath".into()).await?;
    context.wait_ready(&namespace, "writing").await?;
    context.exec(&namespace, "writing", "main", "test -f /volume_mount/mypath/foo/test.log").await.map(drop)
}

async fn repaired(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create_pod(&namespace, &annotated(&context, "repaired", "notmysubpath")).await?;
    let waiting = |pod: &Value| container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    context.wait_pod(&namespace, "repaired", "cannot start", waiting).await?;
    let path = format!("{}/repaired", core(&namespace, "pods"));
    context.modify(&path, |pod| pod["metadata"]["annotations"] = json!({"mysubpath": "mypath"})).await?;
    context.wait_ready(&namespace, "repaired").await.map(drop)
}
