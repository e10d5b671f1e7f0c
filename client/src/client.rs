//! A client of the Kubernetes API: one method per verb, dynamic objects in and out.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use skiff_api::{GroupVersionResource, Object, Revision, Status};

use crate::{Body, ClientError, Transport};

/// Largest response that is not a stream; a list of that size must be paged.
const RESPONSE_BYTES_MAX: usize = 512 << 20;
/// Largest single watch event.
const WATCH_LINE_BYTES_MAX: usize = 16 << 20;

/// Options of list and watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub limit: Option<u32>,
    pub continue_token: Option<String>,
    /// For a watch: start after this revision. For a list: `Some("0")` reads any cached state.
    pub resource_version: Option<String>,
    pub timeout: Option<Duration>,
}

/// A list answer.
#[derive(Debug)]
pub struct ObjectList {
    pub items: Vec<Arc<Object>>,
    pub revision: Revision,
    pub continue_token: Option<String>,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    Added(Arc<Object>),
    Modified(Arc<Object>),
    Deleted(Arc<Object>),
    Bookmark(Revision),
    /// The server ended the watch with a failure, for example 410 Expired.
    Error(Box<Status>),
}

/// A patch body and its kind.
#[derive(Clone, Debug)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply.
    Apply {
        manager: String,
        force: bool,
        body: Value,
    },
}

/// What happens to dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PropagationPolicy {
    Orphan,
    Background,
    Foreground,
}

