//! The proxy in front of a fake node.
//!
//! Goal: what a client sends reaches the kubelet or pod translated and without its credentials, and what comes back is passed on,
//! streamed and joined. Method: a dialer whose connections are in-memory pipes; at their other end a small HTTP server
//! with the node's TLS that reports what it was asked.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object};
use skiff_apiserver::proxy::{BoxedIo, Call, NodeDialer, Proxy, ProxyConfig};
use skiff_client::{Body, Snapshot, StoreWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

const NODE: &str = "node-1";

/// A connection as the fake node gets it.
struct Dialled {
    io: DuplexStream,
    /// `node port` or `node address`.
    target: String,
    is_kubelet: bool,
}

struct FakeDialer(mpsc::Sender<Dialled>);

impl FakeDialer {
    async fn send(&self, target: String, is_kubelet: bool) -> io::Result<BoxedIo> {
        if target.ends_with(" 9") || target.ends_with(":9") {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        }
        let (near, io) = duplex(4096);
        self.0.send(Dialled { io, target, is_kubelet }).await.map_err(io::Error::other)?;
        Ok(Box::new(near))
    }
}

#[async_trait]
impl NodeDialer for FakeDialer {
    async fn dial(&self, node: &str, port: u16) -> io::Result<BoxedIo> {
        self.send(format!("{node} {port}"), port == 10250).await
    }

    async fn dial_address(&self, node: Option<&str>, address: SocketAddr) -> io::Result<BoxedIo> {
        self.send(format!("{} {address}", node.unwrap_or("-")), false).await
    }
}

type FakeBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<FakeBody> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// What the node and its pods answer.
async fn answer(target: String, mut request: Request<Incoming>) -> Result<Response<FakeBody>, Infallible> {
    let path = request.uri().path().to_owned();
    let asked = format!("{} {} {target}", request.method(), request.uri());
    Ok(match path.as_str() {
        "/containerLogs/shop/waiting/app" => {
            text(StatusCode::BAD_REQUEST, r#"container "app" in pod "waiting" is waiting to start: ContainerCreating"#)
        }
        // Endless: the client has to see the first line nevertheless.
        path if path.starts_with("/containerLogs/") => {
            let lines = futures_util::stream::iter([Ok(Frame::data(Bytes::from(asked)))]);
            let endless = lines.chain(futures_util::stream::pending());
            Response::new(StreamBody::new(endless).boxed_unsync())
        }
        path if path.starts_with("/exec/") => {
            let upgrade = hyper::upgrade::on(&mut request);
            let protocol = request.headers()["x-stream-protocol-version"].clone();
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.expect("upgrades"));
                // Reads to the end, then answers: works only if half-close is kept.
                let mut input = Vec::new();
                io.read_to_end(&mut input).await.expect("reads");
                io.write_all(format!("{asked} read {}", input.len()).as_bytes()).await.expect("writes");
                io.shutdown().await.expect("closes");
            });
            let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
            response.headers_mut().insert(header::CONNECTION, "Upgrade".parse().expect("a header"));
            response.headers_mut().insert(header::UPGRADE, "SPDY/3.1".parse().expect("a header"));
            response.headers_mut().insert("x-stream-protocol-version", protocol);
            response
        }
        "/redirect" => {
            let mut response = text(StatusCode::FOUND, "");
            response.headers_mut().insert(header::LOCATION, "/login".parse().expect("a header"));
            response
        }
        "/page" => {
            let mut response = text(StatusCode::OK, r#"<a href="/next">next</a>"#);
            response.headers_mut().insert(header::CONTENT_TYPE, "text/html".parse().expect("a header"));
            response
        }
        _ => {
            let headers = format!("{:?}", request.headers());
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            text(StatusCode::OK, format!("{asked} {} {headers}", String::from_utf8_lossy(&body)))
        }
    })
}

async fn node(mut connections: mpsc::Receiver<Dialled>, tls: TlsAcceptor) {
    let mut tasks = JoinSet::new();
    while let Some(Dialled { io, target, is_kubelet }) = connections.recv().await {
        let tls = tls.clone();
        tasks.spawn(async move {
            let service = service_fn(move |request| answer(target.clone(), request));
            let builder = hyper::server::conn::http1::Builder::new();
            // A client that leaves is part of the test.
            let _ = if is_kubelet {
                let io = tls.accept(io).await.expect("the API server shows its certificate");
                builder.serve_connection(TokioIo::new(io), service).with_upgrades().await
            } else {
                builder.serve_connection(TokioIo::new(io), service).with_upgrades().await
            };
        });
    }
}

/// Both ends of the kubelet's TLS.
fn tls() -> (TlsAcceptor, Arc<ClientConfig>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let leaf = |common_name: &str| -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec![NODE.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &ca).expect("a certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
    let (chain, key) = leaf("system:node:node-1");
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("a server");
    let (chain, key) = leaf("system:kube-apiserver");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a client");
    (Arc::new(server).into(), Arc::new(client))
}

struct World {
    proxy: Arc<Proxy>,
    token: CancellationToken,
    tasks: JoinSet<()>,
    _stores: Vec<StoreWriter>,
}

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": NODE, "containers": [{"name": "app"}]}, "status": {"podIP": ip},
    })
}

