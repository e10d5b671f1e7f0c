//! OpenAPI: the schema table and the resource table as documents that kubectl,
//! Helm and code generators read.
//!
//! `/openapi/v3` is an index of one document per group and version, whose URLs
//! carry a content hash; `/openapi/v2` is one document for everything, as JSON
//! or in the protobuf form of older clients. Documents are made on first demand
//! and kept until the resource table changes.

mod descriptions;
mod names;
mod paths;
mod schemas;
mod v2;
mod v2_protobuf;
mod v3;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use ring::digest;
use skiff_api::{Resource, ResourceRegistry};
use skiff_client::Body;

use crate::{
    aggregation::{Aggregator, Learned, openapi as merge},
    body::accepts_gzip,
    negotiation::{self, Clause},
    wire::JSON,
};

/// Media type of the protobuf form, as asked for by kubectl and client-go.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
/// What the server says it sends; the `@` is not allowed in this header.
const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A finished document and its hash. It is kept compressed, as nearly every
/// client asks for it, at a tenth of the memory.
#[derive(Clone)]
struct Document {
    compressed: Bytes,
    /// Upper-case hex of the SHA-512 of the plain document, as upstream prints it.
    hash: Arc<str>,
}

impl Document {
    fn new(bytes: &[u8]) -> Document {
        let hash = digest::digest(&digest::SHA512, bytes);
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        Document { compressed: compress(bytes), hash: hash.into() }
    }

    fn plain(&self) -> Bytes {
        let mut bytes = Vec::new();
        // What was compressed here decompresses.
        let _ = GzDecoder::new(&self.compressed[..]).read_to_end(&mut bytes);
        Bytes::from(bytes)
    }
}

fn compress(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    Bytes::from(encoder.finish().unwrap_or_default())
}

/// Documents of one state of the resource table.
#[derive(Default)]
struct Made {
    /// Of the resource table and of what is aggregated.
    version: (u64, u64),
    v3: BTreeMap<String, Document>,
    v2_json: Option<Document>,
    v2_protobuf: Option<Document>,
}

/// Answers requests below `/openapi`.
pub struct OpenApi {
    registry: Arc<ResourceRegistry>,
    release: String,
    made: Mutex<Made>,
    aggregator: Option<Arc<Aggregator>>,
}

impl OpenApi {
    /// `release` is the `gitVersion`, shown as the version of the documents.
    pub fn new(registry: Arc<ResourceRegistry>, release: &str) -> OpenApi {
        OpenApi { registry, release: release.to_owned(), made: Mutex::default(), aggregator: None }
    }

    /// Includes the documents of other servers.
    pub fn with_aggregator(self, aggregator: Arc<Aggregator>) -> OpenApi {
        OpenApi { aggregator: Some(aggregator), ..self }
    }

    fn learned(&self) -> Vec<Learned> {
        self.aggregator.as_ref().map(|aggregator| aggregator.learned()).unwrap_or_default()
    }

    fn version(&self) -> (u64, u64) {
        (self.registry.version(), self.aggregator.as_ref().map_or(0, |aggregator| aggregator.version()))
    }

    /// The v2 document of everybody.
    fn v2(&self, rows: &[Arc<Resource>]) -> serde_json::Value {
        let mut document = v2::document(rows, &self.release);
        merge::merge_v2(&mut document, &self.learned());
        document
    }

    /// Answers a GET; `None` when the path is no document.
    pub fn serve(&self, path: &str, query: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        match path.trim_end_matches('/') {
            "/openapi/v2" => Some(self.serve_v2(headers)),
            "/openapi/v3" => Some(self.serve_index(headers)),
            other => self.serve_v3(other.strip_prefix("/openapi/v3/")?, query, headers),
        }
    }

    fn serve_v2(&self, headers: &HeaderMap) -> Response<Body> {
        let Some(chosen) = choose(headers, &[JSON, V2_PROTOBUF[0], V2_PROTOBUF[1]]) else { return not_acceptable() };
        let (document, content_type) = if chosen > 0 {
            let make = |rows: &[Arc<Resource>]| v2_protobuf::encode(&self.v2(rows));
            (self.made(|made| &mut made.v2_protobuf, make), V2_PROTOBUF_ANSWER)
        } else {
            let make = |rows: &[Arc<Resource>]| json(&self.v2(rows));
            (self.made(|made| &mut made.v2_json, make), JSON)
        };
        answer(&document, content_type, headers, false)
    }

