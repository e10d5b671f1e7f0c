//! Connections: accept, TLS, HTTP/1.1 and HTTP/2 with upgrades, draining.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::Future;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{body::Body, limits};

/// What is known about the other end.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    pub peer: Option<SocketAddr>,
    /// The verified certificate chain of the client, leaf first; empty without one.
    pub client_certificates: Vec<CertificateDer<'static>>,
}

/// The future of an answer.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers requests; handlers can be put in front of each other.
pub type Handler = Arc<dyn Fn(Request<Body>, Arc<ConnectionInfo>) -> ResponseFuture + Send + Sync>;

/// Serves a listener until the token is cancelled, then lets open requests
/// finish until a deadline. `tls` may be exchanged while serving: new
/// connections use the new configuration.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ArcSwap<rustls::ServerConfig>>,
    handler: Handler,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&places).acquire_owned() => permit,
            () = stop.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer is already gone: give others time to finish.
                tracing::warn!(component = "apiserver", %error, "accept connection");
                tokio::time::sleep(limits::REWATCH_PAUSE).await;
                continue;
            }
        };
        let (tls, handler, stop) = (tls.load_full(), Arc::clone(&handler), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            connection(stream, peer, tls, handler, stop).await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits::DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::info!(component = "apiserver", open = connections.len(), "cutting connections that did not finish");
        connections.shutdown().await;
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    handler: Handler,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls).accept(stream);
    let stream = match tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(component = "apiserver", %peer, %error, "TLS handshake");
            return;
        }
        Err(_) => return,
    };
    let client_certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
        .unwrap_or_default();
    let info = Arc::new(ConnectionInfo { peer: Some(peer), client_certificates });
    serve_stream(stream, info, handler, stop).await;
}

/// Serves one stream that is already authenticated: also used for plain
/// listeners and tests.
pub async fn serve_stream<S>(stream: S, info: Arc<ConnectionInfo>, handler: Handler, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, info) = (Arc::clone(&handler), Arc::clone(&info));
        async move {
            let head = request.method() == Method::HEAD;
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let response = handler(request, info).await;
            Ok::<_, Infallible>(if head { without_body(response) } else { response })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits::REQUEST_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .keep_alive_interval(Some(std::time::Duration::from_secs(30)));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(component = "apiserver", %error, "connection ended");
    }
}

/// The answer to HEAD: all headers of GET, the length among them, and no byte
/// of the body (in HTTP/2 a frame of it would be a protocol error).
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, crate::body::full(Bytes::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_keeps_headers_and_length_but_no_body() {
        let response = without_body(crate::body::response(200, "text/plain", "twelve bytes"));
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "12");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain");
        assert!(response.body().is_end_stream());
    }
}
