//! Listening on a unix socket or TCP, until the token is cancelled.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, Router};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::Face;
use super::authority::UnixConnection;
use super::pb::DESCRIPTORS;
use super::pb::etcdserverpb::auth_server::AuthServer;
use super::pb::etcdserverpb::cluster_server::ClusterServer;
use super::pb::etcdserverpb::kv_server::KvServer;
use super::pb::etcdserverpb::lease_server::LeaseServer;
use super::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use super::pb::etcdserverpb::watch_server::WatchServer;
use super::pb::health::health_server::HealthServer;
use crate::limits::{GRPC_DECODE_BYTES_MAX, GRPC_STOP_DEADLINE};
use crate::store::Store;

/// Why serving did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket could not be made.
    #[error("listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    /// Certificate, key or transport.
    #[error("serve the etcd API on {address}: {source}")]
    Transport { address: String, source: tonic::transport::Error },
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
        match socket {
            Socket::Unix(listener, path) => {
                let router = router(Server::builder(), &face, &url)?;
                let connections = UnixListenerStream::new(listener).map_ok(UnixConnection::new);
                let result = run(router, connections, token, url).await;
                if let Err(error) = fs::remove_file(path) {
                    tracing::debug!(component = "kine", %error, "remove the socket");
                }
                result
            }
            Socket::Tcp(listener, tls) => {
                let mut server = Server::builder();
                if let Some(tls) = tls {
                    let failed = |source| ServeError::Transport { address: url.clone(), source };
                    server = server.tls_config(tls.config()).map_err(failed)?;
                }
                // The builder's option holds only for sockets the library accepts itself. Without it every
                // answer waits for the client's delayed acknowledgement: 40 ms.
                let connections = TcpListenerStream::new(listener).and_then(|connection| async move {
                    connection.set_nodelay(true)?;
                    Ok(connection)
                });
                run(router(server, &face, &url)?, Box::pin(connections), token, url).await
            }
        }
    }
}

impl TlsOptions {
    fn config(self) -> ServerTlsConfig {
        let config = ServerTlsConfig::new().identity(Identity::from_pem(self.certificate, self.key));
        match self.client_ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
            None => config,
        }
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

fn router(server: Server, face: &Face, url: &str) -> Result<Router, ServeError> {
    let failed = |error: tonic_reflection::server::Error| ServeError::Reflection {
        address: url.to_owned(),
        reason: error.to_string(),
    };
    let described = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let reflection = described().build_v1().map_err(failed)?;
    let reflection_alpha = described().build_v1alpha().map_err(failed)?;
    let kv = KvServer::new(face.clone()).max_decoding_message_size(GRPC_DECODE_BYTES_MAX);
    Ok(server
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_adaptive_window(Some(true))
        .add_service(kv.max_encoding_message_size(usize::MAX))
        .add_service(WatchServer::new(face.clone()))
        .add_service(LeaseServer::new(face.clone()))
        .add_service(ClusterServer::new(face.clone()))
        .add_service(MaintenanceServer::new(face.clone()))
        .add_service(AuthServer::new(face.clone()))
        .add_service(HealthServer::new(face.clone()))
        .add_service(reflection)
        .add_service(reflection_alpha))
}

async fn run<I, IO>(router: Router, incoming: I, token: CancellationToken, address: String) -> Result<(), ServeError>
where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    IO::ConnectInfo: Clone + Send + Sync + 'static,
{
    let stopped = token.clone().cancelled_owned();
    let serving = router.serve_with_incoming_shutdown(incoming, stopped);
    let deadline = async {
        token.cancelled().await;
        tokio::time::sleep(GRPC_STOP_DEADLINE).await;
    };
    tokio::select! {
        result = serving => {
            result.map_err(|source| ServeError::Transport { address, source })
        }
        // A client that does not hang up does not hold up the end.
        () = deadline => Ok(()),
    }
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
