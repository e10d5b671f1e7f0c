//! Schemas of definitions in the OpenAPI documents, and what kubectl makes of them.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Installed, anything, definition, install, version};
use crate::{
    api::Patch,
    context::{Context, LIMIT, eventually},
    operations::unique,
};

crate::rows! { "api-machinery";
    "CustomResourcePublishOpenAPI" {
        "works for CRD with validation schema" => with_schema,
        "works for CRD without validation schema" => without_schema,
        "works for CRD preserving unknown fields at the schema root" => preserving_at_root,
        "works for CRD preserving unknown fields in an embedded object" => preserving_nested,
        "works for multiple CRDs of different groups" => different_groups,
        "works for multiple CRDs of same group but different versions" => different_versions,
        "works for multiple CRDs of same group and version but different kinds" => different_kinds,
        "updates the published spec when one version gets renamed" => renamed,
        "removes definition from spec when one version gets changed to not be served" => not_served,
    }
}

fn foo() -> Value {
    json!({"description": "Foo CRD for Testing", "type": "object", "properties": {
        "spec": {"type": "object", "description": "Specification of Foo", "properties": {
            "bars": {"description": "List of Bars and their specs.", "type": "array", "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"description": "Name of Bar.", "type": "string"}, "age": {"description": "Age of Bar.", "type": "string"},
                "feeling": {"description": "Whether Bar is feeling great.", "type": "string", "enum": ["Great", "Down"]},
                "bazs": {"description": "List of Bazs.", "items": {"type": "string"}, "type": "array"}}}}}},
        "status": {"description": "Status of Foo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object", "properties": {
                "name": {"description": "Name of Bar.", "type": "string"}, "available": {"description": "Whether the Bar is installed.", "type": "boolean"},
                "quxType": {"description": "Indicates to external qux type.", "pattern": "in-tree|out-of-tree", "type": "string"}}}}}}}})
}

fn waldo() -> Value {
    json!({"description": "Waldo CRD for Testing", "type": "object", "properties": {
        "spec": {"description": "Specification of Waldo", "type": "object", "properties": {
            "dummy": {"description": "Dummy property.", "type": "object"}}},
        "status": {"description": "Status of Waldo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object"}}}}}})
}

/// Name of the definition in the documents.
fn component(installed: &Installed, version: &str) -> String {
    let mut parts: Vec<&str> = installed.group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{}", parts.join("."), installed.kind)
}

async fn published(context: &Context, component: &str, schema: &Value) -> Result<()> {
    eventually(&format!("{component} is published"), LIMIT, || async {
        let document = context.get("/openapi/v2").await?;
        let mut found = document["definitions"].get(component).context("it is not there")?.clone();
        ensure!(found["x-kubernetes-group-version-kind"].is_array(), "{found}");
        if let Some(fields) = found.as_object_mut() {
            fields.remove("x-kubernetes-group-version-kind");
        }
        if let Some(properties) = found.get_mut("properties").and_then(Value::as_object_mut) {
            for name in ["apiVersion", "kind", "metadata"] {
                ensure!(properties.remove(name).is_some(), "no {name}");
            }
        }
        ensure!(found == *schema, "{found} is not {schema}");
        Ok(())
    })
    .await
}

async fn removed(context: &Context, component: &str) -> Result<()> {
    eventually(&format!("{component} is removed"), LIMIT, || async {
        let document = context.get("/openapi/v2").await?;
        if document["definitions"].get(component).is_some() {
            bail!("still there");
        }
        Ok(())
    })
    .await
}

async fn install_versions(context: &Context, group: Option<&str>, schema: &Value, names: &[&str]) -> Result<Installed> {
    let versions: Vec<Value> =
        names.iter().enumerate().map(|(index, name)| version(name, index == 0, schema.clone())).collect();
    install(context, &definition(group, "Namespaced", &versions)).await
}

