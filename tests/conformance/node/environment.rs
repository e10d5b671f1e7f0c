//! Environment variables from config maps, secrets and the pod itself; the
//! image's command and its overrides.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{Patch, core, merge},
    context::Context,
    operations::{Operations, three},
    pods::{pod, shell, with},
    storage::Source,
};

crate::rows! { "node";
    "ConfigMap" {
        "should be consumable as environment variable names with various prefixes" => |c| prefixes(c, Source::ConfigMap),
        "should be consumable via environment variable" => |c| one_key(c, Source::ConfigMap),
        "should be consumable via the environment" => |c| all_keys(c, Source::ConfigMap),
        "should fail to create ConfigMap with empty key" => |c| empty_key(c, Source::ConfigMap),
        "should run through a ConfigMap lifecycle" => config_map_lifecycle,
        "should update ConfigMap successfully" => config_map_update,
    }
    "Secrets" {
        "should be consumable as environment variable names variable names with various prefixes" => |c| prefixes(c, Source::Secret),
        "should be consumable from pods in env vars" => |c| one_key(c, Source::Secret),
        "should be consumable via the environment" => |c| all_keys(c, Source::Secret),
        "should fail to create secret due to empty secret key" => |c| empty_key(c, Source::Secret),
        "should patch a secret" => patch_secret,
    }
    "Downward API" {
        "should provide container's limits.cpu/memory and requests.cpu/memory as env vars" => resources,
        "should provide default limits.cpu/memory from node allocatable" => allocatable,
        "should provide host IP as an env var" => host_ip,
        "should provide hostIPs as an env var" => host_ips,
        "should provide pod UID as env vars" => pod_uid,
        "should provide pod name, namespace and IP address as env vars" => names,
    }
    "Containers" {
        "should be able to override the image's default arguments (container cmd)" => |c| command(c, None, Some(&["entrypoint-tester", "override", "arguments"]), r#"["/agnhost", "entrypoint-tester", "override", "arguments"]"#),
        "should be able to override the image's default command (container entrypoint)" => |c| command(c, Some(&["/agnhost", "entrypoint-tester"]), None, "[\"/agnhost\", \"entrypoint-tester\"]\n"),
        "should be able to override the image's default command and arguments" => |c| command(c, Some(&["/agnhost"]), Some(&["entrypoint-tester", "both"]), r#"["/agnhost", "entrypoint-tester", "both"]"#),
        "should use the image defaults if command and args are blank" => |c| command(c, None, None, "Paused"),
    }
}

/// A pod that shows its environment.
fn shows(context: &Context, over: Value) -> Value {
    // Not by a shell, which drops names it could not have set.
    pod("shows", &[with(with(shell(context, ""), json!({"command": ["env"]})), over)])
}

fn reference(source: Source) -> &'static str {
    if source.is_secret() { "secretRef" } else { "configMapRef" }
}

async fn prefixes(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    source.create(&context, &namespace, "keys", json!({"data_1": "value-1", "data_2": "value-2"})).await?;
    let prefixes = ["", "p-", "1-", "$_-", "a.b/c!", "#%&"];
    let from: Vec<Value> =
        prefixes.iter().map(|prefix| json!({"prefix": prefix, reference(source): {"name": "keys"}})).collect();
    let output = context.output(&namespace, &shows(&context, json!({"envFrom": from}))).await?;
    for prefix in prefixes {
        for (key, value) in [("data_1", "value-1"), ("data_2", "value-2")] {
            let line = format!("{prefix}{key}={value}");
            ensure!(output.lines().any(|shown| shown == line), "no {line:?} in {output}");
        }
    }
    Ok(())
}

async fn one_key(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    source.create(&context, &namespace, "keys", json!({"data-1": "value-1"})).await?;
    let key = if source.is_secret() { "secretKeyRef" } else { "configMapKeyRef" };
    let env = json!({"env": [{"name": "DATA_1", "valueFrom": {key: {"name": "keys", "key": "data-1"}}}]});
    context.expect_output(&namespace, &shows(&context, env), &["DATA_1=value-1\n"]).await
}

async fn all_keys(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    source.create(&context, &namespace, "keys", json!({"data-1": "value-1", "data_2": "value-2"})).await?;
    let env = json!({"envFrom": [{reference(source): {"name": "keys"}}, {"prefix": "p_", reference(source): {"name": "keys"}}]});
    let wanted = ["data-1=value-1\n", "data_2=value-2\n", "p_data-1=value-1\n", "p_data_2=value-2\n"];
    context.expect_output(&namespace, &shows(&context, env), &wanted).await
}

async fn empty_key(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    let object = source.object("keys", json!({"": "value-1"}));
    context.call("POST", &core(&namespace, source.plural()), Some(&object)).await?.expect(422).map(drop)
}

async fn config_map_lifecycle(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(&json!({"data": {"valueName": "value"}}));
    let (version, kind, plural) = ("v1", "ConfigMap", "configmaps");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn config_map_update(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    Source::ConfigMap.create(&context, &namespace, "keys", json!({"a": "1"})).await?;
    let path = format!("{}/keys", core(&namespace, "configmaps"));
    context.modify(&path, |object| object["data"] = json!({"b": "2"})).await?;
    let read = context.get(&path).await?;
    ensure!(read["data"] == json!({"b": "2"}), "{read}");
    Ok(())
}

async fn patch_secret(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let secret = json!({"metadata": {"name": "patched", "labels": {"e2e": "constant"}}, "type": "Opaque", "data": {"key": "dmFsdWU="}});
    context.create(&core(&namespace, "secrets"), &secret).await?;
    let selector = "/api/v1/secrets?labelSelector=e2e=constant";
    let found =
        |list: Vec<Value>| list.into_iter().find(|secret| secret["metadata"]["namespace"] == namespace.as_str());
    found(context.list(selector).await?).context("not in the list of all namespaces")?;
    let change = json!({"metadata": {"labels": {"more": "yes"}}, "data": {"key": "dmFsdWUx"}});
    let path = format!("{}/patched", core(&namespace, "secrets"));
    context.patch(&path, Patch::Strategic, &change).await?;
    let read = context.get(&path).await?;
    ensure!(read["data"]["key"] == "dmFsdWUx" && read["metadata"]["labels"]["more"] == "yes", "{read}");
    context.delete(&format!("{}?labelSelector=e2e=constant", core(&namespace, "secrets"))).await?;
    ensure!(found(context.list(selector).await?).is_none(), "still listed");
    Ok(())
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

fn resource(name: &str, resource: &str) -> Value {
    json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}})
}

