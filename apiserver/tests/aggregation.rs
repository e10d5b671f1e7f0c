//! Aggregation in front of an extension server.
//!
//! Goal: a group version of another server is served as if it were ours, with
//! the user's identity, watches and upgrades; it appears in discovery and
//! OpenAPI; when its server is gone, it is unavailable and everything else works.
//! Method: a dialer whose connections end, over in-memory pipes, at a small
//! HTTPS server that answers as an API server would and tells who asked.

#[path = "api/harness.rs"]
#[allow(dead_code)]
mod harness;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use futures_util::StreamExt;
use harness::{Harness, start_with};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use serde_json::{Value, json};
use skiff_apiserver::{
    ProxySettings, UserInfo,
    proxy::{BoxedIo, NodeDialer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

const GROUP_PATH: &str = "/apis/wardle.example.com/v1alpha1";
const PATIENCE: Duration = Duration::from_secs(60);

struct Dialer {
    connections: mpsc::Sender<DuplexStream>,
    broken: Arc<AtomicBool>,
}

#[async_trait]
impl NodeDialer for Dialer {
    async fn dial(&self, _node: &str, _port: u16) -> io::Result<BoxedIo> {
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no kubelet here"))
    }

    async fn dial_address(&self, node: Option<&str>, address: SocketAddr) -> io::Result<BoxedIo> {
        assert_eq!((node, address.to_string().as_str()), (Some("node-1"), "10.42.0.9:8443"));
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        }
        let (near, far) = duplex(16 << 10);
        self.connections.send(far).await.map_err(io::Error::other)?;
        Ok(Box::new(near))
    }
}

type ServerBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn answer(code: StatusCode, value: &Value) -> Response<ServerBody> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

/// The extension server; `proven` says that the caller showed the front-proxy certificate.
async fn extension(mut request: Request<Incoming>, proven: bool) -> Result<Response<ServerBody>, Infallible> {
    let watch = request.uri().query().is_some_and(|query| query.contains("watch=1"));
    let upgrade = request.headers().contains_key(header::UPGRADE);
    Ok(match request.uri().path() {
        GROUP_PATH => answer(
            StatusCode::OK,
            &json!({"kind": "APIResourceList", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                 "verbs": ["create", "get", "list", "watch"], "shortNames": ["fl"]}]}),
        ),
        "/openapi/v2" => answer(
            StatusCode::OK,
            &json!({"swagger": "2.0", "paths": {format!("{GROUP_PATH}/flunders"): {"get": {}}},
                "definitions": {"com.example.wardle.Flunder": {"type": "object",
                    "x-kubernetes-group-version-kind": [{"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"}]}}}),
        ),
        "/openapi/v3" => answer(
            StatusCode::OK,
            &json!({"paths": {"apis/wardle.example.com/v1alpha1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=A"}}}),
        ),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => answer(StatusCode::OK, &json!({"openapi": "3.0.0"})),
        path if path.ends_with("/flunders") && watch => {
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from("{\"type\":\"ADDED\"}\n")))]);
            Response::new(StreamBody::new(first.chain(futures_util::stream::pending())).boxed_unsync())
        }
        path if path.ends_with("/echo") && upgrade => {
            let switching = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(switching.await.unwrap());
                let mut word = [0; 4];
                io.read_exact(&mut word).await.unwrap();
                io.write_all(&word).await.unwrap();
                io.shutdown().await.unwrap();
            });
            let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, &Value::Null);
            response.headers_mut().insert(header::CONNECTION, "Upgrade".parse().unwrap());
            response.headers_mut().insert(header::UPGRADE, "echo".parse().unwrap());
            response
        }
        _ => {
            let all = |name: &str| -> Vec<String> {
                request.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
            };
            let mut said = json!({"proven": proven, "method": request.method().as_str(), "uri": request.uri().to_string(),
                "user": all("x-remote-user"), "groups": all("x-remote-group"), "scopes": all("x-remote-extra-scopes"),
                "authorization": all("authorization")});
            let body = request.into_body().collect().await.unwrap().to_bytes();
            said["body"] = String::from_utf8_lossy(&body).into_owned().into();
            answer(StatusCode::CREATED, &said)
        }
    })
}

async fn serve(mut connections: mpsc::Receiver<DuplexStream>, tls: TlsAcceptor) {
    while let Some(io) = connections.recv().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            // A client that does not trust this server leaves; that is part of the test.
            let Ok(io) = tls.accept(io).await else { return };
            let proven = io.get_ref().1.peer_certificates().is_some();
            let service = service_fn(move |request| extension(request, proven));
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(io), service).with_upgrades().await;
        });
    }
}

struct Pki {
    server: TlsAcceptor,
    bundle: String,
    identity: Arc<CertifiedKey>,
}