/// Options of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation_policy: Option<PropagationPolicy>,
    /// Delete only the object with this identity.
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Delete exactly the object seen, not a later one of the same name.
    pub fn with_uid(uid: &skiff_api::Uid) -> Self {
        DeleteOptions { uid: Some(uid.0.clone()), ..DeleteOptions::default() }
    }

    fn body(&self) -> Value {
        let mut body = serde_json::json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = self.propagation_policy {
            body["propagationPolicy"] = serde_json::json!(policy);
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &self.resource_version {
            body["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        body
    }
}

/// A stream of watch events; dropping it ends the watch.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, ClientError>> + Send>>;

/// Speaks the API through a [`Transport`]; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    /// `User-Agent`, and with it the default field manager.
    user_agent: Arc<str>,
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Client {
        Client { transport, user_agent: user_agent.into() }
    }

    /// The same connection under another `User-Agent` (field manager).
    pub fn with_user_agent(&self, user_agent: &str) -> Client {
        Client { transport: Arc::clone(&self.transport), user_agent: user_agent.into() }
    }

    /// The same for a part of the program: managed fields go on naming the program, as upstream's do.
    pub fn for_part(&self, part: &str) -> Client {
        self.with_user_agent(&format!("{}/{part}", self.user_agent))
    }

    pub async fn get(&self, gvr: &GroupVersionResource, ns: Option<&str>, name: &str) -> Result<Object, ClientError> {
        self.object(Method::GET, gvr.object_path(ns, name, None), None).await
    }

    pub async fn list(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        options: &ListOptions,
    ) -> Result<ObjectList, ClientError> {
        let path = format!("{}{}", gvr.collection_path(ns), options.query(false));
        let response = self.send(Method::GET, path, None).await?;
        decode_list(read_all(response).await?)
    }

    /// Opens a watch; events follow until the server ends it or the stream is dropped.
    pub async fn watch(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        options: &ListOptions,
    ) -> Result<WatchStream, ClientError> {
        let path = format!("{}{}", gvr.collection_path(ns), options.query(true));
        let response = self.send(Method::GET, path, None).await?;
        Ok(Box::pin(watch_events(response.into_body())))
    }

    pub async fn create(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        body: &Value,
    ) -> Result<Object, ClientError> {
        self.object(Method::POST, gvr.collection_path(ns), Some(body)).await
    }

    /// POST to a subresource (`binding`, `eviction`, `token`); returns the raw answer.
    pub async fn create_subresource(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, ClientError> {
        let path = gvr.object_path(ns, name, Some(subresource));
        let response = self.send(Method::POST, path, Some(("application/json", encode(body)?))).await?;
        Ok(serde_json::from_slice(&read_all(response).await?)?)
    }

    pub async fn update(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        body: &Value,
    ) -> Result<Object, ClientError> {
        self.object(Method::PUT, gvr.object_path(ns, name, subresource), Some(body)).await
    }

    pub async fn patch(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: &Patch,
    ) -> Result<Object, ClientError> {
        let mut path = gvr.object_path(ns, name, subresource);
        let (content_type, body) = match patch {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Apply { manager, force, body } => {
                path = format!("{path}?fieldManager={}&force={force}", escape(manager));
                ("application/apply-patch+yaml", body)
            }
        };
        let response = self.send(Method::PATCH, path, Some((content_type, encode(body)?))).await?;
        Ok(Object::from_json(read_all(response).await?)?)
    }

    /// Deletes; the object may live on until its finalizers and grace period are done.
    pub async fn delete(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let path = gvr.object_path(ns, name, None);
        let response = self.send(Method::DELETE, path, Some(("application/json", encode(&options.body())?))).await?;
        read_all(response).await.map(drop)
    }

    pub async fn delete_collection(
        &self,
        gvr: &GroupVersionResource,
        ns: Option<&str>,
        selector: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let path = format!("{}{}", gvr.collection_path(ns), selector.query(false));
        let response = self.send(Method::DELETE, path, Some(("application/json", encode(&options.body())?))).await?;
        read_all(response).await.map(drop)
    }

    /// Any request, for paths without a resource; failures become [`ClientError::Api`].
    pub async fn raw(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, ClientError> {
        let response = self.send(method, path.to_owned(), body.map(|body| ("application/json", body))).await?;
        read_all(response).await
    }

    async fn object(&self, method: Method, path: String, body: Option<&Value>) -> Result<Object, ClientError> {
        let body = body.map(encode).transpose()?.map(|body| ("application/json", body));
        let response = self.send(method, path, body).await?;
        Ok(Object::from_json(read_all(response).await?)?)
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        body: Option<(&str, Bytes)>,
    ) -> Result<Response<Body>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(&path)
            .header(header::USER_AGENT, &*self.user_agent)
            .header(header::ACCEPT, "application/json");
        if let Some((content_type, _)) = &body {
            request = request.header(header::CONTENT_TYPE, *content_type);
        }
        let request = request
            .body(body.map(|(_, bytes)| bytes).unwrap_or_default())
            .map_err(|error| ClientError::transport(format!("build request for {path}"), error))?;
        let response = self.transport.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(failure(response).await) }
    }
}

impl ListOptions {
    fn query(&self, watch: bool) -> String {
        let mut pairs: Vec<String> = Vec::new();
        let mut add = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                pairs.push(format!("{name}={}", escape(value)));
            }
        };
        add("labelSelector", &self.label_selector);
        add("fieldSelector", &self.field_selector);
        add("limit", &self.limit.map(|limit| limit.to_string()));
        add("continue", &self.continue_token);
        add("resourceVersion", &self.resource_version);
        add("timeoutSeconds", &self.timeout.map(|timeout| timeout.as_secs().max(1).to_string()));
        if watch {
            pairs.push("watch=true".to_owned());
            pairs.push("allowWatchBookmarks=true".to_owned());
        }
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

fn encode(body: &Value) -> Result<Bytes, ClientError> {
    Ok(Bytes::from(serde_json::to_vec(body)?))
}

/// Percent-encodes a query value.
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

async fn read_all(response: Response<Body>) -> Result<Bytes, ClientError> {
    let mut body = response.into_body();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::boxed("read response", error))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&data);
        if rest.len() > RESPONSE_BYTES_MAX {
            return Err(ClientError::transport("read response", "response too large"));
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

async fn failure(response: Response<Body>) -> ClientError {
    let code = response.status();
    match read_all(response).await {
        Ok(bytes) => match serde_json::from_slice::<Status>(&bytes) {
            Ok(status) => ClientError::Api(Box::new(status)),
            Err(_) => ClientError::transport(
                format!("server answered {code}"),
                String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).into_owned(),
            ),
        },
        Err(error) => error,
    }
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: RawListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: Option<String>,
}

fn decode_list(bytes: Bytes) -> Result<ObjectList, ClientError> {
    let list: RawList = serde_json::from_slice(&bytes)?;
    let kind = list.kind.strip_suffix("List").unwrap_or(&list.kind);
    let items = list.items.unwrap_or_default();
    let items = items.into_iter().map(|raw| item(raw, &list.api_version, kind).map(Arc::new));
    Ok(ObjectList {
        items: items.collect::<Result<_, _>>()?,
        revision: list.metadata.resource_version.parse().unwrap_or_default(),
        continue_token: list.metadata.continue_token.filter(|token| !token.is_empty()),
    })
}

