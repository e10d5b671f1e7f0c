//! What is served: `/api`, `/apis` and the documents below them, in the old
//! form and in the aggregated one. Documents are made from the resource table
//! and kept until it changes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::{Resource, ResourceRegistry, Status, Verb, resource::Subresource, resources::Table};

use crate::{
    aggregation::{Aggregator, Learned, discovery},
    body::{self, Body},
    negotiation::{self, Offer, View},
    render::{self, Style},
    table::IncludeObject,
    wire::{Format, JSON},
};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: String,
}

#[derive(Default)]
struct Made {
    /// Of the resource table and of what is aggregated.
    version: (u64, u64),
    /// `/api` and `/apis` in the aggregated form.
    aggregated: [Option<Document>; 2],
}

/// Answers discovery requests.
pub struct Discovery {
    registry: Arc<ResourceRegistry>,
    made: Mutex<Made>,
    /// `host:port` that clients inside the cluster reach the server at.
    server_address: String,
    aggregator: Option<Arc<Aggregator>>,
}

impl Discovery {
    pub fn new(registry: Arc<ResourceRegistry>, server_address: String) -> Discovery {
        Discovery { registry, made: Mutex::default(), server_address, aggregator: None }
    }

    /// Shows the group versions of other servers, too.
    pub fn with_aggregator(self, aggregator: Arc<Aggregator>) -> Discovery {
        Discovery { aggregator: Some(aggregator), ..self }
    }

    fn learned(&self) -> Vec<Learned> {
        self.aggregator.as_ref().map(|aggregator| aggregator.learned()).unwrap_or_default()
    }

