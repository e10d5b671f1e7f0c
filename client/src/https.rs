//! The [`Transport`] to an API server on another host or in another process:
//! TLS 1.3 or 1.2 with pinned roots, a client certificate or a bearer token,
//! HTTP/2 (or 1.1 where the server speaks no other), several addresses.
//!
//! Invariants: nothing but the given roots is trusted; a changed identity is
//! used from the next request on, over a fresh connection; the name that the
//! server's certificate must carry does not depend on the address dialled.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{
        Client as HyperClient,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Body, ClientError, Transport,
    limits::{
        CONNECT_WAIT_MAX, CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_WAIT_MAX, RESPONSE_HEAD_WAIT_MAX,
        STREAM_WINDOW_BYTES, TOKEN_FILE_AGE_MAX,
    },
};

/// A byte stream to a server.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Opens byte streams to whichever server is best: the seam for a load
/// balancer or a tunnel. [`ServerAddresses`] is the plain one.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    async fn dial(&self) -> io::Result<Box<dyn ByteStream>>;
}

/// A list of `host:port`, tried in order beginning with the last that worked; it may change at any time.
pub struct ServerAddresses {
    addresses: RwLock<Vec<String>>,
    good: Mutex<usize>,
}

impl ServerAddresses {
    pub fn new(addresses: Vec<String>) -> ServerAddresses {
        ServerAddresses { addresses: RwLock::new(addresses), good: Mutex::new(0) }
    }

    pub fn set(&self, addresses: Vec<String>) {
        *self.addresses.write() = addresses;
        *self.good.lock() = 0;
    }
}

#[async_trait]
impl Dial for ServerAddresses {
    async fn dial(&self) -> io::Result<Box<dyn ByteStream>> {
        let addresses = self.addresses.read().clone();
        let first = *self.good.lock();
        let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no server address known");
        for offset in 0..addresses.len() {
            let index = (first + offset) % addresses.len();
            let wait = CONNECT_WAIT_MAX / addresses.len().min(4) as u32;
            match tokio::time::timeout(wait, tokio::net::TcpStream::connect(&addresses[index])).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    *self.good.lock() = index;
                    return Ok(Box::new(stream));
                }
                Ok(Err(error)) => last = io::Error::new(error.kind(), format!("dial {}: {error}", addresses[index])),
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("dial {}", addresses[index])),
            }
        }
        Err(last)
    }
}

#[async_trait]
impl Dial for SocketAddr {
    async fn dial(&self) -> io::Result<Box<dyn ByteStream>> {
        Ok(Box::new(tokio::net::TcpStream::connect(self).await?))
    }
}

/// Who the client is.
#[derive(Clone, Default)]
pub enum Identity {
    #[default]
    Anonymous,
    /// PEM certificate chain and private key.
    Certificate {
        chain_pem: Vec<u8>,
        key_pem: Vec<u8>,
    },
    Token(String),
    /// A file whose token changes over time, as in pods.
    TokenFile(PathBuf),
}

/// Which server certificate is right.
#[derive(Clone)]
pub enum Trust {
    /// PEM bundle of the only accepted roots.
    Roots(Vec<u8>),
    /// A verifier of the caller, for example one that pins a CA by hash while joining.
    Verifier(Arc<dyn rustls::client::danger::ServerCertVerifier>),
}

type Hyper = HyperClient<Connector, Full<Bytes>>;

/// HTTPS to an API server; shared by `Arc`.
pub struct HttpsTransport {
    dial: Arc<dyn Dial>,
    trust: Trust,
    server_name: String,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    hyper: Hyper,
    connector: Connector,
    token: Option<Arc<TokenSource>>,
}

struct TokenSource {
    file: Option<PathBuf>,
    cached: Mutex<Option<(Instant, HeaderValue)>>,
}

impl HttpsTransport {
    /// `server_name` is the DNS name or IP address that the server's certificate must carry.
    pub fn new(
        dial: Arc<dyn Dial>,
        server_name: &str,
        trust: Trust,
        identity: Identity,
    ) -> Result<Arc<HttpsTransport>, ClientError> {
        let current = Current::build(Arc::clone(&dial), server_name, &trust, identity)?;
        let server_name = server_name.to_owned();
        Ok(Arc::new(HttpsTransport { dial, trust, server_name, current: RwLock::new(current) }))
    }

    /// Changes who the client is; running watches go on under the old identity until they end.
    pub fn set_identity(&self, identity: Identity) -> Result<(), ClientError> {
        let current = Current::build(Arc::clone(&self.dial), &self.server_name, &self.trust, identity)?;
        *self.current.write() = current;
        Ok(())
    }

