//! The node's HTTPS server in front of a real containerd.
//!
//! Goal: every way a client can exec, attach, read logs or forward ports works against the runtime users have. Method: one
//! containerd in a directory of its own, one pod on the host's network, clients that speak the wire protocols themselves.

mod containerd;
#[path = "../support/machine.rs"]
mod machine;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use containerd::{Containerd, RunningPod};
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use skiff_agent::server::{KubeletServer, KubeletServerConfig, api_server_only, tls_config};
use skiff_agent::streaming::channels::{CLOSE, ERROR, Framing, RESIZE, STDERR, STDIN, STDOUT};
use skiff_agent::streaming::spdy::{Connection, Driver, Headers, SpdyStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Pki { ca: CertifiedIssuer::self_signed(params, key).expect("a CA") }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("a root");
        roots
    }

    fn leaf(&self, common_name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec!["node-1".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.ca).expect("a certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }

    fn client(&self, common_name: Option<&str>) -> tokio_rustls::TlsConnector {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots());
        let config = match common_name {
            Some(name) => {
                let (chain, key) = self.leaf(name);
                builder.with_client_auth_cert(chain, key).expect("a client certificate")
            }
            None => builder.with_no_client_auth(),
        };
        Arc::new(config).into()
    }
}

struct World {
    pki: Pki,
    address: std::net::SocketAddr,
    token: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    async fn start(pod: RunningPod) -> Self {
        let pki = Pki::new();
        let (chain, key) = pki.leaf("system:node:node-1");
        let tls = tls_config(chain, key, pki.roots()).expect("a TLS configuration");
        let config = KubeletServerConfig { tls, authorizer: Arc::new(api_server_only), backend: Arc::new(pod) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(KubeletServer::new(config).run(listener, token.clone()));
        World { pki, address, token, tasks }
    }

    async fn connect(&self, common_name: Option<&str>) -> Tls {
        let socket = TcpStream::connect(self.address).await.expect("connects");
        let name = ServerName::try_from("node-1").expect("a name");
        self.pki.client(common_name).connect(name, socket).await.expect("handshakes")
    }

    async fn request(&self, common_name: Option<&str>, request: Request<Empty<Bytes>>) -> Response<Incoming> {
        let io = TokioIo::new(self.connect(common_name).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("handshakes");
        let connection = connection.with_upgrades();
        tokio::spawn(connection);
        sender.send_request(request).await.expect("an answer")
    }

    async fn get(&self, common_name: Option<&str>, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header(header::HOST, "node-1").body(Empty::new()).expect("a request");
        let response = self.request(common_name, request).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn websocket(&self, path: &str, protocol: &str) -> WebSocketStream<Tls> {
        let mut request = format!("wss://node-1{path}").into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a header"));
        let io = self.connect(Some("system:kube-apiserver")).await;
        let (socket, response) = tokio_tungstenite::client_async(request, io).await.expect("upgrades");
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        socket
    }

    async fn spdy(&self, path: &str, protocol: &str) -> TokioIo<hyper::upgrade::Upgraded> {
        let request = Request::post(path)
            .header(header::HOST, "node-1")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "SPDY/3.1")
            .header("x-stream-protocol-version", protocol)
            .body(Empty::new())
            .expect("a request");
        let response = self.request(Some("system:kube-apiserver"), request).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["x-stream-protocol-version"], protocol);
        TokioIo::new(hyper::upgrade::on(response).await.expect("upgrades"))
    }

    async fn stop(mut self) {
        self.token.cancel();
        timeout(Duration::from_secs(10), self.tasks.join_next()).await.expect("the server stops");
    }
}

const V5: Framing = Framing::Binary;

async fn collect(mut socket: WebSocketStream<Tls>, framing: Framing) -> HashMap<u8, String> {
    let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
    let reading = async {
        while let Some(message) = socket.next().await {
            match message.expect("no error before the close") {
                Message::Close(_) => {}
                message => {
                    if let Some((channel, data)) = framing.decode(message) {
                        channels.entry(channel).or_default().extend_from_slice(&data);
                    }
                }
            }
        }
    };
    timeout(Duration::from_secs(60), reading).await.expect("the stream ends");
    channels.into_iter().map(|(channel, data)| (channel, String::from_utf8_lossy(&data).into_owned())).collect()
}

async fn only_the_api_server_is_served(world: &World) {
    assert_eq!(world.get(None, "/healthz").await, (StatusCode::OK, "ok".into()));
    assert_eq!(world.get(None, "/pods").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.get(Some("system:node:node-2"), "/pods").await.0, StatusCode::FORBIDDEN);
    let (status, body) = world.get(Some("system:kube-apiserver"), "/pods").await;
    assert!(status == StatusCode::OK && body.contains("PodList"));
    assert_eq!(world.get(Some("system:kube-apiserver"), "/metrics").await.1, "up 1\n");
    assert_eq!(world.get(Some("system:kube-apiserver"), "/nothing").await.0, StatusCode::NOT_FOUND);
}

async fn exec_over_websocket_ends_stdin_and_reports_the_exit(world: &World) {
    let path = "/exec/default/web/main?command=cat&input=1&output=1&error=1";
    let mut socket = world.websocket(path, "v5.channel.k8s.io").await;
    socket.send(V5.encode(STDIN, b"hello ")).await.expect("sends");
    socket.send(V5.encode(STDIN, b"world")).await.expect("sends");
    socket.send(V5.encode(CLOSE, &[STDIN])).await.expect("sends");
    let channels = collect(socket, V5).await;
    assert_eq!(channels[&STDOUT], "hello world");
    assert!(channels[&ERROR].contains(r#""status":"Success""#), "{}", channels[&ERROR]);

    let path =
        "/exec/default/web/main?command=sh&command=-c&command=echo%20oops%20%3E%262%3B%20exit%207&output=1&error=1";
    let channels = collect(world.websocket(path, "v4.channel.k8s.io").await, V5).await;
    assert_eq!(channels[&STDERR], "oops\n");
    assert!(
        channels[&ERROR].contains("NonZeroExitCode") && channels[&ERROR].contains(r#""7""#),
        "{}",
        channels[&ERROR]
    );

    let path = "/exec/default/web/main?command=echo&command=hi&output=1";
    let channels = collect(world.websocket(path, "base64.channel.k8s.io").await, Framing::Base64).await;
    assert_eq!(channels[&STDOUT], "hi\n");
    assert!(!channels.contains_key(&ERROR));
}

async fn large_input_and_output_pass_intact(world: &World) {
    let path = "/exec/default/web/main?command=wc&command=-c&input=1&output=1";
    let (mut sink, source) = world.websocket(path, "v5.channel.k8s.io").await.split();
    let chunk = vec![b'x'; 30_000];
    for _ in 0..200 {
        sink.send(V5.encode(STDIN, &chunk)).await.expect("sends");
    }
    sink.send(V5.encode(CLOSE, &[STDIN])).await.expect("sends");
    let socket = sink.reunite(source).expect("two halves of one");
    assert_eq!(collect(socket, V5).await[&STDOUT].trim(), "6000000");

    let path = "/exec/default/web/main?command=sh&command=-c&command=busybox%20yes%20abcdefg%20%7C%20busybox%20head%20-c%204000000&output=1";
    let channels = collect(world.websocket(path, "v5.channel.k8s.io").await, V5).await;
    assert_eq!(channels[&STDOUT].len(), 4_000_000);
}

async fn a_terminal_takes_its_size(world: &World) {
    let command = "while%20%5B%20%22%24%28stty%20size%202%3E%2Fdev%2Fnull%29%22%20%21%3D%20%2240%20100%22%20%5D%3B%20do%20sleep%200.1%3B%20done%3B%20echo%20sized";
    let path = format!("/exec/default/web/main?command=sh&command=-c&command={command}&input=1&output=1&error=1&tty=1");
    let mut socket = world.websocket(&path, "v5.channel.k8s.io").await;
    socket.send(V5.encode(RESIZE, br#"{"Width":100,"Height":40}"#)).await.expect("sends");
    let channels = collect(socket, V5).await;
    assert_eq!(channels[&STDOUT], "sized\r\n");
}

/// Drives a connection and never returns: its end shows as the end of its streams.
async fn drive<S: AsyncRead + AsyncWrite + Unpin>(driver: Driver<S>, token: &CancellationToken) {
    driver.run(token).await.expect("a clean end");
    std::future::pending().await
}

async fn exec_over_spdy_passes_through(world: &World) {
    let path = "/exec/default/web/main?command=cat&input=1&output=1&error=1";
    let (connection, driver) = Connection::client(world.spdy(path, "v4.channel.k8s.io").await);
    let token = CancellationToken::new();
    let client = async {
        let open = |kind| connection.open(Headers::new(&[("streamType", kind)]));
        let mut error = open("error").await.expect("opens");
        let mut stdin = open("stdin").await.expect("opens");
        let mut stdout = open("stdout").await.expect("opens");
        let _stderr = open("stderr").await.expect("opens");
        stdin.send.send(Bytes::from_static(b"over spdy")).await.expect("sends");
        stdin.send.finish().await.expect("finishes");
        let output = stdout.receive.receive_all(1000).await;
        assert_eq!(output, b"over spdy");
        let status = error.receive.receive_all(1000).await;
        assert!(String::from_utf8_lossy(&status).contains("Success"));
    };
    tokio::select! {
        () = client => {}
        () = drive(driver, &token) => {}
    }
}

async fn failures_have_upstreams_words(world: &World) {
    let upgrade = |path: &str| {
        Request::post(path)
            .header(header::HOST, "node-1")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "SPDY/3.1")
            .body(Empty::new())
            .expect("a request")
    };
    let answer = async |path: &str| {
        let response = world.request(Some("system:kube-apiserver"), upgrade(path)).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let pod = answer("/exec/default/nope/main?command=ls&output=1").await;
    assert_eq!(pod, (404, "pod does not exist".into()));
    let container = answer("/exec/default/web/nope?command=ls&output=1").await;
    assert_eq!(container, (500, r#"container not found ("nope")"#.into()));
    let streams = answer("/exec/default/web/main?command=ls").await;
    assert_eq!(streams, (400, "you must specify at least 1 of stdin, stdout, stderr".into()));
    let previous = world.get(Some("system:kube-apiserver"), "/containerLogs/default/web/main?previous=true").await;
    let text = r#"previous terminated container "main" in pod "web" not found"#;
    assert_eq!(previous, (StatusCode::BAD_REQUEST, text.into()));
}

async fn logs_are_read_and_run_works(world: &World) {
    let get = async |query: &str| {
        world.get(Some("system:kube-apiserver"), &format!("/containerLogs/default/web/main?{query}")).await.1
    };
    assert_eq!(get("").await, "started\nready\n");
    assert_eq!(get("tailLines=1").await, "ready\n");
    assert_eq!(get("limitBytes=3").await, "sta");
    assert!(get("timestamps=true&tailLines=1").await.ends_with("Z ready\n"));
    let request = Request::post("/run/default/web/main?cmd=echo+run+it").header(header::HOST, "node-1");
    let request = request.body(Empty::new()).expect("a request");
    let response = world.request(Some("system:kube-apiserver"), request).await;
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(&body[..], b"run it\n");
}

/// A service on the host's loopback, which is also the pod's: answers each line with itself in brackets.
async fn service(tasks: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tasks.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("accepts");
            let mut line = [0; 4];
            socket.read_exact(&mut line).await.expect("reads");
            socket.write_all(b"[").await.expect("writes");
            socket.write_all(&line).await.expect("writes");
            socket.write_all(b"]").await.expect("writes");
        }
    });
    port
}

async fn forward<S>(io: S, port: u16)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (connection, driver) = Connection::client(io);
    let token = CancellationToken::new();
    let port = port.to_string();
    let client = async {
        for request in ["0", "1"] {
            let headers = |kind| Headers::new(&[("streamType", kind), ("port", &port), ("requestID", request)]);
            let mut error = connection.open(headers("error")).await.expect("opens");
            error.send.finish().await.expect("finishes");
            let SpdyStream { mut send, mut receive } = connection.open(headers("data")).await.expect("opens");
            send.send(Bytes::from_static(b"ping")).await.expect("sends");
            assert_eq!(receive.receive_all(100).await, b"[ping]");
        }
    };
    tokio::select! {
        () = client => {}
        () = drive(driver, &token) => {}
    }
}

async fn ports_are_forwarded_in_every_protocol(world: &World) {
    let mut tasks = JoinSet::new();
    let port = service(&mut tasks).await;
    forward(world.spdy("/portForward/default/web", "portforward.k8s.io").await, port).await;

    // SPDY inside a websocket: a pipe carries its bytes, a loop puts them into messages.
    let socket = world.websocket("/portForward/default/web", "SPDY/3.1+portforward.k8s.io").await;
    let (near, far) = tokio::io::duplex(65536);
    tasks.spawn(async move {
        let (mut sink, mut source) = socket.split();
        let (mut read, mut write) = tokio::io::split(far);
        let up = async {
            let mut buffer = vec![0; 4096];
            while let Ok(len @ 1..) = read.read(&mut buffer).await {
                sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..len]))).await.expect("sends");
            }
        };
        let down = async {
            while let Some(Ok(message)) = source.next().await {
                write.write_all(&message.into_data()).await.expect("writes");
            }
        };
        tokio::join!(up, down);
    });
    forward(near, port).await;