    /// Answers a GET below `/api` or `/apis`; `None` when the path is no document.
    pub fn serve(&self, path: &str, headers: &HeaderMap) -> Option<Result<Response<Body>, Status>> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let table = self.registry.table();
        let document = match segments.as_slice() {
            ["api"] | ["apis"] => {
                let core = segments[0] == "api";
                if let Some(response) = self.aggregated(&table, core, headers) {
                    return Some(Ok(response));
                }
                if core { self.core_versions(&table) } else { group_list(&table, &self.learned()) }
            }
            ["api", version] => resource_list(&table, "", version)?,
            ["apis", group] if !group.is_empty() => api_group(&table, group, &self.learned())?,
            ["apis", group, version] if !group.is_empty() => resource_list(&table, group, version)?,
            _ => return None,
        };
        Some(self.plain(&document, headers))
    }

    fn plain(&self, document: &Value, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let negotiated = negotiation::negotiate(headers, Offer::values(true))?;
        let negotiated = negotiation::Negotiated { view: View::Full, ..negotiated };
        let style =
            Style { negotiated, include: IncludeObject::None, pretty: false, gzip: body::accepts_gzip(headers) };
        render::value(&style, document, 200)
    }

    /// The aggregated form, when the client prefers it to all it accepts beside it.
    fn aggregated(&self, table: &Table, core: bool, headers: &HeaderMap) -> Option<Response<Body>> {
        let clauses = negotiation::clauses(headers);
        let first = clauses.iter().find(|clause| {
            let plain = clause.parameter("as").is_empty();
            plain && Format::of(&clause.media).is_some() || is_aggregated(clause)
        })?;
        if !is_aggregated(first) {
            return None;
        }
        let document = self.made(table, core);
        let etag = HeaderValue::from_str(&document.etag).ok()?;
        let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| *value == etag);
        let mut response = if known {
            let mut response = body::response(304, AGGREGATED, Bytes::new());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            body::response(200, AGGREGATED, document.bytes)
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, etag);
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        Some(response)
    }

    fn made(&self, table: &Table, core: bool) -> Document {
        let aggregated = self.aggregator.as_ref().map_or(0, |aggregator| aggregator.version());
        let version = (table.version, aggregated);
        let mut made = self.made.lock();
        if made.version != version {
            *made = Made { version, ..Made::default() };
        }
        let slot = &mut made.aggregated[usize::from(core)];
        slot.get_or_insert_with(|| {
            let bytes = Bytes::from(aggregated_list(table, core, &self.learned()).to_string());
            let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
            let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
            Document { bytes, etag: format!("\"{hex}\"") }
        })
        .clone()
    }

    fn core_versions(&self, table: &Table) -> Value {
        json!({"kind": "APIVersions", "versions": table.versions(""),
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": self.server_address}]})
    }
}

fn is_aggregated(clause: &negotiation::Clause) -> bool {
    clause.media == JSON
        && clause.parameter("g") == "apidiscovery.k8s.io"
        && clause.parameter("v") == "v2"
        && clause.parameter("as") == "APIGroupDiscoveryList"
}

fn named_groups(table: &Table) -> impl Iterator<Item = &str> {
    table.groups().map(AsRef::as_ref).filter(|group: &&str| !group.is_empty())
}

fn group_value(table: &Table, group: &str) -> Option<Value> {
    let versions: Vec<Value> = table
        .versions(group)
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

fn group_list(table: &Table, learned: &[Learned]) -> Value {
    let mut groups: Vec<Value> = named_groups(table).filter_map(|group| group_value(table, group)).collect();
    discovery::merge_groups(&mut groups, learned);
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn api_group(table: &Table, group: &str, learned: &[Learned]) -> Option<Value> {
    let mut value = discovery::merge_group(group_value(table, group), group, learned)?;
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn resource_list(table: &Table, group: &str, version: &str) -> Option<Value> {
    let rows = table.group_version(group, version);
    if rows.is_empty() {
        return None;
    }
    let mut resources = Vec::new();
    for row in &rows {
        resources.push(resource_value(row));
        let mut subresources: Vec<&Subresource> = row.subresources.iter().collect();
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        resources.extend(subresources.into_iter().map(|subresource| subresource_value(row, subresource)));
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": skiff_api::group_version::api_version(group, version), "resources": resources}))
}

fn verbs(verbs: skiff_api::resource::Verbs) -> Vec<&'static str> {
    verbs.iter().filter(|verb| *verb != Verb::Connect).map(Verb::as_str).collect()
}

fn resource_value(row: &Resource) -> Value {
    let mut value = json!({"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced,
        "kind": row.kind, "verbs": verbs(row.verbs)});
    if !row.short_names.is_empty() {
        value["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        value["categories"] = json!(row.categories);
    }
    if !row.storage_version_hash.is_empty() {
        value["storageVersionHash"] = json!(row.storage_version_hash);
    }
    value
}

fn subresource_value(row: &Resource, subresource: &Subresource) -> Value {
    let mut value = json!({"name": format!("{}/{}", row.plural, subresource.name), "singularName": "",
        "namespaced": row.namespaced, "kind": subresource.kind, "verbs": verbs(subresource.verbs)});
    if (&subresource.group, &subresource.version) != (&row.group, &row.version) {
        if !subresource.group.is_empty() {
            value["group"] = json!(subresource.group);
        }
        value["version"] = json!(subresource.version);
    }
    value
}

fn aggregated_list(table: &Table, core: bool, learned: &[Learned]) -> Value {
    let groups: Vec<&str> = if core { vec![""] } else { named_groups(table).collect() };
    let mut items: Vec<Value> = groups.into_iter().map(|group| aggregated_group(table, group)).collect();
    if !core {
        discovery::merge_aggregated(&mut items, learned);
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(table: &Table, group: &str) -> Value {
    let versions: Vec<Value> = table
        .versions(group)
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                table.group_version(group, version).iter().map(|row| aggregated_resource(row)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated_resource(row: &Resource) -> Value {
    let scope = if row.namespaced { "Namespaced" } else { "Cluster" };
    let mut value = json!({"resource": row.plural, "responseKind": response_kind(&row.group, &row.version, &row.kind),
        "scope": scope, "singularResource": row.singular, "verbs": verbs(row.verbs)});
    if !row.short_names.is_empty() {
        value["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        value["categories"] = json!(row.categories);
    }
    let mut subresources: Vec<&Subresource> = row.subresources.iter().collect();
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    let subresources: Vec<Value> = subresources
        .into_iter()
        .map(|sub| {
            json!({"subresource": sub.name, "responseKind": response_kind(&sub.group, &sub.version, &sub.kind),
                "verbs": verbs(sub.verbs)})
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = json!(subresources);
    }
    value
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn discovery() -> Discovery {
        Discovery::new(Arc::new(ResourceRegistry::builtin()), "10.0.0.1:6443".to_owned())
    }

    async fn get(discovery: &Discovery, path: &str, accept: &str, etag: &str) -> (u16, HeaderMap, Value) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        if !etag.is_empty() {
            headers.insert(header::IF_NONE_MATCH, etag.parse().unwrap());
        }
        let response = discovery.serve(path, &headers).unwrap().unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn old_documents_list_groups_versions_and_resources() {
        let discovery = discovery();
        let (_, _, versions) = get(&discovery, "/api", JSON, "").await;
        assert_eq!(versions["versions"], json!(["v1"]));
        let (_, _, groups) = get(&discovery, "/apis", JSON, "").await;
        assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "apps"));
        let (_, _, core) = get(&discovery, "/api/v1", JSON, "").await;
        let find = |name: &str| core["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned();
        assert_eq!(find("pods").unwrap()["shortNames"], json!(["po"]));
        assert_eq!(find("pods/eviction").unwrap()["group"], "policy");
        assert!(discovery.serve("/apis/nothing.example", &HeaderMap::new()).is_none());
        assert!(discovery.serve("/api/v9", &HeaderMap::new()).is_none());
    }

    #[tokio::test]
    async fn the_aggregated_form_is_cached_by_etag() {
        let discovery = discovery();
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let (code, headers, list) = get(&discovery, "/apis", kubectl, "").await;
        assert_eq!((code, list["kind"].as_str()), (200, Some("APIGroupDiscoveryList")));
        assert_eq!(headers[header::CONTENT_TYPE], AGGREGATED);
        let etag = headers[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(get(&discovery, "/apis", kubectl, &etag).await.0, 304);
        assert_eq!(get(&discovery, "/apis", JSON, "").await.2["kind"], "APIGroupList");
    }
}