fn pki() -> Pki {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (serving, front) = (authority("serving"), authority("front-proxy"));
    let key = KeyPair::generate().unwrap();
    let names = vec!["sample-api.wardle.svc".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &serving).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(front.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let private = |key: &KeyPair| PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![leaf.der().clone()], private(&key))
        .unwrap();
    let client_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "system:auth-proxy");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let client: CertificateDer<'static> = params.signed_by(&client_key, &front).unwrap().der().clone();
    let signing = rustls::crypto::ring::sign::any_supported_type(&private(&client_key)).unwrap();
    Pki {
        server: Arc::new(server).into(),
        bundle: base64::engine::general_purpose::STANDARD.encode(serving.pem()),
        identity: Arc::new(CertifiedKey::new(vec![client], signing)),
    }
}

/// A server with the extension behind it; the switch breaks the way there.
async fn start() -> (Harness, Pki, Arc<AtomicBool>) {
    let pki = pki();
    let (connections, accepted) = mpsc::channel(16);
    tokio::spawn(serve(accepted, pki.server.clone()));
    let broken = Arc::new(AtomicBool::new(false));
    let kubelet_tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let settings = ProxySettings {
        dialer: Arc::new(Dialer { connections, broken: Arc::clone(&broken) }),
        kubelet_tls: Arc::new(kubelet_tls),
        aggregator_identity: Some(Arc::clone(&pki.identity)),
    };
    (start_with(Some(settings)).await, pki, broken)
}

const NAME: &str = "v1alpha1.wardle.example.com";

fn api_service(bundle: &str) -> Value {
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME}, "spec": {
        "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "caBundle": bundle, "service": {"namespace": "wardle", "name": "sample-api", "port": 7443}}})
}

async fn with_service(harness: &Harness) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "wardle"}});
    assert_eq!(harness.post("/api/v1/namespaces", namespace).await.code, 201);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample-api"}, "spec": {
        "ports": [{"port": 7443, "targetPort": 8443}]}});
    assert_eq!(harness.post("/api/v1/namespaces/wardle/services", service).await.code, 201);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "sample-api-1", "labels": {"kubernetes.io/service-name": "sample-api"}},
        "ports": [{"name": "", "port": 8443}],
        "endpoints": [{"addresses": ["10.42.0.9"], "nodeName": "node-1", "conditions": {"ready": true}}]});
    assert_eq!(harness.post("/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices", slice).await.code, 201);
}

/// Waits until the condition of the APIService has this reason.
async fn until(harness: &Harness, reason: &str) -> Value {
    let store = harness.server.snapshot();
    let resource = skiff_api::GroupResource::new("apiregistration.k8s.io", "apiservices");
    let store = store.store(&resource).unwrap();
    let condition = |store: &skiff_client::Store| {
        let value = store.get("", NAME)?.value().ok()?;
        let condition = value["status"]["conditions"][0].clone();
        (condition["reason"] == reason).then_some(condition)
    };
    let reached = store.wait_until(|store| condition(store).is_some());
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        panic!("no {reason}: {:?}", store.get("", NAME).map(|object| object.value()));
    }
    condition(&store).unwrap()
}

fn jane() -> UserInfo {
    let mut user = UserInfo::new("jane", &["system:masters", "devs"]);
    user.extra.insert("scopes".to_owned(), vec!["view".to_owned()]);
    user
}

#[tokio::test]
async fn requests_reach_the_other_server_with_the_users_identity() {
    let (harness, pki, _) = start().await;
    with_service(&harness).await;
    assert_eq!(harness.post("/apis/apiregistration.k8s.io/v1/apiservices", api_service(&pki.bundle)).await.code, 201);
    assert_eq!(until(&harness, "Passed").await["message"], "all checks passed");

    let path = format!("{GROUP_PATH}/namespaces/n/flunders?dryRun=All");
    let headers = [("authorization", "Bearer secret"), ("x-remote-user", "root")];
    let said = harness.ask_as(jane(), "POST", &path, &headers, Bytes::from("{\"a\":1}")).await;
    assert_eq!(said.code, 201);
    assert_eq!(said.body["proven"], true, "the front-proxy certificate was shown");
    assert_eq!((&said.body["method"], &said.body["uri"]), (&json!("POST"), &json!(path)));
    assert_eq!(said.body["user"], json!(["jane"]));
    assert_eq!(said.body["groups"], json!(["system:masters", "devs", "system:authenticated"]));
    assert_eq!(said.body["scopes"], json!(["view"]));
    assert_eq!(said.body["authorization"], json!([]));
    assert_eq!(said.body["body"], "{\"a\":1}");

    let mut watch = harness.watch(&format!("{GROUP_PATH}/flunders?watch=1"), "application/json").await;
    assert_eq!(watch.next().await.unwrap()["type"], "ADDED");
    let refused = harness.ask_as(UserInfo::new("nobody", &[]), "GET", &path, &[], Bytes::new()).await;
    assert_eq!(refused.code, 403, "authorization is ours");
}

