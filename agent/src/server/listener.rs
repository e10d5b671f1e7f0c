//! The listener: accept, handshake, identify, authorise, dispatch.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::{Attributes, Authorizer, Identity};
use super::backend::StreamingBackend;
use super::handlers::{Context, handle};
use super::limits::{CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, HEADER_TIMEOUT, STOP_TIMEOUT};
use super::routes::Route;
use super::{Body, text};

/// What the server is made of.
pub struct KubeletServerConfig {
    /// From [`super::tls_config`].
    pub tls: Arc<ServerConfig>,
    /// Usually [`super::api_server_only`].
    pub authorizer: Authorizer,
    /// The node's pods.
    pub backend: Arc<dyn StreamingBackend>,
}

/// The node's HTTPS server.
pub struct KubeletServer {
    tls: TlsAcceptor,
    authorizer: Authorizer,
    backend: Arc<dyn StreamingBackend>,
}

impl KubeletServer {
    /// A server that has not started.
    pub fn new(config: KubeletServerConfig) -> Self {
        KubeletServer { tls: config.tls.into(), authorizer: config.authorizer, backend: config.backend }
    }

    /// Serves connections of `listener` until the token is cancelled; then streams get a short time to end.
    pub async fn run(self, listener: TcpListener, token: CancellationToken) {
        let server = Arc::new(self);
        let tasks = TaskTracker::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let context = Context { backend: server.backend.clone(), sessions: tasks.clone(), token: token.clone() };
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { break };
            let (socket, peer) = tokio::select! {
                () = token.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, or a connection that died early: neither is cured by retrying at once.
                        tracing::warn!(component = "kubelet", %error, "accept");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (server, context) = (server.clone(), context.clone());
            tasks.spawn(async move {
                server.connection(socket, peer, context).await;
                drop(permit);
            });
        }
        tasks.close();
        if timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::warn!(component = "kubelet", left = tasks.len(), "streams did not end in time");
        }
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, context: Context) {
        // A socket option that fails costs latency, not correctness.
        let _ = socket.set_nodelay(true);
        let token = context.token.clone();
        let tls = match timeout(HANDSHAKE_TIMEOUT, self.tls.accept(socket)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return tracing::debug!(component = "kubelet", %peer, %error, "TLS handshake"),
            Err(_) => return tracing::debug!(component = "kubelet", %peer, "TLS handshake: timeout"),
        };
        let certificates = tls.get_ref().1.peer_certificates();
        let identity = certificates.and_then(|chain| Identity::of_certificate(chain.first()?));
        let client = Arc::new(Client { identity, local: peer.ip().is_loopback() });
        let service = service_fn(move |request| {
            let (server, client, context) = (self.clone(), client.clone(), context.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(&client, context, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(tls), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(component = "kubelet", %peer, %error, "connection");
        }
    }

    async fn answer(&self, client: &Client, context: Context, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let route = Route::parse(path);
        if route == Some(Route::Healthz) && client.local {
            return text(StatusCode::OK, "ok");
        }
        let Some(identity) = &client.identity else {
            return text(StatusCode::UNAUTHORIZED, "Unauthorized");
        };
        let attributes = Attributes::of(request.method(), path);
        if !(self.authorizer)(identity, &attributes) {
            let Attributes { verb, subresource, .. } = attributes;
            let name = &identity.name;
            tracing::warn!(component = "kubelet", user = %name, verb, subresource, path, "forbidden");
            let reason = format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource={subresource})");
            return text(StatusCode::FORBIDDEN, reason);
        }
        match route {
            Some(route) => handle(&context, route, request).await,
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}

/// The client of one connection.
struct Client {
    identity: Option<Identity>,
    local: bool,
}