fn world() -> World {
    let objects = [
        ("", "nodes", vec![json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})]),
        ("", "pods", vec![pod("web", "10.42.0.5"), pod("waiting", "10.42.0.6")]),
        (
            "",
            "services",
            vec![json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"ports": [{"name": "http", "port": 80}]},
            })],
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            vec![json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["10.42.0.5"], "nodeName": NODE}],
            })],
        ),
    ];
    let snapshot = Snapshot::new();
    let mut stores = Vec::new();
    for (group, resource, values) in objects {
        let (writer, store) = skiff_client::store::store(&[]);
        for value in values {
            writer.apply(Arc::new(Object::from_value(&value).expect("an object")));
        }
        snapshot.insert(GroupResource::new(group, resource), store);
        stores.push(writer);
    }
    let (server_tls, kubelet_tls) = tls();
    let (sender, connections) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(node(connections, server_tls));
    let token = CancellationToken::new();
    let config = ProxyConfig { dialer: Arc::new(FakeDialer(sender)), kubelet_tls, snapshot };
    let proxy = Arc::new(Proxy::new(config, token.clone()).expect("a proxy"));
    World { proxy, token, tasks, _stores: stores }
}

const POD_LOG: Call<'static> = call("pods", "log", "web");
const POD_EXEC: Call<'static> = call("pods", "exec", "web");

