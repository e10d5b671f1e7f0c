//! What the server says of itself, and lists in chunks.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{
    api::{core, items, name, version},
    context::{Context, LIMIT, eventually},
    operations::unique,
    pods::pause,
};

crate::rows! { "api-machinery";
    "server version" {
        "should find the server version" => should_find_the_server_version,
    }
    "Discovery" {
        "should locate the groupVersion and a resource within each APIGroup" => resources_of_groups,
        "should validate PreferredVersion for each APIGroup" => preferred_versions,
    }
    "AggregatedDiscovery" {
        "should support aggregated discovery interface" => aggregated,
        "should support raw aggregated discovery endpoint Accept headers" => aggregated_headers,
        "should support aggregated discovery interface for CRDs" => |c| aggregated_definitions(c, "v1"),
        "should support raw aggregated discovery request for CRDs" => |c| aggregated_definitions(c, "v1alpha1"),
    }
    "Servers with support for API chunking" {
        "should return chunks of results for list calls" => chunks,
        "should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent" => compacted,
    }
    "Servers with support for Table transformation" {
        "should return a 406 for a backend which does not implement metadata" => no_table,
    }
}

async fn should_find_the_server_version(context: Context) -> Result<()> {
    let version = context.get("/version").await?;
    for part in ["major", "minor"] {
        let text = version[part].as_str().unwrap_or_default();
        ensure!(text.parse::<u32>().is_ok(), "{part} is {text:?}");
    }
    Ok(())
}

async fn groups(context: &Context) -> Result<Vec<Value>> {
    let groups = context.get("/apis").await?;
    let groups = groups["groups"].as_array().cloned().unwrap_or_default();
    ensure!(!groups.is_empty(), "no groups");
    Ok(groups)
}

async fn preferred_versions(context: Context) -> Result<()> {
    for group in groups(&context).await? {
        let named = group["name"].as_str().context("a group without name")?;
        let read = context.get(&format!("/apis/{named}")).await?;
        let preferred = &read["preferredVersion"]["groupVersion"];
        ensure!(preferred.is_string(), "{named} prefers nothing");
        let versions = read["versions"].as_array().cloned().unwrap_or_default();
        ensure!(versions.iter().any(|version| version["groupVersion"] == *preferred), "{read}");
    }
    Ok(())
}

async fn resources_of_groups(context: Context) -> Result<()> {
    for group in groups(&context).await? {
        for version in group["versions"].as_array().cloned().unwrap_or_default() {
            let named = version["groupVersion"].as_str().context("a version without name")?;
            let read = context.get(&format!("/apis/{named}")).await?;
            ensure!(read["groupVersion"] == named, "{named} says it is {}", read["groupVersion"]);
            let resources = read["resources"].as_array().cloned().unwrap_or_default();
            ensure!(!resources.is_empty(), "{named} has no resources");
            ensure!(
                resources.iter().all(|resource| resource["kind"].is_string() && resource["verbs"].is_array()),
                "{read}"
            );
        }
    }
    Ok(())
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

async fn aggregated_list(context: &Context, path: &str) -> Result<Value> {
    let answer = context.send("GET", path, &[("accept", AGGREGATED)], Vec::new()).await?.expect(200)?;
    ensure!(answer.body["kind"] == "APIGroupDiscoveryList", "{path} answers {}", answer.body["kind"]);
    Ok(answer.body)
}

async fn aggregated_headers(context: Context) -> Result<()> {
    for path in ["/api", "/apis"] {
        let answer = context.send("GET", path, &[("accept", AGGREGATED)], Vec::new()).await?.expect(200)?;
        let kind = answer.header("content-type").replace(' ', "");
        ensure!(kind == AGGREGATED, "{path} says it is {kind}");
        let plain = context.send("GET", path, &[("accept", "application/json")], Vec::new()).await?.expect(200)?;
        ensure!(
            plain.header("content-type").replace(' ', "") == "application/json",
            "{}",
            plain.header("content-type")
        );
        ensure!(plain.body["kind"] != "APIGroupDiscoveryList", "{path} is aggregated for those who did not ask");
    }
    Ok(())
}

/// What every cluster serves: group, version, resource.
const BUILT_IN: &[(&str, &str, &str)] = &[
    ("", "v1", "namespaces"),
    ("", "v1", "pods"),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
];

async fn aggregated(context: Context) -> Result<()> {
    let mut found = BTreeSet::new();
    for path in ["/api", "/apis"] {
        for group in items(&aggregated_list(&context, path).await?) {
            for version in group["versions"].as_array().cloned().unwrap_or_default() {
                for resource in version["resources"].as_array().cloned().unwrap_or_default() {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    found.insert((name(&group).to_owned(), text(&version["version"]), text(&resource["resource"])));
                }
            }
        }
    }
    for (group, version, resource) in BUILT_IN {
        let wanted = ((*group).to_owned(), (*version).to_owned(), (*resource).to_owned());
        ensure!(found.contains(&wanted), "no {wanted:?}");
    }
    Ok(())
}

/// A definition appears with its version, resource and scope, and goes again.
async fn aggregated_definitions(context: Context, version: &'static str) -> Result<()> {
    let group = format!("e2e-{}.example.com", unique());
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/foos.{group}");
    context.leftover(&path);
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("foos.{group}")}, "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["fo"]},
            "versions": [{"name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    context.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
    let found = |list: Value| items(&list).into_iter().find(|item| name(item) == group);
    let shown = eventually("the group is in the document", LIMIT, || async {
        found(aggregated_list(&context, "/apis").await?).context("no group")
    })
    .await?;
    ensure!(shown["versions"][0]["version"] == version, "{shown}");
    let resource = &shown["versions"][0]["resources"][0];
    let kind = json!({"group": group, "version": version, "kind": "Foo"});
    ensure!(resource["resource"] == "foos" && resource["scope"] == "Namespaced", "{resource}");
    ensure!(resource["responseKind"] == kind && resource["shortNames"] == json!(["fo"]), "{resource}");
    ensure!(resource["subresources"][0]["subresource"] == "status", "{resource}");
    context.delete(&path).await?;
    eventually("the group leaves the document", LIMIT, || async {
        ensure!(found(aggregated_list(&context, "/apis").await?).is_none(), "still there");
        Ok(())
    })
    .await
}

const TOTAL: usize = 400;
const CHUNK: usize = 40;

/// Objects to list in chunks; returns their collection.
async fn templates(context: &Context) -> Result<String> {
    let namespace = context.namespace().await?;
    let collection = core(&namespace, "podtemplates");
    stream::iter(0..TOTAL)
        .map(|number| {
            let body = json!({"metadata": {"name": format!("template-{number:04}")},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [pause(context)]}}});
            let collection = &collection;
            async move { context.create(collection, &body).await.map(drop) }
        })
        .buffer_unordered(20)
        .try_collect::<()>()
        .await?;
    Ok(collection)
}

