//! Keys of config maps and secrets as files.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::source::{
    Shape,
    Source::{self, ConfigMap, ProjectedConfigMap, ProjectedSecret, Secret},
    reader,
};
use crate::{
    api::{Patch, core},
    context::Context,
    pods::with,
};

crate::rows! { "storage";
    "ConfigMap" {
        "binary data should be reflected in volume" => binary_data,
        "optional updates should be reflected in volume" => |c| optional_updates(c, ConfigMap),
        "should be consumable from pods in volume" => |c| plain(c, ConfigMap),
        "should be consumable from pods in volume as non-root" => |c| non_root(c, ConfigMap),
        "should be consumable from pods in volume with defaultMode set" => |c| default_mode(c, ConfigMap),
        "should be consumable from pods in volume with mappings" => |c| mappings(c, ConfigMap, false),
        "should be consumable from pods in volume with mappings and Item mode set" => |c| item_mode(c, ConfigMap),
        "should be consumable from pods in volume with mappings as non-root" => |c| mappings(c, ConfigMap, true),
        "should be consumable in multiple volumes in the same pod" => |c| two_volumes(c, ConfigMap),
        "should be immutable if `immutable` field is set" => |c| immutable(c, ConfigMap),
        "updates should be reflected in volume" => |c| updates(c, ConfigMap),
    }
    "Projected configMap" {
        "optional updates should be reflected in volume" => |c| optional_updates(c, ProjectedConfigMap),
        "should be consumable from pods in volume" => |c| plain(c, ProjectedConfigMap),
        "should be consumable from pods in volume as non-root" => |c| non_root(c, ProjectedConfigMap),
        "should be consumable from pods in volume with defaultMode set" => |c| default_mode(c, ProjectedConfigMap),
        "should be consumable from pods in volume with mappings" => |c| mappings(c, ProjectedConfigMap, false),
        "should be consumable from pods in volume with mappings and Item mode set" => |c| item_mode(c, ProjectedConfigMap),
        "should be consumable from pods in volume with mappings as non-root" => |c| mappings(c, ProjectedConfigMap, true),
        "should be consumable in multiple volumes in the same pod" => |c| two_volumes(c, ProjectedConfigMap),
        "updates should be reflected in volume" => |c| updates(c, ProjectedConfigMap),
    }
    "Projected secret" {
        "optional updates should be reflected in volume" => |c| optional_updates(c, ProjectedSecret),
        "should be consumable from pods in volume" => |c| plain(c, ProjectedSecret),
        "should be consumable from pods in volume as non-root with defaultMode and fsGroup set" => |c| group_mode(c, ProjectedSecret),
        "should be consumable from pods in volume with defaultMode set" => |c| default_mode(c, ProjectedSecret),
        "should be consumable from pods in volume with mappings" => |c| mappings(c, ProjectedSecret, false),
        "should be consumable from pods in volume with mappings and Item Mode set" => |c| item_mode(c, ProjectedSecret),
        "should be consumable in multiple volumes in a pod" => |c| two_volumes(c, ProjectedSecret),
    }
    "Secrets" {
        "optional updates should be reflected in volume" => |c| optional_updates(c, Secret),
        "should be able to mount in a volume regardless of a different secret existing with same name in different namespace" => same_name_elsewhere,
        "should be consumable from pods in volume" => |c| plain(c, Secret),
        "should be consumable from pods in volume as non-root with defaultMode and fsGroup set" => |c| group_mode(c, Secret),
        "should be consumable from pods in volume with defaultMode set" => |c| default_mode(c, Secret),
        "should be consumable from pods in volume with mappings" => |c| mappings(c, Secret, false),
        "should be consumable from pods in volume with mappings and Item Mode set" => |c| item_mode(c, Secret),
        "should be consumable in multiple volumes in a pod" => |c| two_volumes(c, Secret),
        "should be immutable if `immutable` field is set" => |c| immutable(c, Secret),
    }
    "Projected combined" {
        "should project all components that make up the projection API" => combined,
    }
}

/// How long a changed object may take to reach files.
const UPDATE_LIMIT: Duration = Duration::from_secs(240);
const SHOW: &str = "cat /etc/vol/data-1; echo; stat -L -c %A /etc/vol/data-1";
const SHOW_MAPPED: &str = "cat /etc/vol/path/to/data-2; echo; stat -L -c %A /etc/vol/path/to/data-2";