    /// Drops all idle connections, so that the next request dials again.
    pub fn reconnect(&self) {
        let mut current = self.current.write();
        current.hyper = hyper_client(current.connector.clone());
    }
}

impl Current {
    fn build(
        dial: Arc<dyn Dial>,
        server_name: &str,
        trust: &Trust,
        identity: Identity,
    ) -> Result<Current, ClientError> {
        let tls = tls_config(trust, &identity)?;
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|error| ClientError::transport(format!("read server name {server_name:?}"), error))?;
        let connector = Connector { dial, tls: TlsConnector::from(Arc::new(tls)), name };
        let token = match identity {
            Identity::Token(token) => {
                let cached = Mutex::new(Some((Instant::now(), bearer(&token)?)));
                Some(Arc::new(TokenSource { file: None, cached }))
            }
            Identity::TokenFile(file) => Some(Arc::new(TokenSource { file: Some(file), cached: Mutex::new(None) })),
            Identity::Anonymous | Identity::Certificate { .. } => None,
        };
        Ok(Current { hyper: hyper_client(connector.clone()), connector, token })
    }
}

impl TokenSource {
    fn header(&self) -> Result<HeaderValue, ClientError> {
        let mut cached = self.cached.lock();
        if let Some((read, value)) = cached.as_ref()
            && (self.file.is_none() || read.elapsed() < TOKEN_FILE_AGE_MAX)
        {
            return Ok(value.clone());
        }
        let Some(file) = &self.file else { return Err(ClientError::transport("read token", "no token")) };
        // A few hundred bytes once a minute: not worth a thread.
        let text = fs::read_to_string(file)
            .map_err(|error| ClientError::transport(format!("read token {}", file.display()), error))?;
        let value = bearer(text.trim())?;
        *cached = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|error| ClientError::transport("read bearer token", error))?;
    value.set_sensitive(true);
    Ok(value)
}

fn tls_config(trust: &Trust, identity: &Identity) -> Result<rustls::ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::transport("set up TLS", error))?;
    let builder = match trust {
        Trust::Roots(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(pem, "read CA bundle")? {
                roots.add(certificate).map_err(|error| ClientError::transport("read CA bundle", error))?;
            }
            builder.with_root_certificates(roots)
        }
        Trust::Verifier(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::clone(verifier)),
    };
    let mut config = match identity {
        Identity::Certificate { chain_pem, key_pem } => {
            let chain = certificates(chain_pem, "read client certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key_pem)
                .map_err(|error| ClientError::transport("read client key", error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| ClientError::transport("use client certificate", error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| ClientError::transport(what, error))
}

fn hyper_client(connector: Connector) -> Hyper {
    HyperClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEP_ALIVE_WAIT_MAX)
        .http2_keep_alive_while_idle(true)
        // Watches bring many small frames that wait their turn. What is allowed of those follows the
        // window, and exceeding it would end all watches of the connection at once.
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .build(connector)
}

#[async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let current = self.current.read().clone();
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        // The authority only keys the connection pool and names the virtual host.
        let authority =
            if self.server_name.contains(':') { format!("[{}]", self.server_name) } else { self.server_name.clone() };
        parts.uri = Uri::builder()
            .scheme("https")
            .authority(authority)
            .path_and_query(path)
            .build()
            .map_err(|error| ClientError::transport("build request address", error))?;
        if let Some(token) = &current.token {
            parts.headers.insert(header::AUTHORIZATION, token.header()?);
        }
        let what = format!("{} {}", parts.method, parts.uri.path());
        let answer = current.hyper.request(Request::from_parts(parts, Full::new(body)));
        let response = tokio::time::timeout(RESPONSE_HEAD_WAIT_MAX, answer)
            .await
            .map_err(|error| ClientError::transport(what.clone(), error))?
            .map_err(|error| ClientError::transport(what, root_cause(error)))?;
        Ok(response.map(|body| body.map_err(|error| error.into()).boxed_unsync()))
    }
}

/// hyper's own text is only `client error (Connect)`; the reason lies below.
fn root_cause(error: hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[derive(Clone)]
struct Connector {
    dial: Arc<dyn Dial>,
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    async fn connect(self) -> io::Result<Io> {
        let stream = self.dial.dial().await?;
        let stream = self.tls.connect(self.name, stream).await?;
        Ok(Io(TokioIo::new(stream)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Io;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Io>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            tokio::time::timeout(CONNECT_WAIT_MAX, connector.connect())
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connect to the API server")))
        })
    }
}

/// A TLS stream that tells hyper whether HTTP/2 was agreed on.
struct Io(TokioIo<TlsStream<Box<dyn ByteStream>>>);

impl Connection for Io {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        if session.alpn_protocol() == Some(b"h2") { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "https_tests.rs"]
mod tests;
