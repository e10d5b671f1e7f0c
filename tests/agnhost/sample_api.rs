//! A small API server for aggregation: flunders of `wardle.example.com/v1alpha1`, kept in memory.
//!
//! `agnhost sample-apiserver --tls-cert-file F --tls-private-key-file F --requestheader-client-ca-file F [--secure-port N]`.
//! Who asks is taken from the front proxy's headers and stored in each object.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{flag, tls};

const VERSION: &str = "wardle.example.com/v1alpha1";
const PREFIX: &str = "/apis/wardle.example.com/v1alpha1";

#[derive(Default)]
struct Flunders {
    revision: u64,
    /// By namespace and name.
    objects: BTreeMap<(String, String), Value>,
}

pub async fn serve(words: &[String]) -> Result<()> {
    let file = |name: &str| flag(words, name).with_context(|| format!("{name} is missing"));
    let front_proxy = file("--requestheader-client-ca-file")?;
    let acceptor = tls::acceptor(&file("--tls-cert-file")?, &file("--tls-private-key-file")?, Some(&front_proxy))?;
    let port: u16 = flag(words, "--secure-port").map_or(Ok(443), |port| port.parse())?;
    let listener = TcpListener::bind(("::", port)).await?;
    println!("serving {VERSION} on {port}");
    let flunders = Arc::new(Mutex::new(Flunders::default()));
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, flunders) = (acceptor.clone(), Arc::clone(&flunders));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, Arc::clone(&flunders)));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                println!("{error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    flunders: Arc<Mutex<Flunders>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let user = parts.headers.get("x-remote-user").and_then(|user| user.to_str().ok()).unwrap_or_default().to_owned();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    println!("{} {} for {user}", parts.method, parts.uri);
    let mut flunders = flunders.lock().unwrap_or_else(PoisonError::into_inner);
    let (code, value) = flunders.route(&parts.method, parts.uri.path(), &user, &body);
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn status(code: StatusCode, reason: &str, message: String) -> (StatusCode, Value) {
    let state = if code.is_success() { "Success" } else { "Failure" };
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": state, "reason": reason, "message": message, "code": code.as_u16()}),
    )
}

impl Flunders {
    fn route(&mut self, method: &Method, path: &str, user: &str, body: &[u8]) -> (StatusCode, Value) {
        let segments: Vec<&str> =
            path.strip_prefix(PREFIX).unwrap_or_default().split('/').filter(|part| !part.is_empty()).collect();
        match (path, segments.as_slice()) {
            ("/apis", _) => (StatusCode::OK, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})),
            ("/apis/wardle.example.com", _) => (StatusCode::OK, group()),
            (PREFIX, _) => (StatusCode::OK, resources()),
            (_, ["flunders"]) => (StatusCode::OK, self.list(None)),
            (_, ["namespaces", namespace, "flunders"]) => self.collection(method, namespace, user, body),
            (_, ["namespaces", namespace, "flunders", name]) => self.object(method, namespace, name, body),
            _ => {
                status(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource".to_owned())
            }
        }
    }

    fn list(&self, namespace: Option<&str>) -> Value {
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|((of, _), _)| namespace.is_none_or(|namespace| of == namespace))
            .map(|(_, object)| object)
            .collect();
        json!({"kind": "FlunderList", "apiVersion": VERSION, "metadata": {"resourceVersion": self.revision.to_string()}, "items": items})
    }

    fn collection(&mut self, method: &Method, namespace: &str, user: &str, body: &[u8]) -> (StatusCode, Value) {
        match *method {
            Method::GET => (StatusCode::OK, self.list(Some(namespace))),
            Method::DELETE => {
                self.objects.retain(|(of, _), _| of != namespace);
                (StatusCode::OK, self.list(Some(namespace)))
            }
            Method::POST => {
                let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
                    return status(StatusCode::BAD_REQUEST, "BadRequest", "not JSON".to_owned());
                };
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let key = (namespace.to_owned(), name.clone());
                if self.objects.contains_key(&key) {
                    return status(
                        StatusCode::CONFLICT,
                        "AlreadyExists",
                        format!("flunders.wardle.example.com {name:?} already exists"),
                    );
                }
                self.revision += 1;
                object["apiVersion"] = VERSION.into();
                object["kind"] = "Flunder".into();
                object["metadata"]["namespace"] = namespace.into();
                object["metadata"]["uid"] = format!("00000000-0000-0000-0000-{:012}", self.revision).into();
                object["metadata"]["resourceVersion"] = self.revision.to_string().into();
                object["metadata"]["annotations"]["wardle.example.com/made-by"] = user.into();
                self.objects.insert(key, object.clone());
                (StatusCode::CREATED, object)
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not allowed".to_owned()),
        }
    }

    fn object(&mut self, method: &Method, namespace: &str, name: &str, body: &[u8]) -> (StatusCode, Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(object) = self.objects.get(&key) else {
            return status(
                StatusCode::NOT_FOUND,
                "NotFound",
                format!("flunders.wardle.example.com {name:?} not found"),
            );
        };
        match *method {
            Method::GET => (StatusCode::OK, object.clone()),
            Method::PUT => match serde_json::from_slice::<Value>(body) {
                Ok(mut new) => {
                    self.revision += 1;
                    new["metadata"]["resourceVersion"] = self.revision.to_string().into();
                    self.objects.insert(key, new.clone());
                    (StatusCode::OK, new)
                }
                Err(_) => status(StatusCode::BAD_REQUEST, "BadRequest", "not JSON".to_owned()),
            },
            Method::DELETE => {
                self.objects.remove(&key);
                status(StatusCode::OK, "", String::new())
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not allowed".to_owned()),
        }
    }
}

fn group() -> Value {
    let version = json!({"groupVersion": VERSION, "version": "v1alpha1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": "wardle.example.com", "versions": [version], "preferredVersion": version})
}

fn resources() -> Value {
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": [{
        "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
        "verbs": ["create", "delete", "deletecollection", "get", "list", "update"]}]})
}
