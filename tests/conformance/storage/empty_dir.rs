//! Folders that live as long as their pod.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::{Context, eventually},
    pods::{POD_LIMIT, is_ready, pause, pod, shell, with},
};

crate::rows! { "storage";
    "EmptyDir volumes" {
        "pod should support shared volumes between containers" => shared,
        "should support (non-root,0644,default)" => |c| file(c, true, "0644", "-rw-r--r--", false),
        "should support (non-root,0644,tmpfs)" => |c| file(c, true, "0644", "-rw-r--r--", true),
        "should support (non-root,0666,default)" => |c| file(c, true, "0666", "-rw-rw-rw-", false),
        "should support (non-root,0666,tmpfs)" => |c| file(c, true, "0666", "-rw-rw-rw-", true),
        "should support (non-root,0777,default)" => |c| file(c, true, "0777", "-rwxrwxrwx", false),
        "should support (non-root,0777,tmpfs)" => |c| file(c, true, "0777", "-rwxrwxrwx", true),
        "should support (root,0644,default)" => |c| file(c, false, "0644", "-rw-r--r--", false),
        "should support (root,0644,tmpfs)" => |c| file(c, false, "0644", "-rw-r--r--", true),
        "should support (root,0666,default)" => |c| file(c, false, "0666", "-rw-rw-rw-", false),
        "should support (root,0666,tmpfs)" => |c| file(c, false, "0666", "-rw-rw-rw-", true),
        "should support (root,0777,default)" => |c| file(c, false, "0777", "-rwxrwxrwx", false),
        "should support (root,0777,tmpfs)" => |c| file(c, false, "0777", "-rwxrwxrwx", true),
        "volume on default medium should have the correct mode" => |c| folder(c, false),
        "volume on tmpfs should have the correct mode" => |c| folder(c, true),
    }
    "EmptyDir wrapper volumes" {
        "should not cause race condition when used for configmaps" => many_config_maps,
        "should not conflict" => side_by_side,
    }
}

/// A pod with an empty folder at `/vol`.
fn with_folder(context: &Context, tmpfs: bool, script: &str) -> Value {
    let medium = if tmpfs { json!({"medium": "Memory"}) } else { json!({}) };
    let mount = json!({"volumeMounts": [{"name": "vol", "mountPath": "/vol"}]});
    with(
        pod("folder", &[with(shell(context, script), mount)]),
        json!({"spec": {
        "volumes": [{"name": "vol", "emptyDir": medium}]}}),
    )
}

fn expect_file_system(output: &str, tmpfs: bool) -> Result<()> {
    ensure!(!tmpfs || output.contains(" /vol tmpfs "), "not a tmpfs: {output}");
    Ok(())
}

async fn file(context: Context, non_root: bool, mode: &str, shown: &str, tmpfs: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let script = format!(
        "set -e; umask 0; echo new-content >/vol/file; chmod {mode} /vol/file; cat /vol/file; stat -c %A /vol/file; grep ' /vol ' /proc/mounts"
    );
    let mut pod = with_folder(&context, tmpfs, &script);
    if non_root {
        pod["spec"]["securityContext"] = json!({"runAsUser": 1001});
    }
    let output = context.output(&namespace, &pod).await?;
    ensure!(output.contains("new-content") && output.contains(shown), "{output}");
    expect_file_system(&output, tmpfs)
}

async fn folder(context: Context, tmpfs: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let pod = with_folder(&context, tmpfs, "stat -c %A /vol; grep ' /vol ' /proc/mounts");
    let output = context.output(&namespace, &pod).await?;
    ensure!(output.contains("drwxrwxrwx"), "{output}");
    expect_file_system(&output, tmpfs)
}

async fn shared(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let mount = json!({"volumeMounts": [{"name": "vol", "mountPath": "/vol"}]});
    let writer = with(shell(&context, "echo from-the-writer >/vol/data; sleep 1000"), mount.clone());
    let other = with(with(shell(&context, "sleep 1000"), mount), json!({"name": "other"}));
    let pod = with(pod("shared", &[writer, other]), json!({"spec": {"volumes": [{"name": "vol", "emptyDir": {}}]}}));
    context.start_pod(&namespace, &pod).await?;
    eventually("the other container reads the file", POD_LIMIT, || async {
        let text = context.exec(&namespace, "shared", "other", "cat /vol/data").await?;
        ensure!(text.trim() == "from-the-writer", "{text:?}");
        Ok(())
    })
    .await
}

async fn side_by_side(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create(&core(&namespace, "secrets"), &json!({"metadata": {"name": "s"}, "stringData": {"a": "1"}})).await?;
    context.create(&core(&namespace, "configmaps"), &json!({"metadata": {"name": "c"}, "data": {"a": "1"}})).await?;
    let mounts = json!({"volumeMounts": [
        {"name": "s", "mountPath": "/etc/s", "readOnly": true}, {"name": "c", "mountPath": "/etc/c"}]});
    let volumes = json!({"spec": {"volumes": [
        {"name": "s", "secret": {"secretName": "s"}}, {"name": "c", "configMap": {"name": "c"}}]}});
    let pod = with(pod("both", &[with(pause(&context), mounts)]), volumes);
    context.start_pod(&namespace, &pod).await?;
    context.delete_now(&format!("{}/both", core(&namespace, "pods"))).await
}

async fn many_config_maps(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let names: Vec<String> = (0..50).map(|number| format!("racey-{number}")).collect();
    for name in &names {
        let object = json!({"metadata": {"name": name}, "data": {"data-1": "value-1"}});
        context.create(&core(&namespace, "configmaps"), &object).await?;
    }
    let volumes: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "configMap": {"name": name, "items": [{"key": "data-1", "path": "data-1"}]}}))
        .collect();
    let mounts: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "mountPath": format!("/etc/config-{name}")})).collect();
    for round in 0..3 {
        let name = format!("wrapped-{round}");
        let template = json!({"metadata": {"labels": {"name": name}}, "spec": {
            "terminationGracePeriodSeconds": 1, "volumes": volumes,
            "containers": [with(pause(&context), json!({"volumeMounts": mounts}))]}});
        let controller = json!({"metadata": {"name": name}, "spec": {
            "replicas": 5, "selector": {"name": name}, "template": template}});
        let path = core(&namespace, "replicationcontrollers");
        context.create(&path, &controller).await?;
        eventually("five pods are ready", POD_LIMIT, || async {
            let pods = context.list(&format!("{}?labelSelector=name={name}", core(&namespace, "pods"))).await?;
            ensure!(pods.iter().filter(|pod| is_ready(pod)).count() == 5, "{} pods", pods.len());
            Ok(())
        })
        .await?;
        context.delete_with(&format!("{path}/{name}"), json!({"propagationPolicy": "Background"})).await?;
    }
    Ok(())
}
