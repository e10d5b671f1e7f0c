//! Versions that a webhook converts, and selection by fields of a version.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Installed, definition, install, version};
use crate::{
    api::{Watch, items, name},
    api_machinery::webhook_server,
    context::{Context, LIMIT, eventually},
};

crate::rows! { "api-machinery";
    "CustomResourceConversionWebhook" {
        "should be able to convert from CR v1 to CR v2" => one,
        "should be able to convert a non homogeneous list of CRs" => list,
    }
    "CustomResourceFieldSelectors CustomResourceFieldSelectors" {
        "MUST list and watch custom resources matching the field selector" => selectors,
    }
}

/// A definition with v1 (stored) and v2, converted by the webhook of a namespace.
fn converted(namespace: &str, bundle: &str) -> Value {
    let text = json!({"type": "string"});
    let mut v1 = version("v1", true, json!({"type": "object", "properties": {"hostPort": text}}));
    let mut v2 = version("v2", false, json!({"type": "object", "properties": {"host": text, "port": text}}));
    v1["selectableFields"] = json!([{"jsonPath": ".hostPort"}]);
    v2["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    let mut made = definition(None, "Namespaced", &[v1, v2]);
    made["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "clientConfig": webhook_server::client_config(namespace, "/crdconvert", bundle),
        "conversionReviewVersions": ["v1", "v1beta1"]}});
    made
}

async fn setup(context: &Context) -> Result<(String, Installed)> {
    let namespace = context.namespace().await?;
    let bundle = webhook_server::deploy(context, &namespace).await?;
    let installed = install(context, &converted(&namespace, &bundle)).await?;
    // The first conversion that works shows that the webhook can be reached.
    let (v1, v2) = (installed.objects("v1", Some(&namespace)), installed.objects("v2", Some(&namespace)));
    let mut marker = installed.object("v1", "conversion-ready");
    marker["hostPort"] = json!("ready:1");
    context.create(&v1, &marker).await?;
    context.until(&format!("{v2}/conversion-ready"), "is converted", |object| object["host"] == "ready").await?;
    context.delete(&format!("{v1}/conversion-ready")).await?;
    Ok((namespace, installed))
}

fn is_v2(object: &Value) -> Result<()> {
    ensure!(object["apiVersion"].as_str().is_some_and(|version| version.ends_with("/v2")), "{object}");
    ensure!(object.get("hostPort").is_none(), "{object}");
    ensure!(object["host"] == "localhost" && object["port"] == "8080", "{object}");
    Ok(())
}

async fn one(context: Context) -> Result<()> {
    let (namespace, installed) = setup(&context).await?;
    let mut object = installed.object("v1", "cr-instance-1");
    object["hostPort"] = json!("localhost:8080");
    context.create(&installed.objects("v1", Some(&namespace)), &object).await?;
    is_v2(&context.get(&format!("{}/cr-instance-1", installed.objects("v2", Some(&namespace)))).await?)
}

async fn list(context: Context) -> Result<()> {
    let (namespace, installed) = setup(&context).await?;
    let (v1, v2) = (installed.objects("v1", Some(&namespace)), installed.objects("v2", Some(&namespace)));
    let mut first = installed.object("v1", "cr-instance-1");
    first["hostPort"] = json!("localhost:8080");
    context.create(&v1, &first).await?;
    context
        .modify(&installed.path, |definition| {
            definition["spec"]["versions"][0]["storage"] = json!(false);
            definition["spec"]["versions"][1]["storage"] = json!(true);
        })
        .await?;
    let mut second = installed.object("v1", "cr-instance-2");
    second["hostPort"] = json!("localhost:8080");
    context.create(&v1, &second).await?;
    let listed = context.list(&v1).await?;
    ensure!(listed.len() == 2, "{}", listed.len());
    for object in &listed {
        ensure!(object["hostPort"] == "localhost:8080" && object.get("host").is_none(), "{object}");
    }
    let listed = context.list(&v2).await?;
    ensure!(listed.len() == 2, "{}", listed.len());
    listed.iter().try_for_each(is_v2)
}

async fn names(context: &Context, path: &str) -> Result<BTreeSet<String>> {
    let list = context.get(path).await?;
    Ok(items(&list).iter().map(|object| name(object).to_owned()).collect())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Reads events until as many of this type have come; their names.
async fn seen(watch: &mut Watch, event_type: &str, wanted: &[&str]) -> Result<()> {
    let mut got = BTreeSet::new();
    while got.len() < wanted.len() {
        let event =
            watch.until(&format!("{event_type} of {wanted:?}"), LIMIT, |event| event["type"] == event_type).await?;
        got.insert(name(&event["object"]).to_owned());
    }
    ensure!(got == set(wanted), "{got:?} instead of {wanted:?}");
    Ok(())
}

async fn selectors(context: Context) -> Result<()> {
    let (namespace, installed) = setup(&context).await?;
    let (v1, v2) = (installed.objects("v1", Some(&namespace)), installed.objects("v2", Some(&namespace)));
    let host = format!("{v2}?fieldSelector=host%3Dhost1");
    let host_port = format!("{v2}?fieldSelector=host%3Dhost1,port%3D80");
    let both = |value: &str| format!("{v1}?fieldSelector=hostPort%3D{value}");
    let mut by_host = context.watch(&host).await?;
    let mut by_host_port = context.watch(&host_port).await?;
    let mut by_both = context.watch(&both("host1:80")).await?;
    for (name, host, port) in [("cr-a", "host1", "80"), ("cr-b", "host1", "8080"), ("cr-c", "host2", "")] {
        let mut object = installed.object("v2", name);
        object["host"] = json!(host);
        if !port.is_empty() {
            object["port"] = json!(port);
        }
        context.create(&v2, &object).await?;
    }
    ensure!(names(&context, &host).await? == set(&["cr-a", "cr-b"]), "by host");
    ensure!(names(&context, &host_port).await? == set(&["cr-a"]), "by host and port");
    ensure!(names(&context, &both("host1:80")).await? == set(&["cr-a"]), "by hostPort");
    ensure!(names(&context, &both("host1:8080")).await? == set(&["cr-b"]), "by another hostPort");
    seen(&mut by_host, "ADDED", &["cr-a", "cr-b"]).await?;
    seen(&mut by_host_port, "ADDED", &["cr-a"]).await?;
    seen(&mut by_both, "ADDED", &["cr-a"]).await?;
    context.delete_with(&host_port, json!({"gracePeriodSeconds": 0})).await?;
    context.modify(&format!("{v2}/cr-b"), |object| object["host"] = json!("host2")).await?;
    eventually("nothing is left of host1", LIMIT, || async {
        ensure!(names(&context, &host).await?.is_empty() && names(&context, &host_port).await?.is_empty(), "some left");
        Ok(())
    })
    .await?;
    seen(&mut by_host, "DELETED", &["cr-a", "cr-b"]).await?;
    seen(&mut by_host_port, "DELETED", &["cr-a"]).await?;
    seen(&mut by_both, "DELETED", &["cr-a"]).await?;
    by_both.expect_silence(Duration::from_millis(500)).await
}
