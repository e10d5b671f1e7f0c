//! Watches tell every change once and in order.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::{
    api::{core, name, version},
    context::Context,
    operations::unique,
};

const SILENCE: Duration = Duration::from_secs(3);

crate::rows! { "api-machinery";
    "Watchers" {
        "should be able to restart watching from the last resource version observed by the previous watch" => restart,
        "should be able to start watching from a specific resource version" => from_version,
        "should observe add, update, and delete watch notifications on configmaps" => notifications,
        "should observe an object deletion if it stops meeting the requirements of the selector" => leaves_selector,
        "should receive events on concurrent watches in same order" => same_order,
    }
}

fn labelled(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"watch": label}}})
}

/// Path of the collection selected by label.
fn selected(namespace: &str, label: &str) -> String {
    format!("{}?labelSelector=watch%20in%20({label})", core(namespace, "configmaps"))
}

async fn mutate(context: &Context, namespace: &str, name: &str, value: &str) -> Result<Value> {
    let path = format!("{}/{name}", core(namespace, "configmaps"));
    context.modify(&path, |object| object["data"] = json!({"mutation": value})).await
}

async fn notifications(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let mut a = context.watch(&selected(&namespace, "a")).await?;
    let mut b = context.watch(&selected(&namespace, "b")).await?;
    let mut both = context.watch(&selected(&namespace, "a,b")).await?;
    let collection = core(&namespace, "configmaps");
    context.create(&collection, &labelled("of-a", "a")).await?;
    mutate(&context, &namespace, "of-a", "1").await?;
    mutate(&context, &namespace, "of-a", "2").await?;
    context.delete(&format!("{collection}/of-a")).await?;
    for watch in [&mut a, &mut both] {
        watch.expect("ADDED").await?;
        for value in ["1", "2"] {
            let object = watch.expect("MODIFIED").await?;
            ensure!(object["data"]["mutation"] == value, "{object}");
        }
        watch.expect("DELETED").await?;
    }
    b.expect_silence(SILENCE).await?;
    context.create(&collection, &labelled("of-b", "b")).await?;
    context.delete(&format!("{collection}/of-b")).await?;
    for watch in [&mut b, &mut both] {
        watch.expect("ADDED").await?;
        watch.expect("DELETED").await?;
    }
    a.expect_silence(SILENCE).await
}

async fn from_version(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let collection = core(&namespace, "configmaps");
    context.create(&collection, &labelled("watched", "v")).await?;
    let first = mutate(&context, &namespace, "watched", "1").await?;
    mutate(&context, &namespace, "watched", "2").await?;
    context.delete(&format!("{collection}/watched")).await?;
    let path = format!("{}&resourceVersion={}", selected(&namespace, "v"), version(&first));
    let mut watch = context.watch(&path).await?;
    let object = watch.expect("MODIFIED").await?;
    ensure!(object["data"]["mutation"] == "2", "{object}");
    let object = watch.expect("DELETED").await?;
    ensure!(object["data"]["mutation"] == "2", "{object}");
    Ok(())
}

async fn restart(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let collection = core(&namespace, "configmaps");
    let mut watch = context.watch(&selected(&namespace, "r")).await?;
    context.create(&collection, &labelled("watched", "r")).await?;
    mutate(&context, &namespace, "watched", "1").await?;
    watch.expect("ADDED").await?;
    let last = watch.expect("MODIFIED").await?;
    drop(watch);
    mutate(&context, &namespace, "watched", "2").await?;
    context.delete(&format!("{collection}/watched")).await?;
    let path = format!("{}&resourceVersion={}", selected(&namespace, "r"), version(&last));
    let mut watch = context.watch(&path).await?;
    let object = watch.expect("MODIFIED").await?;
    ensure!(object["data"]["mutation"] == "2", "{object}");
    watch.expect("DELETED").await.map(drop)
}

async fn leaves_selector(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let collection = core(&namespace, "configmaps");
    let mut watch = context.watch(&selected(&namespace, "in")).await?;
    context.create(&collection, &labelled("moving", "in")).await?;
    mutate(&context, &namespace, "moving", "1").await?;
    let path = format!("{collection}/moving");
    context.modify(&path, |object| object["metadata"]["labels"]["watch"] = "out".into()).await?;
    watch.expect("ADDED").await?;
    watch.expect("MODIFIED").await?;
    watch.expect("DELETED").await?;
    mutate(&context, &namespace, "moving", "2").await?;
    watch.expect_silence(SILENCE).await?;
    context.modify(&path, |object| object["metadata"]["labels"]["watch"] = "in".into()).await?;
    mutate(&context, &namespace, "moving", "3").await?;
    context.delete(&path).await?;
    watch.expect("ADDED").await?;
    let object = watch.expect("MODIFIED").await?;
    ensure!(object["data"]["mutation"] == "3", "{object}");
    watch.expect("DELETED").await.map(drop)
}

async fn same_order(context: Context) -> Result<()> {
    const EVENTS: usize = 60;
    let namespace = context.namespace().await?;
    let collection = core(&namespace, "configmaps");
    let begin = version(&context.get(&collection).await?).to_owned();
    let (writer, at) = (context.clone(), collection.clone());
    let writing = tokio::spawn(async move {
        let mut alive: Vec<String> = Vec::new();
        for number in 0..EVENTS {
            match number % 3 {
                0 => {
                    let name = format!("c-{number}-{}", unique());
                    writer.create(&at, &json!({"metadata": {"name": name}})).await?;
                    alive.push(name);
                }
                1 => {
                    let path = format!("{at}/{}", alive[number % alive.len()]);
                    writer.merge(&path, json!({"data": {"n": number.to_string()}})).await?;
                }
                _ if alive.len() > 3 => {
                    writer.delete(&format!("{at}/{}", alive.remove(0))).await?;
                }
                _ => {
                    let path = format!("{at}/{}", alive[0]);
                    writer.merge(&path, json!({"data": {"m": number.to_string()}})).await?;
                }
            }
        }
        anyhow::Ok(())
    });
    let mut histories = Vec::new();
    // Each watch begins where the one before had its first event, as a late client would.
    let mut from = begin;
    for _ in 0..5 {
        let mut watch = context.watch(&format!("{collection}?resourceVersion={from}")).await?;
        let first = watch.next(Duration::from_secs(30)).await?["object"].clone();
        from = version(&first).to_owned();
        histories.push((watch, vec![key(&first)]));
    }
    writing.await??;
    let last = version(&context.get(&collection).await?).to_owned();
    let read = histories.into_iter().map(|(mut watch, mut seen)| {
        let last: u64 = last.parse().unwrap_or_default();
        async move {
            while let Ok(event) = watch.next(SILENCE).await {
                seen.push(key(&event["object"]));
                if version(&event["object"]).parse::<u64>().is_ok_and(|at| at >= last) {
                    break;
                }
            }
            anyhow::Ok(seen)
        }
    });
    let histories: Vec<Vec<String>> = try_join_all(read).await?;
    let whole = &histories[0];
    ensure!(whole.len() == EVENTS, "{} events of {EVENTS}", whole.len());
    for history in &histories {
        ensure!(whole.ends_with(history), "{history:?} is not the end of {whole:?}");
    }
    Ok(())
}

fn key(object: &Value) -> String {
    format!("{}@{}", name(object), version(object))
}
