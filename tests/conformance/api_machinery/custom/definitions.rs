//! Definitions as objects, what they serve, and what they default.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{DEFINITIONS, anything, definition, install, version};
use crate::{
    api::{Patch, items, name},
    context::{Context, LIMIT},
    operations::unique,
};

crate::rows! { "api-machinery";
    "CustomResourceDefinition resources Simple CustomResourceDefinition" {
        "creating/deleting custom resource definition objects works" => create_and_delete,
        "listing custom resource definition objects works" => list,
        "getting/updating/patching custom resource definition status sub-resource works" => status,
    }
    "CustomResourceDefinition resources" {
        "should include custom resource definition resources in discovery documents" => discovery,
        "custom resource defaulting for requests and from storage works" => defaulting,
    }
    "CustomResourceDefinition Watch CustomResourceDefinition Watch" {
        "watch on custom resource definition objects" => watch,
    }
    "AggregatedDiscovery" {
        "should support aggregated discovery interface for CRDs" => aggregated_discovery,
        "should support raw aggregated discovery request for CRDs" => aggregated_discovery,
    }
}

fn simple() -> Value {
    definition(None, "Cluster", &[version("v1beta1", true, anything())])
}

async fn create_and_delete(context: Context) -> Result<()> {
    let installed = install(&context, &simple()).await?;
    context.delete(&installed.path).await?;
    context.until_gone(&installed.path).await
}

async fn list(context: Context) -> Result<()> {
    let id = unique();
    let mut created = Vec::new();
    for _ in 0..10 {
        let mut labelled = simple();
        labelled["metadata"]["labels"] = json!({"e2e-list-test-uuid": id});
        created.push(install(&context, &labelled).await?);
    }
    let other = install(&context, &simple()).await?;
    let selector = format!("{DEFINITIONS}?labelSelector=e2e-list-test-uuid%3D{id}");
    let listed = context.list(&selector).await?;
    ensure!(listed.len() == created.len(), "{} of {}", listed.len(), created.len());
    for definition in &listed {
        let same =
            created.iter().find(|one| name(&one.created) == name(definition)).context("an unknown definition")?;
        ensure!(same.created["spec"] == definition["spec"], "{definition}");
    }
    context.delete(&selector).await?;
    for one in &created {
        context.until_gone(&one.path).await?;
    }
    context.get(&other.path).await.map(drop)
}

async fn status(context: Context) -> Result<()> {
    let installed = install(&context, &simple()).await?;
    let path = format!("{}/status", installed.path);
    let read = context.get(&path).await?;
    ensure!(read["spec"] == installed.created["spec"], "{read}");
    let has = |object: &Value, message: &str| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["message"] == message)
    };
    let updated = context
        .modify_at(&path, &path, |object| {
            if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
                conditions.push(json!({"type": "", "status": "", "lastTransitionTime": null, "message": "updated"}));
            }
        })
        .await?;
    ensure!(has(&updated, "updated"), "{updated}");
    let patch = json!([{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]);
    let patched = context.patch(&path, Patch::Json, &patch).await?;
    ensure!(has(&patched, "patched"), "{patched}");
    Ok(())
}

async fn discovery(context: Context) -> Result<()> {
    const GROUP: &str = "apiextensions.k8s.io";
    let groups = context.get("/apis").await?;
    let listed = groups["groups"].as_array().context("no groups")?;
    let group = listed.iter().find(|group| group["name"] == GROUP).context("the group is not listed")?;
    let has_v1 = |group: &Value| {
        let versions = group["versions"].as_array().cloned().unwrap_or_default();
        versions.iter().any(|version| version["version"] == "v1")
    };
    ensure!(has_v1(group), "{group}");
    let own = context.get(&format!("/apis/{GROUP}")).await?;
    ensure!(own["name"] == GROUP && has_v1(&own), "{own}");
    let resources = context.get(&format!("/apis/{GROUP}/v1")).await?;
    ensure!(resources["groupVersion"] == "apiextensions.k8s.io/v1", "{resources}");
    let list = resources["resources"].as_array().context("no resources")?;
    ensure!(list.iter().any(|resource| resource["name"] == "customresourcedefinitions"), "{resources}");
    Ok(())
}

async fn defaulting(context: Context) -> Result<()> {
    let mut schema = anything();
    schema["properties"] = json!({"a": {"type": "string"}, "b": {"type": "string"}});
    let installed = install(&context, &definition(None, "Cluster", &[version("v1beta1", true, schema)])).await?;
    let objects = installed.objects("v1beta1", None);
    context.create(&objects, &installed.object("v1beta1", "cr-1")).await?;
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties";
    let add = json!([{"op": "add", "path": format!("{properties}/a/default"), "value": "A"}]);
    context.patch(&installed.path, Patch::Json, &add).await?;
    context.until(&format!("{objects}/cr-1"), "a is defaulted on read", |object| object["a"] == "A").await?;
    let second = context.create(&objects, &installed.object("v1beta1", "cr-2")).await?;
    ensure!(second["a"] == "A", "{second}");
    let change = json!([{"op": "remove", "path": format!("{properties}/a/default")},
        {"op": "add", "path": format!("{properties}/b/default"), "value": "B"}]);
    context.patch(&installed.path, Patch::Json, &change).await?;
    let read = context.until(&format!("{objects}/cr-2"), "b is defaulted on read", |object| object["b"] == "B").await?;
    ensure!(read["a"] == "A", "what was stored stays: {read}");
    Ok(())
}

async fn watch(context: Context) -> Result<()> {
    let installed = install(&context, &definition(None, "Cluster", &[version("v1", true, anything())])).await?;
    let objects = installed.objects("v1", None);
    let mut watches = Vec::new();
    for name in ["name1", "name2"] {
        watches.push((name, context.watch(&format!("{objects}?fieldSelector=metadata.name%3D{name}")).await?));
    }
    for (name, watch) in &mut watches {
        let object = installed.object("v1", name);
        context.create(&objects, &object).await?;
        let seen = watch.expect("ADDED").await?;
        ensure!(seen["metadata"]["name"] == *name, "{seen}");
    }
    for (name, watch) in &mut watches {
        context.merge(&format!("{objects}/{name}"), json!({"num": {"num1": 9223372036854775807i64}})).await?;
        watch.expect("MODIFIED").await?;
    }
    for (name, watch) in &mut watches {
        context.delete(&format!("{objects}/{name}")).await?;
        watch.expect("DELETED").await?;
    }
    Ok(())
}

async fn aggregated_discovery(context: Context) -> Result<()> {
    let installed = install(&context, &definition(None, "Namespaced", &[version("v1", true, anything())])).await?;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    crate::context::eventually("the resource is in aggregated discovery", LIMIT, || async {
        let answer = context.send("GET", "/apis", &[("accept", accept)], Vec::new()).await?.expect(200)?;
        let groups = items(&answer.body);
        let group = groups.iter().find(|group| group["metadata"]["name"] == installed.group.as_str());
        let version = &group.context("the group is missing")?["versions"][0];
        ensure!(version["version"] == "v1", "{version}");
        ensure!(version["resources"][0]["resource"] == installed.plural.as_str(), "{version}");
        Ok(())
    })
    .await
}