/// List items may leave out their type; objects in stores always have it.
fn item(raw: &RawValue, api_version: &str, kind: &str) -> Result<Object, ClientError> {
    let object = Object::from_json(Bytes::copy_from_slice(raw.get().as_bytes()))?;
    if !object.kind().is_empty() {
        return Ok(object);
    }
    // The type is put in front, where the API server has it too, without building the object anew.
    let rest = raw.get().trim_start().strip_prefix('{').unwrap_or_default().trim_start();
    let comma = if rest.starts_with('}') { "" } else { "," };
    let (kind, api_version) = (serde_json::Value::from(kind), serde_json::Value::from(api_version));
    let typed = format!("{{\"kind\":{kind},\"apiVersion\":{api_version}{comma}{rest}");
    if let Ok(object) = Object::from_json(Bytes::from(typed)) {
        return Ok(object);
    }
    // The fields are there, but empty.
    let mut value = object.value()?;
    value["apiVersion"] = api_version;
    value["kind"] = kind;
    Ok(Object::from_value(&value)?)
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn watch_event(line: &[u8]) -> Result<WatchEvent, ClientError> {
    let event: RawEvent = serde_json::from_slice(line)?;
    let bytes = Bytes::copy_from_slice(event.object.get().as_bytes());
    if event.event_type == "ERROR" {
        return Ok(WatchEvent::Error(Box::new(serde_json::from_slice(&bytes)?)));
    }
    let object = Object::from_json(bytes)?;
    Ok(match event.event_type.as_str() {
        "ADDED" => WatchEvent::Added(Arc::new(object)),
        "DELETED" => WatchEvent::Deleted(Arc::new(object)),
        "BOOKMARK" => WatchEvent::Bookmark(object.revision),
        _ => WatchEvent::Modified(Arc::new(object)),
    })
}

/// Splits a body into lines and decodes each.
fn watch_events(body: Body) -> impl Stream<Item = Result<WatchEvent, ClientError>> + Send {
    struct State {
        body: Option<Body>,
        buffer: BytesMut,
        searched: usize,
    }
    let state = State { body: Some(body), buffer: BytesMut::new(), searched: 0 };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(offset) = state.buffer[state.searched..].iter().position(|byte| *byte == b'\n') {
                let line = state.buffer.split_to(state.searched + offset + 1);
                state.searched = 0;
                if line.len() == 1 {
                    continue;
                }
                return Some((watch_event(&line), state));
            }
            state.searched = state.buffer.len();
            let frame = match state.body.as_mut() {
                Some(body) => body.frame().await,
                None => return None,
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        state.buffer.extend_from_slice(&data);
                    }
                    if state.buffer.len() > WATCH_LINE_BYTES_MAX {
                        state.body = None;
                        state.buffer.clear();
                        state.searched = 0;
                        return Some((Err(ClientError::transport("read watch", "event too large")), state));
                    }
                }
                Some(Err(error)) => {
                    state.body = None;
                    state.buffer.clear();
                    state.searched = 0;
                    return Some((Err(ClientError::boxed("read watch", error)), state));
                }
                None => return None,
            }
        }
    })
    .fuse()
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    #[tokio::test]
    async fn watch_events_split_across_frames_are_joined() {
        let text = concat!(
            r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"3"}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9"}}}"#,
            "\n"
        );
        let frames: Vec<_> =
            text.as_bytes().chunks(7).map(|chunk| Ok(http_body::Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
        let events: Vec<_> = watch_events(body).collect().await;
        assert!(matches!(&events[0], Ok(WatchEvent::Added(object)) if object.meta.name == "a"));
        assert!(matches!(&events[1], Ok(WatchEvent::Bookmark(Revision(9)))));
        assert_eq!(events.len(), 2);
    }

    #[tokio::test]
    async fn a_status_body_becomes_an_api_error() {
        let body = serde_json::to_vec(&Status::not_found("", "pods", "x")).unwrap();
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let response = Response::builder().status(404).body(body).unwrap();
        assert!(failure(response).await.is_not_found());
    }

    #[test]
    fn list_items_get_the_type_of_the_list() {
        let json = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"a"}}]}"#;
        let list = decode_list(Bytes::from(json)).unwrap();
        assert_eq!(list.items[0].kind(), "Pod");
        assert_eq!(list.revision, Revision(5));
    }
}