const fn call(resource: &'static str, subresource: &'static str, name: &'static str) -> Call<'static> {
    Call { resource, subresource, namespace: "shop", name }
}

impl World {
    async fn get(&self, call: Call<'_>, uri: &str) -> Result<Response<Body>, skiff_api::Status> {
        let request = Request::get(uri)
            .header(header::HOST, "api.example:6443")
            .header(header::AUTHORIZATION, "Bearer secret")
            .header("impersonate-user", "root")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        self.proxy.serve(call, request).await
    }

    async fn text(&self, call: Call<'_>, uri: &str) -> String {
        let body = self.get(call, uri).await.expect("an answer").into_body();
        String::from_utf8(body.collect().await.expect("a body").to_bytes().to_vec()).expect("text")
    }

    async fn stop(mut self) {
        self.token.cancel();
        self.proxy.stopped().await;
        self.tasks.shutdown().await;
    }
}

#[tokio::test]
async fn logs_are_streamed_from_the_kubelet_of_the_pods_node() {
    let world = world();
    let response = world.get(POD_LOG, "/api/v1/namespaces/shop/pods/web/log?follow=true&tailLines=3").await;
    let mut body = response.expect("an answer").into_body();
    let frame = body.frame().await.expect("a first piece").expect("no error");
    let first = frame.into_data().expect("bytes");
    assert_eq!(first, "GET /containerLogs/shop/web/app?follow=true&tailLines=3 node-1 10250");
    // Dropping an endless log ends its connection; stopping would hang otherwise.
    drop(body);
    world.stop().await;
}

#[tokio::test]
async fn refusals_of_the_kubelet_become_a_status() {
    let world = world();
    let status = world.get(call("pods", "log", "waiting"), "/x").await.expect_err("not ready");
    assert_eq!(status.code, 400);
    assert_eq!(status.message, r#"container "app" in pod "waiting" is waiting to start: ContainerCreating"#);
    let status = world.get(call("pods", "log", "nope"), "/x").await.expect_err("unknown");
    assert_eq!((status.code, status.message.as_str()), (404, r#"pods "nope" not found"#));
    world.stop().await;
}

/// Sends an upgrade through an HTTP server, as clients do, so that the proxy gets a real one to take over.
#[tokio::test]
async fn exec_is_joined_both_ways_and_half_close_is_kept() {
    let world = world();
    let (near, far) = duplex(1000);
    let proxy = world.proxy.clone();
    let server = tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let proxy = proxy.clone();
            async move { Ok::<_, Infallible>(proxy.serve(POD_EXEC, request).await.expect("switches")) }
        });
        let builder = hyper::server::conn::http1::Builder::new();
        builder.serve_connection(TokioIo::new(far), service).with_upgrades().await
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.expect("a client");
    let client = tokio::spawn(connection.with_upgrades());
    let request = Request::post("/api/v1/namespaces/shop/pods/web/exec?command=cat&stdin=true&stdout=true")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.expect("upgrades"));
    io.write_all(&[7; 100_000]).await.expect("writes");
    io.shutdown().await.expect("closes its direction");
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.expect("reads");
    assert_eq!(answer, "POST /exec/shop/web/app?input=1&output=1&command=cat node-1 10250 read 100000");
    server.await.expect("joins").expect("no error");
    client.await.expect("joins").expect("no error");
    world.stop().await;
}

#[tokio::test]
async fn a_pod_is_proxied_with_its_path_and_without_credentials() {
    let world = world();
    let prefix = "/api/v1/namespaces/shop/pods/web:8080/proxy";
    let web = call("pods", "proxy", "web:8080");
    let text = world.text(web, &format!("{prefix}/a%2Fb/?q=1&r")).await;
    assert!(text.starts_with("GET /a%2Fb/?q=1&r node-1 10.42.0.5:8080"), "{text}");
    assert!(!text.contains("secret") && !text.contains("root"), "{text}");
    assert!(text.contains(r#""host": "10.42.0.5:8080""#), "{text}");
    assert!(text.contains(r#""x-forwarded-host": "api.example:6443""#), "{text}");

    let page = world.text(web, &format!("{prefix}/page")).await;
    assert_eq!(page, format!(r#"<a href="{prefix}/next">next</a>"#));
    let redirect = world.get(web, &format!("{prefix}/redirect")).await.expect("an answer");
    assert_eq!(redirect.headers()[header::LOCATION], format!("{prefix}/login"));
    let slash = world.get(web, &format!("{prefix}?x=1")).await.expect("an answer");
    assert_eq!(slash.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(slash.headers()[header::LOCATION], format!("{prefix}/?x=1"));
    world.stop().await;
}

#[tokio::test]
async fn bodies_and_methods_reach_a_service() {
    let world = world();
    let request = Request::put("/api/v1/namespaces/shop/services/web:http/proxy/items")
        .body(Full::new(Bytes::from_static(b"payload")))
        .expect("a request");
    let response = world.proxy.serve(call("services", "proxy", "web:http"), request).await.expect("an answer");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(body.starts_with(b"PUT /items node-1 10.42.0.5:8080 payload"), "{body:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_node_is_its_kubelet_unless_another_port_is_named() {
    let world = world();
    let node = |name| Call { resource: "nodes", subresource: "proxy", namespace: "", name };
    let text = world.text(node(NODE), "/api/v1/nodes/node-1/proxy/metrics").await;
    assert!(text.starts_with("GET /metrics node-1 10250"), "{text}");
    let text = world.text(node("node-1:1234"), "/api/v1/nodes/node-1:1234/proxy/x").await;
    assert!(text.starts_with("GET /x node-1 1234"), "{text}");
    world.stop().await;
}

#[tokio::test]
async fn unreachable_backends_are_unavailable() {
    let world = world();
    let status = world.get(call("pods", "proxy", "web:9"), "/api/v1/namespaces/shop/pods/web:9/proxy/").await;
    let status = status.expect_err("nothing listens");
    assert_eq!(status.code, 503);
    assert_eq!(status.message, "error trying to reach service: connection refused");
    world.stop().await;
}

/// What e2e clients do who read logs over a websocket: each piece is a message, and the end is a normal close.
#[tokio::test]
async fn a_websocket_client_reads_a_log_and_leaves() {
    let world = world();
    let (near, far) = duplex(1000);
    let proxy = world.proxy.clone();
    let server = tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let proxy = proxy.clone();
            async move { Ok::<_, Infallible>(proxy.serve(POD_LOG, request).await.expect("switches")) }
        });
        let builder = hyper::server::conn::http1::Builder::new();
        builder.serve_connection(TokioIo::new(far), service).with_upgrades().await
    });
    let mut request =
        "ws://api/api/v1/namespaces/shop/pods/web/log?container=app".into_client_request().expect("valid");
    request.headers_mut().insert("sec-websocket-protocol", "binary.k8s.io".parse().expect("a header"));
    let (mut client, response) = tokio_tungstenite::client_async(request, near).await.expect("upgrades");
    assert_eq!(response.headers()["sec-websocket-protocol"], "binary.k8s.io");
    let message = client.next().await.expect("a message").expect("no error");
    assert_eq!(message.into_data(), "GET /containerLogs/shop/web/app node-1 10250");
    client.close(None).await.expect("closes");
    while client.next().await.is_some_and(|message| message.is_ok()) {}
    drop(client);
    server.await.expect("joins").expect("no error");
    // The log is endless; stopping would take its time if the session had not ended with its client.
    tokio::time::timeout(Duration::from_secs(3), world.stop()).await.expect("stops in time");
}

#[tokio::test]
async fn stopping_ends_joined_streams() {
    let world = world();
    let (near, far) = duplex(1000);
    let proxy = world.proxy.clone();
    let server = tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let proxy = proxy.clone();
            async move { Ok::<_, Infallible>(proxy.serve(POD_EXEC, request).await.expect("switches")) }
        });
        let builder = hyper::server::conn::http1::Builder::new();
        builder.serve_connection(TokioIo::new(far), service).with_upgrades().await
    });
    let mut client = near;
    let request = "GET /x?stdout=1 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: SPDY/3.1\r\n\
                   x-stream-protocol-version: v4.channel.k8s.io\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("writes");
    let mut head = [0; 12];
    client.read_exact(&mut head).await.expect("reads");
    assert_eq!(&head, b"HTTP/1.1 101");
    tokio::time::timeout(Duration::from_secs(3), world.stop()).await.expect("stops in time");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("ends");
    server.await.expect("joins").expect("no error");
}
