//! Listening on a unix socket or TCP, until the token is cancelled.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto::ring};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Face;
use super::authority::UnixConnection;
use super::calls::{NewCalls, WithCalls};
use super::dispatch::Dispatch;
use crate::limits::{
    GRPC_CONNECTION_WINDOW_BYTES, GRPC_HANDSHAKE_DEADLINE, GRPC_STOP_DEADLINE, GRPC_STREAM_WINDOW_BYTES,
    GRPC_STREAMS_MAX,
};
use crate::store::Store;

/// A connection whose client does not answer for this long is looked after.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Pause after the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why serving did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket could not be made.
    #[error("listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    /// Certificate, key or authority cannot be used.
    #[error("TLS for the etcd API on {address}: {reason}")]
    Tls { address: String, reason: String },
    /// The API's own description.
    #[error("describe the etcd API on {address}: {reason}")]
    Reflection { address: String, reason: String },
}

/// PEM texts for TLS; with `client_ca` clients must show a certificate signed by it.
#[derive(Clone)]
pub struct TlsOptions {
    pub certificate: String,
    pub key: String,
    pub client_ca: Option<String>,
}

/// A socket that is bound: clients can already connect, and are served once [`Listener::serve`] runs.
pub struct Listener {
    socket: Socket,
    url: String,
}

enum Socket {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener, Option<TlsOptions>),
}

impl Listener {
    /// Binds a unix socket only its owner can use; one left over from an earlier process is replaced.
    pub fn unix(path: &Path) -> Result<Listener, ServeError> {
        let url = format!("unix://{}", path.display());
        let socket = bind_private(path).map_err(|source| ServeError::Listen { address: url.clone(), source })?;
        Ok(Listener { socket: Socket::Unix(socket, path.to_owned()), url })
    }

    /// Binds a TCP address; port 0 chooses a free one.
    pub async fn tcp(address: SocketAddr, tls: Option<TlsOptions>) -> Result<Listener, ServeError> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let failed = |source| ServeError::Listen { address: format!("{scheme}://{address}"), source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let url = format!("{scheme}://{}", socket.local_addr().map_err(failed)?);
        Ok(Listener { socket: Socket::Tcp(socket, tls), url })
    }

    /// How clients reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves the etcd v3 API until the token is cancelled. On return a unix socket is gone.
    pub async fn serve(self, store: Store, token: CancellationToken) -> Result<(), ServeError> {
        let Listener { socket, url } = self;
        let face = Face { store, token: token.clone(), client_url: url.clone() };
        let dispatch = Dispatch::new(face)
            .map_err(|error| ServeError::Reflection { address: url.clone(), reason: error.to_string() })?;
        let connections = Connections { dispatch, token: token.clone(), open: TaskTracker::new() };
        match socket {
            Socket::Unix(listener, path) => {
                let accept = || async {
                    let (stream, _) = listener.accept().await?;
                    Ok(UnixConnection::new(stream))
                };
                connections.accept(accept, |connection| async { Ok(connection) }).await;
                if let Err(error) = fs::remove_file(path) {
                    tracing::debug!(component = "kine", %error, "remove the socket");
                }
            }
            Socket::Tcp(listener, tls) => {
                let accept = || async {
                    let (stream, _) = listener.accept().await?;
                    // Else every answer waits for the client's delayed acknowledgement: 40 ms.
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                match tls {
                    None => connections.accept(accept, |connection| async { Ok(connection) }).await,
                    Some(tls) => {
                        let config = tls.config().map_err(|reason| ServeError::Tls { address: url, reason })?;
                        let acceptor = TlsAcceptor::from(Arc::new(config));
                        connections.accept(accept, move |connection| acceptor.clone().accept(connection)).await;
                    }
                }
            }
        }
        Ok(())
    }
}

impl TlsOptions {
    fn config(&self) -> Result<ServerConfig, String> {
        let certificates = |pem: &str| {
            let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            found.map_err(|error| format!("read a certificate: {error}"))
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem)? {
                    roots.add(certificate).map_err(|error| format!("client authority: {error}"))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| format!("client authority: {error}"))?)
            }
        };
        let key =
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| format!("read the key: {error}"))?;
        let mut config =
            builder.with_single_cert(certificates(&self.certificate)?, key).map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// What all connections of a listener share.
struct Connections {
    dispatch: Dispatch,
    token: CancellationToken,
    open: TaskTracker,
}

impl Connections {
    /// Takes connections until the token is cancelled, then waits for their calls to end, but not for ever.
    async fn accept<C, IO, Accept, Accepted, Handshake, Shaken>(self, accept: Accept, handshake: Handshake)
    where
        C: Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Accept: Fn() -> Accepted,
        Accepted: Future<Output = io::Result<C>>,
        Handshake: Fn(C) -> Shaken,
        Shaken: Future<Output = io::Result<IO>> + Send + 'static,
    {
        loop {
            let accepted = tokio::select! {
                () = self.token.cancelled() => break,
                accepted = accept() => accepted,
            };
            match accepted {
                Ok(connection) => {
                    let serving = serve_connection(handshake(connection), self.dispatch.clone(), self.token.clone());
                    self.open.spawn(serving);
                }
                // One client less, or too many open files: neither ends the others.
                Err(error) => {
                    tracing::warn!(component = "kine", %error, "accept a connection to the etcd API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.open.close();
        self.open.wait().await;
    }
}

async fn serve_connection<IO>(
    handshake: impl Future<Output = io::Result<IO>>,
    dispatch: Dispatch,
    token: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = tokio::select! {
        () = token.cancelled() => return,
        io = tokio::time::timeout(GRPC_HANDSHAKE_DEADLINE, handshake) => match io {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return tracing::debug!(component = "kine", %error, "TLS with a client of the etcd API"),
            Err(_) => return,
        },
    };
    let calls = NewCalls::default();
    let mut builder = http2::Builder::new(calls.clone());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(GRPC_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(GRPC_STREAMS_MAX)
        .auto_date_header(false);
    let mut connection = WithCalls::new(builder.serve_connection(TokioIo::new(io), dispatch), calls);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = token.cancelled() => {
            connection.connection().graceful_shutdown();
            // A client that does not hang up does not hold up the end.
            match tokio::time::timeout(GRPC_STOP_DEADLINE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(component = "kine", %error, "a connection to the etcd API ended");
    }
}

/// Serves the etcd v3 API on a unix socket only its owner can use.
pub async fn serve_unix(store: Store, path: &Path, token: CancellationToken) -> Result<(), ServeError> {
    Listener::unix(path)?.serve(store, token).await
}

/// Serves the etcd v3 API on TCP.
pub async fn serve_tcp(
    store: Store,
    address: SocketAddr,
    tls: Option<TlsOptions>,
    token: CancellationToken,
) -> Result<(), ServeError> {
    Listener::tcp(address, tls).await?.serve(store, token).await
}

/// The socket appears under its name only once nobody else can use it.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let mut unready = path.as_os_str().to_owned();
    unready.push(".new");
    let unready = PathBuf::from(unready);
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unready)?;
    fs::set_permissions(&unready, Permissions::from_mode(0o600))?;
    fs::rename(&unready, path)?;
    Ok(listener)
}
