//! An API server on the memory backend and plain HTTP, everybody an administrator:
//! `cargo run -p skiff-apiserver --example memory_server -- 127.0.0.1:8001`, then
//! `kubectl --server http://127.0.0.1:8001 get namespaces`. For development only.

use std::sync::Arc;

use base64::Engine;
use skiff_apiserver::{
    ApiServer, Config, ConnectionInfo, Handler, MemoryBackend, TokenIssuer, UserInfo, VersionInfo, serve::serve_stream,
};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| "generate key")?;
    let body = base64::engine::general_purpose::STANDARD.encode(key.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    let issuer = TokenIssuer::new("https://kubernetes.default.svc", Vec::new(), &pem, &[])?;
    let stop = CancellationToken::new();
    let config = Config {
        backend: Arc::new(MemoryBackend::default()),
        client_ca: Vec::new(),
        request_header_ca: Vec::new(),
        request_header_names: Vec::new(),
        anonymous: true,
        tokens: Vec::new(),
        token_issuer: Arc::new(issuer),
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        node_ports: 30000..=32767,
        server_address: address.clone(),
        version: VersionInfo::default(),
        proxy: None,
        health_checks: Vec::new(),
    };
    let server = ApiServer::new(config, stop.clone())?;
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    server.ready().await;
    let administrator = UserInfo::new("admin", &["system:masters"]);
    let bootstrap = skiff_apiserver::bootstrap::Bootstrap {
        client_ca_pem: String::new(),
        request_header_ca_pem: String::new(),
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        advertise_address: "192.0.2.1".parse()?,
        advertise_port: 6443,
    };
    bootstrap.run(&server.client(administrator.clone(), "skiff")).await?;
    let handler: Handler = Arc::new(move |request, _| {
        let (server, user) = (server.clone(), administrator.clone());
        Box::pin(async move { server.handle_as(request, user).await })
    });
    let listener = tokio::net::TcpListener::bind(&address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let info = Arc::new(ConnectionInfo::default());
        tokio::spawn(serve_stream(stream, info, Arc::clone(&handler), stop.clone()));
    }
}