/// Runs kubectl in a namespace with something on its standard input.
async fn kubectl(context: &Context, namespace: &str, words: &[&str], input: &str) -> Result<(bool, String)> {
    let mut child = tokio::process::Command::new(&context.kubectl)
        .args(["--namespace", namespace])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

async fn must(context: &Context, namespace: &str, words: &[&str], input: &str) -> Result<String> {
    let (good, text) = kubectl(context, namespace, words, input).await?;
    ensure!(good, "kubectl {}: {text}", words.join(" "));
    Ok(text)
}

/// Creates and applies an object with kubectl, deleting it each time.
async fn create_and_apply(context: &Context, namespace: &str, installed: &Installed, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    for verb in ["create", "apply"] {
        must(context, namespace, &[verb, "-f", "-"], &object.to_string()).await?;
        must(context, namespace, &["delete", &installed.plural, name], "").await?;
    }
    Ok(())
}

/// What `kubectl explain` says must hold these texts in this order.
async fn explained(context: &Context, namespace: &str, path: &str, wanted: &[&str]) -> Result<()> {
    eventually(&format!("explain {path}"), LIMIT, || async {
        let text = must(context, namespace, &["explain", path], "").await?;
        let mut rest = text.as_str();
        for part in wanted {
            let at = rest.find(part).with_context(|| format!("no {part:?} in {text}"))?;
            rest = &rest[at + part.len()..];
        }
        Ok(())
    })
    .await
}

async fn with_schema(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let installed = install_versions(&context, None, &foo(), &["v1"]).await?;
    let definition = component(&installed, "v1");
    published(&context, &definition, &foo()).await?;
    let mut object = installed.object("v1", "test-foo");
    object["spec"] = json!({"bars": [{"name": "test-bar"}]});
    create_and_apply(&context, &namespace, &installed, &object).await?;
    for (spec, why) in [
        (json!({"bars": [{"name": "b", "feeling": "NonExistentValue"}]}), "Unsupported value: \"NonExistentValue\""),
        (json!({"foo": true}), "unknown field \"spec.foo\""),
        (json!({"bars": [{"age": "10"}]}), "spec.bars[0].name: Required value"),
    ] {
        object["spec"] = spec;
        for verb in ["create", "apply"] {
            let (good, text) = kubectl(&context, &namespace, &[verb, "-f", "-"], &object.to_string()).await?;
            ensure!(!good && text.contains(why), "{verb}: {text}");
        }
    }
    let plural = &installed.plural;
    let root = [
        "DESCRIPTION:",
        "Foo CRD for Testing",
        "FIELDS:",
        "apiVersion",
        "<string>",
        "spec",
        "<Object>",
        "Specification of Foo",
    ];
    explained(&context, &namespace, plural, &root).await?;
    let metadata = [
        "DESCRIPTION:",
        "Standard object's metadata",
        "FIELDS:",
        "creationTimestamp",
        "<string>",
        "CreationTimestamp is a timestamp",
    ];
    explained(&context, &namespace, &format!("{plural}.metadata"), &metadata).await?;
    let spec =
        ["DESCRIPTION:", "Specification of Foo", "FIELDS:", "bars", "<[]Object>", "List of Bars and their specs"];
    explained(&context, &namespace, &format!("{plural}.spec"), &spec).await?;
    let bars = [
        "bars",
        "<[]Object>",
        "DESCRIPTION:",
        "List of Bars and their specs",
        "FIELDS:",
        "bazs",
        "<[]string>",
        "List of Bazs",
        "name",
        "<string>",
        "Name of Bar",
    ];
    explained(&context, &namespace, &format!("{plural}.spec.bars"), &bars).await?;
    let (good, text) = kubectl(&context, &namespace, &["explain", &format!("{plural}.spec.bars2")], "").await?;
    ensure!(!good && text.contains("field \"bars2\" does not exist"), "{text}");
    context.delete(&installed.path).await?;
    removed(&context, &definition).await
}

async fn unknown_allowed(
    context: &Context,
    schema: Value,
    expected: Option<Value>,
    object: Value,
    explanation: &[&str],
) -> Result<()> {
    let namespace = context.namespace().await?;
    let installed = install_versions(context, None, &schema, &["v1"]).await?;
    let definition = component(&installed, "v1");
    if let Some(expected) = expected {
        published(context, &definition, &expected).await?;
    }
    let mut whole = installed.object("v1", "test-cr");
    crate::api::merge(&mut whole, &object);
    create_and_apply(context, &namespace, &installed, &whole).await?;
    let kind = [installed.kind.as_str()];
    let wanted = if explanation.is_empty() { &kind } else { explanation };
    explained(context, &namespace, &installed.plural, wanted).await?;
    context.delete(&installed.path).await?;
    removed(context, &definition).await
}

async fn without_schema(context: Context) -> Result<()> {
    let object = json!({"a": {"b": [{"c": "d"}]}});
    let expected = Some(json!({"type": "object"}));
    unknown_allowed(&context, anything(), expected, object, &["DESCRIPTION:", "<empty>"]).await
}

async fn preserving_at_root(context: Context) -> Result<()> {
    let schema = json!({"description": "preserve-unknown-properties at root for Testing", "x-kubernetes-preserve-unknown-fields": true,
        "type": "object", "properties": {
            "spec": {"description": "Specification of Waldo", "type": "object", "properties": {"dummy": {"description": "Dummy property.", "type": "object"}}},
            "status": {"description": "Status of Waldo", "type": "object", "properties": {"bars": {"description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object"}}}}}});
    unknown_allowed(&context, schema, None, json!({"a": {"b": [{"c": "d"}]}}), &[]).await
}