    fn serve_index(&self, headers: &HeaderMap) -> Response<Body> {
        let table = self.registry.table();
        let mut paths = serde_json::Map::new();
        for group in table.groups() {
            for version in table.versions(group) {
                let name = v3::document_name(group, version);
                if let Some(document) = self.v3(&name) {
                    let url = format!("/openapi/v3/{name}?hash={}", document.hash);
                    paths.insert(name, serde_json::json!({"serverRelativeURL": url}));
                }
            }
        }
        merge::merge_v3(&mut paths, &self.learned());
        let index = Document::new(&json(&serde_json::json!({"paths": paths})));
        answer(&index, JSON, headers, false)
    }

    fn serve_v3(&self, name: &str, query: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let document = self.v3(name)?;
        let asked = query.split('&').find_map(|pair| pair.strip_prefix("hash="));
        match asked {
            // The document has changed since the index was read.
            Some(hash) if *hash != *document.hash => {
                Some(redirect(&format!("/openapi/v3/{name}?hash={}", document.hash)))
            }
            _ if choose(headers, &[JSON]).is_none() => Some(not_acceptable()),
            asked => Some(answer(&document, JSON, headers, asked.is_some())),
        }
    }

    fn v3(&self, name: &str) -> Option<Document> {
        let table = self.registry.table();
        let mut made = self.made.lock();
        made.renew(self.version());
        if let Some(document) = made.v3.get(name) {
            return Some(document.clone());
        }
        let (group, version) = v3::group_version(name)?;
        let rows = table.group_version(group, version);
        if rows.is_empty() {
            return None;
        }
        let document = Document::new(&json(&v3::document(&rows, &self.release)));
        made.v3.insert(name.to_owned(), document.clone());
        Some(document)
    }

    fn made(
        &self,
        slot: impl Fn(&mut Made) -> &mut Option<Document>,
        make: impl FnOnce(&[Arc<Resource>]) -> Vec<u8>,
    ) -> Document {
        let table = self.registry.table();
        let mut made = self.made.lock();
        made.renew(self.version());
        slot(&mut made).get_or_insert_with(|| Document::new(&make(table.rows()))).clone()
    }
}

impl Made {
    /// Forgets documents of an older table.
    fn renew(&mut self, version: (u64, u64)) {
        if self.version != version {
            *self = Made { version, ..Made::default() };
        }
    }
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    // A tree of plain values always encodes.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Which of `types` a client likes best; nothing said means the first.
fn choose(headers: &HeaderMap, types: &[&str]) -> Option<usize> {
    if !headers.contains_key(header::ACCEPT) {
        return Some(0);
    }
    let liked = |clause: &Clause| {
        types
            .iter()
            .position(|media| matches!(clause.media.as_str(), "*/*" | "application/*") || clause.media == *media)
    };
    negotiation::clauses(headers).iter().find_map(liked)
}

/// 406 without a word, as upstream has it here.
fn not_acceptable() -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// 304 when the client has this document already.
fn answer(document: &Document, content_type: &'static str, headers: &HeaderMap, immutable: bool) -> Response<Body> {
    let etag = format!("\"{}\"", document.hash);
    let mut known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let same = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag;
    let fresh = known.any(|tags| tags.split(',').any(|tag| same(tag.trim())));
    let compressed = accepts_gzip(headers);
    let (code, body) = match (fresh, compressed) {
        (true, _) => (StatusCode::NOT_MODIFIED, Bytes::new()),
        (false, true) => (StatusCode::OK, document.compressed.clone()),
        (false, false) => (StatusCode::OK, document.plain()),
    };
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    set.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if compressed && !fresh {
        set.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        set.insert(header::ETAG, etag);
    }
    if immutable {
        set.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    response
}

fn redirect(location: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: &str, accept: Option<&str>) -> (StatusCode, HeaderMap, Bytes) {
        let openapi = OpenApi::new(Arc::new(ResourceRegistry::builtin()), "v1.37.0");
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        }
        let response = openapi.serve(path, query, &headers).expect("a document");
        let (parts, body) = response.into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        (parts.status, parts.headers, runtime.block_on(body.collect()).unwrap().to_bytes())
    }

    #[test]
    fn the_index_points_to_documents_by_hash_and_a_stale_hash_is_redirected() {
        let (_, _, index) = get("/openapi/v3", "", None);
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
        let (path, query) = url.split_once('?').unwrap();
        assert_eq!(get(path, query, None).0, StatusCode::OK);
        let (code, headers, _) = get(path, "hash=OLD", None);
        assert_eq!(code, StatusCode::MOVED_PERMANENTLY);
        assert_eq!(headers[header::LOCATION], url);
    }