    let path = format!("/portForward/default/web?port={port}");
    let mut socket = world.websocket(&path, "v4.channel.k8s.io").await;
    for channel in [0, 1] {
        let message = socket.next().await.expect("a message").expect("no error");
        assert_eq!(V5.decode(message), Some((channel, Bytes::copy_from_slice(&port.to_le_bytes()))));
    }
    socket.send(V5.encode(0, b"ping")).await.expect("sends");
    let mut got = Vec::new();
    while got.len() < 6 {
        let message = socket.next().await.expect("a message").expect("no error");
        let (channel, data) = V5.decode(message).expect("a channel message");
        assert_eq!(channel, 0);
        got.extend_from_slice(&data);
    }
    assert_eq!(got, b"[ping]");
    tasks.shutdown().await;
}

/// Attaches to the pod's process, which echoes one line and ends; a follower of its log ends with it.
async fn attach_reaches_the_process_and_its_end_ends_followers(world: &World) {
    let follow = world.get(Some("system:kube-apiserver"), "/containerLogs/default/web/main?follow=true&tailLines=0");
    let attach = async {
        let mut socket = world.websocket("/attach/default/web/main?input=1&output=1", "v5.channel.k8s.io").await;
        socket.send(V5.encode(STDIN, b"goodbye\n")).await.expect("sends");
        collect(socket, V5).await
    };
    let (followed, attached) = timeout(Duration::from_secs(30), async { tokio::join!(follow, attach) })
        .await
        .expect("both end with the process");
    assert_eq!(attached[&STDOUT], "got goodbye\n");
    assert_eq!(followed.1, "got goodbye\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_works_against_a_real_containerd() {
    machine::check();
    let containerd = Containerd::start().await;
    let script = "echo started; echo ready; read line; echo got $line";
    let pod = containerd.run_pod("web", &["sh", "-c", script]).await;
    let world = World::start(pod).await;
    only_the_api_server_is_served(&world).await;
    exec_over_websocket_ends_stdin_and_reports_the_exit(&world).await;
    large_input_and_output_pass_intact(&world).await;
    a_terminal_takes_its_size(&world).await;
    exec_over_spdy_passes_through(&world).await;
    failures_have_upstreams_words(&world).await;
    logs_are_read_and_run_works(&world).await;
    ports_are_forwarded_in_every_protocol(&world).await;
    attach_reaches_the_process_and_its_end_ends_followers(&world).await;
    world.stop().await;
    containerd.stop().await;
}