fn data() -> Value {
    json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"})
}

/// Creates the object, runs a reader and compares what it printed.
async fn read(
    context: &Context,
    source: Source,
    shape: Shape,
    over: Value,
    script: &str,
    wanted: &[&str],
) -> Result<()> {
    let namespace = context.namespace().await?;
    source.create(context, &namespace, "keys", data()).await?;
    let volume = source.volume("vol", "keys", &shape);
    let pod = with(reader(context, "reader", &[volume], script), json!({"spec": over}));
    context.expect_output(&namespace, &pod, wanted).await
}

async fn plain(context: Context, source: Source) -> Result<()> {
    read(&context, source, Shape::default(), json!({}), SHOW, &["value-1", "-rw-r--r--"]).await
}

async fn non_root(context: Context, source: Source) -> Result<()> {
    let user = json!({"securityContext": {"runAsUser": 1000}});
    read(&context, source, Shape::default(), user, SHOW, &["value-1", "-rw-r--r--"]).await
}

async fn default_mode(context: Context, source: Source) -> Result<()> {
    let shape = Shape { default_mode: Some(0o400), ..Shape::default() };
    read(&context, source, shape, json!({}), SHOW, &["value-1", "-r--------"]).await
}

async fn group_mode(context: Context, source: Source) -> Result<()> {
    let shape = Shape { default_mode: Some(0o440), ..Shape::default() };
    let user = json!({"securityContext": {"runAsUser": 1000, "fsGroup": 1001}});
    read(&context, source, shape, user, SHOW, &["value-1", "-r--r-----"]).await
}

async fn mappings(context: Context, source: Source, non_root: bool) -> Result<()> {
    let shape = Shape { items: Some(json!([{"key": "data-2", "path": "path/to/data-2"}])), ..Shape::default() };
    let user = if non_root { json!({"securityContext": {"runAsUser": 1000}}) } else { json!({}) };
    read(&context, source, shape, user, SHOW_MAPPED, &["value-2", "-rw-r--r--"]).await
}

async fn item_mode(context: Context, source: Source) -> Result<()> {
    let items = json!([{"key": "data-2", "path": "path/to/data-2", "mode": 0o400}]);
    let shape = Shape { items: Some(items), ..Shape::default() };
    read(&context, source, shape, json!({}), SHOW_MAPPED, &["value-2", "-r--------"]).await
}

async fn two_volumes(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    source.create(&context, &namespace, "keys", data()).await?;
    let volumes = ["one", "two"].map(|volume| source.volume(volume, "keys", &Shape::default()));
    let pod = reader(&context, "reader", &volumes, "echo $(cat /etc/one/data-1) $(cat /etc/two/data-1)");
    context.expect_output(&namespace, &pod, &["value-1 value-1"]).await
}

async fn updates(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    source.create(&context, &namespace, "keys", data()).await?;
    let volume = source.volume("vol", "keys", &Shape::default());
    let pod = reader(&context, "reader", &[volume], "while :; do cat /etc/vol/data-1; echo; sleep 1; done");
    context.start_pod(&namespace, &pod).await?;
    context.wait_log(&namespace, "reader", "main", "value-1").await?;
    let path = format!("{}/keys", core(&namespace, source.plural()));
    context.merge(&path, json!({"data": {"data-1": "value-9"}})).await?;
    wait_file(&context, &namespace, "/etc/vol/data-1", "value-9").await
}

/// Waits for the content of a file; an empty text means that it does not exist.
async fn wait_file(context: &Context, namespace: &str, path: &str, wanted: &str) -> Result<()> {
    let script = format!("cat {path} 2>/dev/null || echo missing");
    crate::context::eventually(&format!("{path} is {wanted:?}"), UPDATE_LIMIT, || async {
        let text = context.exec(namespace, "reader", "main", &script).await?;
        let expected = if wanted.is_empty() { "missing" } else { wanted };
        ensure!(text.trim() == expected, "it is {text:?}");
        Ok(())
    })
    .await
}