/// A page must go on where the one before it ended, at the same revision.
fn take_page(page: &Value, seen: &mut usize, revision: &mut String) -> Result<()> {
    let of_page = version(page);
    ensure!(revision.is_empty() || *revision == of_page, "the revision changed from {revision} to {of_page}");
    *revision = of_page.to_owned();
    for item in items(page) {
        ensure!(name(&item) == format!("template-{seen:04}"), "item {seen} is {}", name(&item));
        *seen += 1;
    }
    Ok(())
}

/// A token of a revision that is gone is refused with one that goes on from the same place.
async fn compacted(context: Context) -> Result<()> {
    let collection = templates(&context).await?;
    let first = context.get(&format!("{collection}?limit={CHUNK}")).await?;
    let token = first["metadata"]["continue"].as_str().context("no token")?.to_owned();
    // Upstream waits twice its compaction interval of five minutes.
    let limit = std::time::Duration::from_secs(570);
    let refused = eventually("the revision is compacted", limit, || async {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        let answer = context.call("GET", &format!("{collection}?limit={CHUNK}&continue={token}"), None).await?;
        answer.expect(410)
    })
    .await?;
    ensure!(refused.body["reason"] == "Expired", "{}", refused.body);
    let mut token = refused.body["metadata"]["continue"].as_str().context("no token to go on with")?.to_owned();
    let (mut seen, mut revision) = (CHUNK, String::new());
    while !token.is_empty() {
        let page = context.get(&format!("{collection}?limit={CHUNK}&continue={token}")).await?;
        ensure!(version(&page) != version(&first), "the old revision is still shown");
        take_page(&page, &mut seen, &mut revision)?;
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    ensure!(seen == TOTAL, "{seen} in pages");
    Ok(())
}

async fn chunks(context: Context) -> Result<()> {
    let collection = templates(&context).await?;
    let (mut seen, mut token, mut revision) = (0, String::new(), String::new());
    loop {
        let page = context.get(&format!("{collection}?limit={CHUNK}&continue={token}")).await?;
        take_page(&page, &mut seen, &mut revision)?;
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        let left = page["metadata"]["remainingItemCount"].as_u64();
        if token.is_empty() {
            ensure!(left.is_none_or(|left| left == 0), "the last page says {left:?} remain");
            break;
        }
        ensure!(left.is_none_or(|left| left == (TOTAL - seen) as u64), "{left:?} remain after {seen}");
        ensure!(items(&page).len() == CHUNK, "a page of {}", items(&page).len());
    }
    ensure!(seen == TOTAL, "{seen} in pages");
    ensure!(context.list(&collection).await?.len() == TOTAL, "not all in one list");
    Ok(())
}

async fn no_table(context: Context) -> Result<()> {
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}}});
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    context.send("POST", path, &headers, serde_json::to_vec(&body)?).await?.expect(406).map(drop)
}
