//! A small API in memory behind the client's transport: objects by path, list,
//! watch, create, replace, patch and delete. No validation; patches merge maps,
//! replace lists, and merge conditions by type.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use skiff_api::Status;
use skiff_client::{Body, ClientError, Transport};
use tokio::sync::broadcast;

#[derive(Clone, Debug)]
struct Event {
    collection: String,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// Full path to object.
    objects: BTreeMap<String, Value>,
}

/// The API; cheap to clone.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Event>,
}

impl FakeApi {
    pub fn new() -> FakeApi {
        FakeApi { state: Arc::default(), events: broadcast::Sender::new(4096) }
    }

    /// Puts an object in place as a user would.
    pub fn create(&self, collection: &str, object: Value) -> Value {
        let mut object = object;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if let Some(namespace) = namespace_of(collection) {
            object["metadata"]["namespace"] = namespace.into();
        }
        object["metadata"]["uid"] = skiff_api::Uid::random().0.into();
        object["metadata"]["generation"] = 1.into();
        object["metadata"]["creationTimestamp"] = jiff::Timestamp::now().to_string().into();
        self.store(&format!("{collection}/{name}"), object, "ADDED")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// Changes an object in place.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.get(path).expect("object exists");
        change(&mut object);
        self.store(path, object, "MODIFIED")
    }

    /// Begins a graceful deletion of a pod.
    pub fn delete_gracefully(&self, path: &str, seconds: i64) {
        self.edit(path, |object| {
            object["metadata"]["deletionTimestamp"] = jiff::Timestamp::now().to_string().into();
            object["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
        });
    }

    fn store(&self, path: &str, mut object: Value, kind: &'static str) -> Value {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.objects.insert(path.to_owned(), object.clone());
        let collection = path.rsplit_once('/').unwrap().0.to_owned();
        let _ = self.events.send(Event { collection, kind, object: object.clone() });
        object
    }

    /// Takes an object away at once.
    pub fn remove(&self, path: &str) -> Option<Value> {
        let mut state = self.state.lock().unwrap();
        let mut object = state.objects.remove(path)?;
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let collection = path.rsplit_once('/').unwrap().0.to_owned();
        let _ = self.events.send(Event { collection, kind: "DELETED", object: object.clone() });
        Some(object)
    }

    fn answer(&self, request: &Request<Bytes>) -> Result<Response<Body>, Box<Status>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
        let missing = || Box::new(Status::not_found("", "objects", &path));
        match *request.method() {
            Method::GET if query.contains("watch=true") => Ok(self.watch(&path, &query)),
            Method::GET if is_collection(&path) => Ok(reply(&self.list(&path, &query))),
            Method::GET => Ok(reply(&self.get(&path).ok_or_else(missing)?)),
            Method::POST if path.ends_with("/token") => {
                let expires = jiff::Timestamp::now() + std::time::Duration::from_secs(3600);
                Ok(reply(&json!({"status": {"token": "a-token", "expirationTimestamp": expires.to_string()}})))
            }
            Method::POST => {
                let name = body["metadata"]["name"].as_str().map(str::to_owned);
                let name = name.unwrap_or_else(|| skiff_api::Uid::random().0);
                if self.get(&format!("{path}/{name}")).is_some() {
                    return Err(Box::new(Status::already_exists("", "objects", &name)));
                }
                let mut body = body;
                body["metadata"]["name"] = name.into();
                Ok(reply(&self.create(&path, body)))
            }
            Method::PUT => {
                self.get(&path).ok_or_else(missing)?;
                Ok(reply(&self.store(&path, body, "MODIFIED")))
            }
            Method::PATCH => {
                let path = path.trim_end_matches("/status");
                let mut object = self.get(path).ok_or_else(missing)?;
                if let Some(uid) = body["metadata"]["uid"].as_str()
                    && object["metadata"]["uid"] != uid
                {
                    return Err(Box::new(Status::conflict("", "objects", path, "uid")));
                }
                merge(&mut object, &body);
                Ok(reply(&self.store(path, object, "MODIFIED")))
            }
            Method::DELETE => {
                let object = self.get(&path).ok_or_else(missing)?;
                let wanted = body["preconditions"]["uid"].as_str();
                if wanted.is_some_and(|uid| object["metadata"]["uid"] != uid) {
                    return Err(Box::new(Status::conflict("", "objects", &path, "uid")));
                }
                self.remove(&path);
                Ok(reply(&json!({"kind": "Status", "status": "Success"})))
            }
            _ => Err(Box::new(Status::no_route())),
        }
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let state = self.state.lock().unwrap();
        let collection = |full: &str| full.rsplit_once('/').unwrap().0.to_owned();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|(full, object)| in_collection(&collection(full), path) && selected(object, query))
            .map(|(_, object)| object)
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.revision.to_string()}, "items": items})
    }

    fn watch(&self, path: &str, query: &str) -> Response<Body> {
        let after: u64 = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="))
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        // Subscribed before the stored objects are read, so that nothing is lost in between.
        let live = self.events.subscribe();
        let revision = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        let (stored, seen) = {
            let state = self.state.lock().unwrap();
            let collection = |full: &str| full.rsplit_once('/').unwrap().0.to_owned();
            let stored: Vec<Event> = state
                .objects
                .iter()
                .filter(|(full, object)| in_collection(&collection(full), path) && revision(object) > after)
                .map(|(full, object)| Event { collection: collection(full), kind: "MODIFIED", object: object.clone() })
                .collect();
            (stored, state.revision)
        };
        let (path, query) = (path.to_owned(), query.to_owned());
        let live = stream::unfold(live, |mut live| async move { live.recv().await.ok().map(|event| (event, live)) });
        let live = live.filter(move |event| std::future::ready(revision(&event.object) > seen));
        let frames = stream::iter(stored).chain(live).filter_map(move |event| {
            let fits = in_collection(&event.collection, &path) && selected(&event.object, &query);
            let line = format!("{}\n", json!({"type": event.kind, "object": event.object}));
            std::future::ready(fits.then(|| Ok(http_body::Frame::data(Bytes::from(line)))))
        });
        Response::new(StreamBody::new(Box::pin(frames)).boxed_unsync())
    }
}

