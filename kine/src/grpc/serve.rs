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
}

/// PEM texts for TLS; with `client_ca` clients must show a certificate signed by it.
#[derive(Clone)]
pub struct TlsOptions {
    pub certificate: String,
    pub key: String,
    pub client_ca: Option<String>,
}

/// Serves the etcd v3 API on a unix socket only its owner can use. A socket left over from an
/// earlier process is replaced; on return the socket is gone.
pub async fn serve_unix(store: Store, path: &Path, token: CancellationToken) -> Result<(), ServeError> {
    let address = format!("unix://{}", path.display());
    let listener = bind_private(path).map_err(|source| ServeError::Listen { address: address.clone(), source })?;
    let face = Face { store, token: token.clone(), client_url: address.clone() };
    let router = router(Server::builder(), &face);
    let connections = UnixListenerStream::new(listener).map_ok(UnixConnection::new);
    let result = run(router, connections, token, address).await;
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(component = "kine", %error, "remove the socket");
    }
    result
}

/// Serves the etcd v3 API on TCP.
pub async fn serve_tcp(
    store: Store,
    address: SocketAddr,
    tls: Option<TlsOptions>,
    token: CancellationToken,
) -> Result<(), ServeError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    let listen = |source| ServeError::Listen { address: url.clone(), source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let mut server = Server::builder();
    if let Some(tls) = tls {
        let mut config = ServerTlsConfig::new().identity(Identity::from_pem(tls.certificate, tls.key));
        if let Some(ca) = tls.client_ca {
            config = config.client_ca_root(Certificate::from_pem(ca));
        }
        server = server.tls_config(config).map_err(|source| ServeError::Transport { address: url.clone(), source })?;
    }
    let face = Face { store, token: token.clone(), client_url: url.clone() };
    run(router(server, &face), TcpListenerStream::new(listener), token, url).await
}

fn router(server: Server, face: &Face) -> Router {
    let kv = KvServer::new(face.clone()).max_decoding_message_size(GRPC_DECODE_BYTES_MAX);
    server
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_adaptive_window(Some(true))
        .add_service(kv.max_encoding_message_size(usize::MAX))
        .add_service(WatchServer::new(face.clone()))
        .add_service(LeaseServer::new(face.clone()))
        .add_service(ClusterServer::new(face.clone()))
        .add_service(MaintenanceServer::new(face.clone()))
        .add_service(AuthServer::new(face.clone()))
        .add_service(HealthServer::new(face.clone()))
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