#[tokio::test]
async fn discovery_and_openapi_show_the_other_server() {
    let (harness, pki, _) = start().await;
    with_service(&harness).await;
    assert_eq!(harness.post("/apis/apiregistration.k8s.io/v1/apiservices", api_service(&pki.bundle)).await.code, 201);
    until(&harness, "Passed").await;
    let groups = harness.get("/apis").await.body;
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "wardle.example.com"));
    assert_eq!(harness.get("/apis/wardle.example.com").await.body["preferredVersion"]["version"], "v1alpha1");
    assert_eq!(harness.get(GROUP_PATH).await.body["resources"][0]["name"], "flunders");
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let aggregated = harness.ask("GET", "/apis", &[accept], Bytes::new()).await.body;
    let items = aggregated["items"].as_array().unwrap();
    let group = items.iter().find(|item| item["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(group["versions"][0]["freshness"], "Current");
    assert_eq!(group["versions"][0]["resources"][0]["shortNames"], json!(["fl"]));

    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let index = harness.get("/openapi/v3").await.body;
            let v2 = harness.get("/openapi/v2").await.body;
            if let (Some(url), true) = (
                index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"].as_str(),
                v2["definitions"]["com.example.wardle.Flunder"].is_object(),
            ) {
                return url.to_owned();
            }
            tokio::task::yield_now().await;
        }
    });
    let url = found.await.expect("OpenAPI is merged");
    assert_eq!(harness.get(&url).await.body["openapi"], "3.0.0");
}

#[tokio::test]
async fn an_unavailable_server_is_named_with_its_reason_and_the_rest_works() {
    let (harness, pki, broken) = start().await;
    assert_eq!(harness.post("/apis/apiregistration.k8s.io/v1/apiservices", api_service(&pki.bundle)).await.code, 201);
    let missing = until(&harness, "ServiceNotFound").await;
    assert_eq!(missing["message"], "service/sample-api in \"wardle\" is not present");
    assert_eq!(harness.get(&format!("{GROUP_PATH}/flunders")).await.code, 503);
    broken.store(true, Ordering::SeqCst);
    with_service(&harness).await;
    let failed = until(&harness, "FailedDiscoveryCheck").await;
    assert!(failed["message"].as_str().unwrap().ends_with("connection refused"), "{failed}");
    let answer = harness.get(&format!("{GROUP_PATH}/flunders")).await;
    assert_eq!((answer.code, answer.body), (503, json!("service unavailable\n")));
    assert_eq!(harness.get("/apis/apps/v1").await.code, 200);
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let aggregated = harness.ask("GET", "/apis", &[accept], Bytes::new()).await.body;
    let items = aggregated["items"].as_array().unwrap();
    let group = items.iter().find(|item| item["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(group["versions"][0]["freshness"], "Stale");
    // The server comes back: the pauses between tries are short at first.
    broken.store(false, Ordering::SeqCst);
    until(&harness, "Passed").await;
    assert_eq!(harness.get(&format!("{GROUP_PATH}/flunders")).await.code, 201);
    assert_eq!(
        harness.delete(&format!("/apis/apiregistration.k8s.io/v1/apiservices/{NAME}"), Value::Null).await.code,
        200
    );
    assert_eq!(harness.get(&format!("{GROUP_PATH}/flunders")).await.code, 404);
}

#[tokio::test]
async fn a_server_with_a_wrong_certificate_gets_no_requests() {
    let (harness, _, _) = start().await;
    with_service(&harness).await;
    let stranger = pki().bundle;
    assert_eq!(harness.post("/apis/apiregistration.k8s.io/v1/apiservices", api_service(&stranger)).await.code, 201);
    until(&harness, "Passed").await;
    let answer = harness.get(&format!("{GROUP_PATH}/flunders")).await;
    assert_eq!(answer.code, 503, "{:?}", answer.body);
    assert!(answer.body.as_str().unwrap().contains("certificate"), "{:?}", answer.body);
}

#[tokio::test]
async fn what_is_served_here_has_local_api_services() {
    let (harness, _, _) = start().await;
    let store = harness.server.snapshot();
    let store = store.store(&skiff_api::GroupResource::new("apiregistration.k8s.io", "apiservices")).unwrap();
    let reached = store.wait_until(|store| store.get("", "v1.apps").is_some() && store.get("", "v1.").is_some());
    tokio::time::timeout(PATIENCE, reached).await.expect("APIServices are made");
    let apps = harness.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").await.body;
    assert_eq!(apps["spec"]["groupPriorityMinimum"], 17800);
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    let condition = &apps["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("Local")));
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tops.spin.example"}, "spec": {"group": "spin.example", "scope": "Namespaced",
            "names": {"plural": "tops", "singular": "top", "kind": "Top", "listKind": "TopList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(harness.post(definitions, definition).await.code, 201);
    let reached = store.wait_until(|store| store.get("", "v1.spin.example").is_some());
    tokio::time::timeout(PATIENCE, reached).await.expect("an APIService of the definition");
    assert_eq!(harness.delete(&format!("{definitions}/tops.spin.example"), Value::Null).await.code, 200);
    let gone = store.wait_until(|store| store.get("", "v1.spin.example").is_none());
    tokio::time::timeout(PATIENCE, gone).await.expect("the APIService goes with the definition");
}