/// Value of a variable in the output of `env`.
fn value<'a>(output: &'a str, name: &str) -> &'a str {
    output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

async fn names(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let env = [field("NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"), field("IP", "status.podIP")];
    let output = context.output(&namespace, &shows(&context, json!({"env": env}))).await?;
    ensure!(value(&output, "NAME") == "shows" && value(&output, "NAMESPACE") == namespace, "{output}");
    ensure!(value(&output, "IP").parse::<IpAddr>().is_ok(), "{output}");
    Ok(())
}

async fn host_ip(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let env = [field("HOST_IP", "status.hostIP")];
    let output = context.output(&namespace, &shows(&context, json!({"env": env}))).await?;
    ensure!(value(&output, "HOST_IP").parse::<IpAddr>().is_ok(), "{output}");
    Ok(())
}

async fn host_ips(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let env = [field("HOST_IP", "status.hostIP"), field("HOST_IPS", "status.hostIPs")];
    let output = context.output(&namespace, &shows(&context, json!({"env": env}))).await?;
    let first = value(&output, "HOST_IPS").split(',').next().unwrap_or_default();
    ensure!(first.parse::<IpAddr>().is_ok() && first == value(&output, "HOST_IP"), "{output}");
    Ok(())
}

async fn pod_uid(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let output =
        context.output(&namespace, &shows(&context, json!({"env": [field("POD_UID", "metadata.uid")]}))).await?;
    let read = context.get(&format!("{}/shows", core(&namespace, "pods"))).await?;
    ensure!(read["metadata"]["uid"] == value(&output, "POD_UID"), "{output}");
    Ok(())
}

async fn resources(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let env = [
        resource("CPU_LIMIT", "limits.cpu"),
        resource("MEMORY_LIMIT", "limits.memory"),
        resource("CPU_REQUEST", "requests.cpu"),
        resource("MEMORY_REQUEST", "requests.memory"),
    ];
    let sizes = json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let pod = shows(&context, json!({"env": env, "resources": sizes}));
    let wanted = ["CPU_LIMIT=2\n", "MEMORY_LIMIT=67108864\n", "CPU_REQUEST=1\n", "MEMORY_REQUEST=33554432\n"];
    context.expect_output(&namespace, &pod, &wanted).await
}

async fn allocatable(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let env = [resource("CPU_LIMIT", "limits.cpu"), resource("MEMORY_LIMIT", "limits.memory")];
    let output = context.output(&namespace, &shows(&context, json!({"env": env}))).await?;
    for name in ["CPU_LIMIT", "MEMORY_LIMIT"] {
        ensure!(value(&output, name).parse::<u64>().is_ok_and(|value| value > 0), "{name} in {output}");
    }
    Ok(())
}

async fn command(context: Context, command: Option<&[&str]>, args: Option<&[&str]>, wanted: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let mut container = json!({"name": "main", "image": context.agnhost, "imagePullPolicy": "IfNotPresent"});
    if let Some(command) = command {
        merge(&mut container, &json!({"command": command}));
    }
    if let Some(args) = args {
        merge(&mut container, &json!({"args": args}));
    }
    context.create_pod(&namespace, &pod("commanded", &[container])).await?;
    context.wait_log(&namespace, "commanded", "main", wanted).await
}