fn namespace_of(collection: &str) -> Option<&str> {
    let mut parts = collection.split('/').skip_while(|part| *part != "namespaces");
    parts.next()?;
    parts.next()
}

/// Collection paths have an odd distance from the version.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let version = if parts[0] == "api" { 2 } else { 3 };
    let rest = &parts[version.min(parts.len())..];
    let rest = if rest.first() == Some(&"namespaces") && rest.len() > 2 { &rest[2..] } else { rest };
    rest.len() == 1
}

fn in_collection(collection: &str, wanted: &str) -> bool {
    if collection == wanted {
        return true;
    }
    // All namespaces: the same resource below any of them.
    let (Some(resource), Some(wanted_resource)) = (collection.rsplit('/').next(), wanted.rsplit('/').next()) else {
        return false;
    };
    !wanted.contains("/namespaces/") && collection.contains("/namespaces/") && resource == wanted_resource
}

fn selected(object: &Value, query: &str) -> bool {
    let Some(selector) = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=")) else { return true };
    let selector = selector.replace("%3D", "=");
    let Some((field, value)) = selector.split_once('=') else { return true };
    let found = field.split('.').fold(object, |value, part| &value[part]);
    found == value
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        match value {
            Value::Null => {
                target.as_object_mut().unwrap().remove(key);
            }
            Value::Object(_) => merge(&mut target[key], value),
            Value::Array(entries) if key == "conditions" => {
                let mut all = target[key].as_array().cloned().unwrap_or_default();
                for entry in entries {
                    match all.iter_mut().find(|have| have["type"] == entry["type"]) {
                        Some(have) => merge(have, entry),
                        None => all.push(entry.clone()),
                    }
                }
                target[key] = all.into();
            }
            Value::Array(entries) => {
                let kept: Vec<Value> = entries.iter().filter(|entry| entry.get("$patch").is_none()).cloned().collect();
                target[key] = kept.into();
            }
            other => target[key] = other.clone(),
        }
    }
}

fn reply(value: &Value) -> Response<Body> {
    let bytes = Bytes::from(serde_json::to_vec(value).unwrap());
    Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
}

#[async_trait]
impl Transport for FakeApi {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        match self.answer(&request) {
            Ok(response) => Ok(response),
            Err(status) => {
                let mut response = reply(&serde_json::to_value(&*status).unwrap());
                *response.status_mut() = http::StatusCode::from_u16(status.code).unwrap();
                Ok(response)
            }
        }
    }
}