async fn preserving_nested(context: Context) -> Result<()> {
    let description = "preserve-unknown-properties in nested field for Testing";
    let schema = json!({"description": description, "type": "object", "properties": {
        "spec": {"description": "Specification of Waldo", "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"dummy": {"description": "Dummy property.", "type": "object"}}},
        "status": {"description": "Status of Waldo", "type": "object", "properties": {"bars": {"description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object"}}}}}});
    let object = json!({"spec": {"a": null, "b": [{"c": "d"}]}});
    unknown_allowed(&context, schema, None, object, &["DESCRIPTION:", description]).await
}

/// Installs definitions, looks for all, removes them, and looks again.
async fn together(context: &Context, wanted: Vec<(Installed, Vec<&str>, Value)>) -> Result<()> {
    for (installed, versions, schema) in &wanted {
        for version in versions {
            published(context, &component(installed, version), schema).await?;
        }
    }
    for (installed, versions, _) in &wanted {
        context.delete(&installed.path).await?;
        for version in versions {
            removed(context, &component(installed, version)).await?;
        }
    }
    Ok(())
}

async fn different_groups(context: Context) -> Result<()> {
    let first = install_versions(&context, None, &foo(), &["v1"]).await?;
    let second = install_versions(&context, None, &waldo(), &["v1beta1"]).await?;
    ensure!(first.group != second.group, "one group");
    together(&context, vec![(first, vec!["v1"], foo()), (second, vec!["v1beta1"], waldo())]).await
}

async fn different_versions(context: Context) -> Result<()> {
    let both = install_versions(&context, None, &foo(), &["v2", "v3"]).await?;
    together(&context, vec![(both, vec!["v3", "v2"], foo())]).await?;
    let group = format!("common-{}.example.com", unique());
    let first = install_versions(&context, Some(&group), &foo(), &["v4"]).await?;
    let second = install_versions(&context, Some(&group), &waldo(), &["v5"]).await?;
    together(&context, vec![(first, vec!["v4"], foo()), (second, vec!["v5"], waldo())]).await
}

async fn different_kinds(context: Context) -> Result<()> {
    let group = format!("common-{}.example.com", unique());
    let first = install_versions(&context, Some(&group), &foo(), &["v6"]).await?;
    let second = install_versions(&context, Some(&group), &waldo(), &["v6"]).await?;
    together(&context, vec![(first, vec!["v6"], foo()), (second, vec!["v6"], waldo())]).await
}

async fn renamed(context: Context) -> Result<()> {
    let installed = install_versions(&context, None, &foo(), &["v2", "v3"]).await?;
    published(&context, &component(&installed, "v3"), &foo()).await?;
    published(&context, &component(&installed, "v2"), &foo()).await?;
    let patch = json!([{"op": "test", "path": "/spec/versions/1/name", "value": "v3"},
        {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]);
    context.patch(&installed.path, Patch::Json, &patch).await?;
    published(&context, &component(&installed, "v4"), &foo()).await?;
    removed(&context, &component(&installed, "v3")).await?;
    published(&context, &component(&installed, "v2"), &foo()).await
}

async fn not_served(context: Context) -> Result<()> {
    let installed = install_versions(&context, None, &foo(), &["v5", "v6alpha1"]).await?;
    published(&context, &component(&installed, "v6alpha1"), &foo()).await?;
    published(&context, &component(&installed, "v5"), &foo()).await?;
    context.modify(&installed.path, |object| object["spec"]["versions"][1]["served"] = json!(false)).await?;
    removed(&context, &component(&installed, "v6alpha1")).await?;
    published(&context, &component(&installed, "v5"), &foo()).await
}
