//! An API server on the memory backend and plain HTTP, everybody an administrator:
//! `cargo run -p skiff-apiserver --example memory_server -- 127.0.0.1:8001`, then
//! `kubectl --server http://127.0.0.1:8001 get namespaces`. For development only.

#[path = "setup/config.rs"]
mod config;
#[path = "setup/running.rs"]
mod running;

use std::sync::Arc;

use skiff_apiserver::{Config, ConnectionInfo, Handler, MemoryBackend, serve::serve_stream};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), config::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let stop = CancellationToken::new();
    let config = Config { server_address: address.clone(), ..config::config(MemoryBackend::default())? };
    let server = running::start(config, &stop).await?;
    let administrator = running::administrator();
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
