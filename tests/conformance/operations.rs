//! The whole life of a kind of object through every verb, which many rows ask
//! for in the same way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{Patch, merge, name, uid, version},
    context::{Context, LIMIT, eventually},
    pods::with,
};

/// A kind and objects of it.
pub struct Operations {
    /// Such as `apps/v1`; `v1` is the core group.
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub namespace: Option<String>,
    /// Three objects with names; labels are added.
    pub objects: [Value; 3],
    /// A merge patch of `/status`, where the kind has it.
    pub status: Option<Value>,
}

/// Distinguishes what runs leave in the cluster.
pub fn unique() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", now.as_nanos() & 0xff_ffff_ffff)
}

/// Three times the same object under unique names.
pub fn three(body: &Value) -> [Value; 3] {
    let suffix = unique();
    ["a", "b", "c"].map(|letter| with(body.clone(), json!({"metadata": {"name": format!("e2e-{letter}-{suffix}")}})))
}

impl Operations {
    pub fn collection(&self) -> String {
        let prefix = if self.version.contains('/') {
            format!("/apis/{}", self.version)
        } else {
            format!("/api/{}", self.version)
        };
        match &self.namespace {
            Some(namespace) => format!("{prefix}/namespaces/{namespace}/{}", self.plural),
            None => format!("{prefix}/{}", self.plural),
        }
    }

    fn everywhere(&self) -> String {
        let prefix = if self.version.contains('/') {
            format!("/apis/{}", self.version)
        } else {
            format!("/api/{}", self.version)
        };
        format!("{prefix}/{}", self.plural)
    }

    /// Runs every verb.
    pub async fn run(mut self, context: &Context) -> Result<()> {
        let label = unique();
        for object in &mut self.objects {
            merge(
                object,
                &json!({"apiVersion": self.version, "kind": self.kind, "metadata": {"labels": {"e2e": label}}}),
            );
        }
        let collection = self.collection();
        let selected = format!("{collection}?labelSelector=e2e={label}");
        self.discovered(context).await.context("discovery")?;
        let begin = context.get(&selected).await?;
        let mut watch = context.watch(&format!("{selected}&resourceVersion={}", version(&begin))).await?;
        for object in &self.objects {
            let path = format!("{collection}/{}", name(object));
            if self.namespace.is_none() {
                context.leftover(&path);
            }
            let created = context.create(&collection, object).await?;
            ensure!(!uid(&created).is_empty(), "created without uid");
            ensure!(context.call("POST", &collection, Some(object)).await?.code == 409, "created twice");
            ensure!(uid(&context.get(&path).await?) == uid(&created), "read another object");
        }
        ensure!(context.list(&selected).await?.len() == 3, "not three in the list");
        let everywhere = context.list(&format!("{}?labelSelector=e2e={label}", self.everywhere())).await?;
        ensure!(everywhere.len() == 3, "not three in all namespaces");
        let first = format!("{collection}/{}", name(&self.objects[0]));
        self.patches(context, &first).await.context("patches")?;
        let updated =
            context.modify(&first, |object| object["metadata"]["annotations"]["updated"] = "true".into()).await?;
        ensure!(updated["metadata"]["annotations"]["updated"] == "true", "update did not hold: {updated}");
        watch.until("ADDED", LIMIT, |event| event["type"] == "ADDED").await?;
        let is_updated = |event: &Value| {
            event["type"] == "MODIFIED" && event["object"]["metadata"]["annotations"]["updated"] == "true"
        };
        watch.until("the update", LIMIT, is_updated).await?;
        if let Some(status) = &self.status {
            self.status(context, &first, status).await.context("status")?;
        }
        context.delete(&first).await?;
        context.until_gone(&first).await?;
        watch.until("the deletion", LIMIT, |event| event["type"] == "DELETED").await?;
        context.delete(&selected).await.context("delete the collection")?;
        eventually("the collection is empty", Duration::from_secs(60), || async {
            let left = context.list(&selected).await?;
            ensure!(left.is_empty(), "{} left", left.len());
            Ok(())
        })
        .await
    }

    /// The group, its version and the resource are announced.
    async fn discovered(&self, context: &Context) -> Result<()> {
        let root = if let Some((group, _)) = self.version.split_once('/') {
            let groups = context.get("/apis").await?;
            let groups = groups["groups"].as_array().cloned().unwrap_or_default();
            let entry = groups.iter().find(|entry| entry["name"] == group).context("no such group")?;
            let versions = entry["versions"].as_array().cloned().unwrap_or_default();
            ensure!(versions.iter().any(|entry| entry["groupVersion"] == self.version), "no such version in {entry}");
            format!("/apis/{}", self.version)
        } else {
            format!("/api/{}", self.version)
        };
        let resources = context.get(&root).await?;
        let resources = resources["resources"].as_array().cloned().unwrap_or_default();
        let resource = resources.iter().find(|entry| entry["name"] == self.plural).context("no such resource")?;
        ensure!(resource["kind"] == self.kind, "another kind: {resource}");
        if self.status.is_some() {
            let status = format!("{}/status", self.plural);
            ensure!(resources.iter().any(|entry| entry["name"] == status.as_str()), "no {status}");
        }
        Ok(())
    }

    /// All four ways to change an annotation.
    async fn patches(&self, context: &Context, path: &str) -> Result<()> {
        let over = |value: &str| json!({"metadata": {"annotations": {"patched": value}}});
        let patched = |object: &Value, wanted: &str| -> Result<()> {
            ensure!(object["metadata"]["annotations"]["patched"] == wanted, "{wanted} patch did not hold: {object}");
            Ok(())
        };
        patched(&context.patch(path, Patch::Merge, &over("merge")).await?, "merge")?;
        patched(&context.patch(path, Patch::Strategic, &over("strategic")).await?, "strategic")?;
        let steps = json!([{"op": "replace", "path": "/metadata/annotations/patched", "value": "json"}]);
        patched(&context.patch(path, Patch::Json, &steps).await?, "json")?;
        let applied = with(self.objects[0].clone(), over("apply"));
        patched(&context.apply(path, &applied).await?, "apply")
    }

    async fn status(&self, context: &Context, path: &str, status: &Value) -> Result<()> {
        let at = format!("{path}/status");
        let change = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status});
        let patched = context.merge(&at, change).await?;
        contains(&patched["status"], status).context("patch of the status")?;
        contains(&context.get(&at).await?["status"], status).context("read the status")?;
        let written = context
            .modify_at(&at, &at, |object| object["metadata"]["annotations"]["updatedstatus"] = "true".into())
            .await?;
        contains(&written["status"], status).context("update of the status")
    }
}

/// Everything in `wanted` is in `object`.
pub fn contains(object: &Value, wanted: &Value) -> Result<()> {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            for (key, value) in wanted {
                contains(object.get(key).unwrap_or(&Value::Null), value).with_context(|| key.clone())?;
            }
            Ok(())
        }
        (Value::Array(object), Value::Array(wanted)) if wanted.len() <= object.len() => {
            for one in wanted {
                ensure!(object.iter().any(|other| contains(other, one).is_ok()), "no {one} in {object:?}");
            }
            Ok(())
        }
        (object, wanted) => {
            ensure!(object == wanted, "wanted {wanted}, is {object}");
            Ok(())
        }
    }
}