    #[test]
    fn documents_come_in_the_type_that_was_asked_for_or_not_at_all() {
        let answer = |path: &str, accept: &str| {
            let (code, headers, body) = get(path, "", Some(accept));
            let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap().to_owned());
            (code.as_u16(), kind.unwrap_or_default(), body.is_empty())
        };
        let json = || (200, JSON.to_owned(), false);
        assert_eq!(answer("/openapi/v2", "application/xml, */*;q=0.1"), json());
        assert_eq!(answer("/openapi/v2", "application/*"), json());
        for protobuf in V2_PROTOBUF {
            let liked = format!("{JSON};q=0.5, {protobuf}");
            assert_eq!(answer("/openapi/v2", &liked), (200, V2_PROTOBUF_ANSWER.to_owned(), false));
        }
        assert_eq!(answer("/openapi/v2", &format!("{JSON}, {};q=0.5", V2_PROTOBUF[0])), json());
        for path in ["/openapi/v2", "/openapi/v3/apis/apps/v1"] {
            assert_eq!(answer(path, "application/xml"), (406, String::new(), true));
        }
    }

    #[test]
    fn a_known_document_is_not_sent_again() {
        let openapi = OpenApi::new(Arc::new(ResourceRegistry::builtin()), "v1.37.0");
        for path in ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"] {
            let etag = get(path, "", None).1[header::ETAG].to_str().unwrap().to_owned();
            for known in [etag.clone(), format!("\"old\", W/{etag}"), "*".to_owned()] {
                let mut headers = HeaderMap::new();
                headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(&known).unwrap());
                let response = openapi.serve(path, "", &headers).expect("a document");
                assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{path} {known}");
            }
        }
    }

    #[test]
    fn every_reference_of_a_document_resolves() {
        fn references(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => {
                    for (key, value) in map {
                        match value.as_str() {
                            Some(text) if key == "$ref" => found.push(text.to_owned()),
                            _ => references(value, found),
                        }
                    }
                }
                serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        for path in ["/openapi/v2", "/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1"] {
            let (_, _, bytes) = get(path, "", None);
            let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() > 50, "{path}");
            for reference in found {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{path}: {reference}");
            }
        }
    }

    #[test]
    fn compressed_and_plain_are_the_same_document() {
        let openapi = OpenApi::new(Arc::new(ResourceRegistry::builtin()), "v1.37.0");
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let response = openapi.serve("/openapi/v3/apis/apps/v1", "", &headers).expect("a document");
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let compressed = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        let mut bytes = Vec::new();
        GzDecoder::new(&compressed[..]).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, get("/openapi/v3/apis/apps/v1", "", None).2);
        assert!(compressed.len() * 5 < bytes.len());
    }

    #[test]
    fn explain_finds_descriptions_of_kinds_and_fields() {
        let (_, _, bytes) = get("/openapi/v3/apis/apps/v1", "", None);
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let schemas = &document["components"]["schemas"];
        assert!(schemas["io.k8s.api.core.v1.PodSpec"]["description"].is_string());
        let field = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"];
        assert!(field["description"].as_str().is_some_and(|text| text.contains("desired pods")), "{field}");
        let reference = &schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
        assert!(reference["description"].is_string() && reference["allOf"].is_array(), "{reference}");
    }

    #[test]
    fn metrics_are_described_like_kinds_with_messages() {
        let registry = ResourceRegistry::builtin();
        registry.add(crate::resource_metrics::objects::rows(&registry));
        let openapi = OpenApi::new(Arc::new(registry), "v1.37.0");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (path, at) in
            [("/openapi/v3/apis/metrics.k8s.io/v1beta1", "/components/schemas"), ("/openapi/v2", "/definitions")]
        {
            let response = openapi.serve(path, "", &HeaderMap::new()).expect("a document");
            let bytes = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
            let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let schemas = document.pointer(at).unwrap();
            let of = |kind: &str| &schemas[format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}")]["properties"];
            assert!(of("NodeMetrics")["usage"].is_object() && of("PodMetricsList")["items"].is_object(), "{path}");
            assert_eq!(of("PodMetrics")["containers"]["items"]["properties"]["name"]["type"], "string", "{path}");
        }
    }

    #[test]
    fn older_clients_get_protobuf() {
        let (code, headers, bytes) = get("/openapi/v2", "", Some(V2_PROTOBUF[0]));
        assert_eq!(code, StatusCode::OK);
        assert_eq!(headers[header::CONTENT_TYPE], V2_PROTOBUF_ANSWER);
        assert_eq!(&bytes[..5], b"\x0a\x032.0");
    }
}