async fn optional_updates(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    let shape = Shape { optional: true, ..Shape::default() };
    source.create(&context, &namespace, "deleted", json!({"data-1": "value-1"})).await?;
    source.create(&context, &namespace, "updated", json!({"data-1": "value-1"})).await?;
    let volumes = ["deleted", "updated", "created"].map(|name| source.volume(name, name, &shape));
    context.start_pod(&namespace, &reader(&context, "reader", &volumes, "sleep 1000")).await?;
    wait_file(&context, &namespace, "/etc/deleted/data-1", "value-1").await?;
    wait_file(&context, &namespace, "/etc/created/data-1", "").await?;
    let path = core(&namespace, source.plural());
    context.delete(&format!("{path}/deleted")).await?;
    let changed = source.object("updated", json!({"data-3": "value-3"}));
    context.replace(&format!("{path}/updated"), &changed).await?;
    source.create(&context, &namespace, "created", json!({"data-1": "value-1"})).await?;
    wait_file(&context, &namespace, "/etc/created/data-1", "value-1").await?;
    wait_file(&context, &namespace, "/etc/updated/data-3", "value-3").await?;
    wait_file(&context, &namespace, "/etc/deleted/data-1", "").await
}

async fn binary_data(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let object =
        json!({"metadata": {"name": "keys"}, "data": {"data-1": "value-1"}, "binaryData": {"dump.bin": "3q2+7w=="}});
    context.create(&core(&namespace, "configmaps"), &object).await?;
    let volume = ConfigMap.volume("vol", "keys", &Shape::default());
    let pod = reader(&context, "reader", &[volume], "cat /etc/vol/data-1; echo; hexdump -C /etc/vol/dump.bin");
    context.expect_output(&namespace, &pod, &["value-1", "de ad be ef"]).await
}

async fn same_name_elsewhere(context: Context) -> Result<()> {
    let other = context.namespace().await?;
    Secret.create(&context, &other, "keys", json!({"data-1": "of-another"})).await?;
    read(&context, Secret, Shape::default(), json!({}), SHOW, &["value-1"]).await
}

async fn immutable(context: Context, source: Source) -> Result<()> {
    let namespace = context.namespace().await?;
    let collection = core(&namespace, source.plural());
    let path = format!("{collection}/keys");
    let value = |text: &str| if source.is_secret() { base64(text) } else { text.to_owned() };
    source.create(&context, &namespace, "keys", data()).await?;
    context.merge(&path, json!({"data": {"data-4": value("value-4")}})).await?;
    context.merge(&path, json!({"immutable": true})).await?;
    for change in [json!({"data": {"data-5": value("value-5")}}), json!({"immutable": false})] {
        let headers = [("content-type", Patch::Merge.media_type())];
        let answer = context.send("PATCH", &path, &headers, serde_json::to_vec(&change)?).await?;
        answer.expect(422).with_context(|| format!("{change} of an immutable object"))?;
    }
    context.merge(&path, json!({"metadata": {"labels": {"still": "mutable"}}})).await?;
    context.delete(&path).await?;
    source.create(&context, &namespace, "keys", data()).await.map(drop)
}

/// Base64 of the few texts used here.
fn base64(text: &str) -> String {
    const TABLE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let word = (0..3).fold(0u32, |word, at| word << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let index = (word >> (18 - 6 * at)) & 63;
            out.push(if at <= chunk.len() { char::from(TABLE[index as usize]) } else { '=' });
        }
    }
    out
}

async fn combined(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    ConfigMap.create(&context, &namespace, "config", json!({"configmap-data": "of config map"})).await?;
    Secret.create(&context, &namespace, "secret", json!({"secret-data": "of secret"})).await?;
    let volume = json!({"name": "vol", "projected": {"sources": [
        {"downwardAPI": {"items": [{"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"secret": {"name": "secret", "items": [{"key": "secret-data", "path": "secret-data"}]}},
        {"configMap": {"name": "config", "items": [{"key": "configmap-data", "path": "configmap-data"}]}},
    ]}});
    let script = "cat /etc/vol/podname; echo; cat /etc/vol/secret-data; echo; cat /etc/vol/configmap-data";
    let pod = reader(&context, "reader", &[volume], script);
    context.expect_output(&namespace, &pod, &["reader\nof secret\nof config map"]).await
}
