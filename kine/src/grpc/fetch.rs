//! Takes a snapshot of a store that another process serves: ours or an etcd.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::pb::etcdserverpb::SnapshotRequest;
use super::pb::etcdserverpb::maintenance_client::MaintenanceClient;

/// How long reaching the server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message of a snapshot that is read.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// PEM texts of a client.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// Who signed the server's certificate; without it the connection is plain.
    pub ca: Option<String>,
    /// Certificate and key of the client.
    pub identity: Option<(String, String)>,
}

/// Why a snapshot could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("connect to {endpoint}: {source}")]
    Connect { endpoint: String, source: tonic::transport::Error },
    #[error("snapshot of {endpoint}: {message}")]
    Refused { endpoint: String, message: String },
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Fetches a snapshot into a file that must not exist yet, durably. What was
/// fetched is not verified; see [`crate::Archive`].
pub async fn fetch_snapshot(endpoint: &str, tls: ClientTls, path: &Path) -> Result<(), FetchError> {
    let channel =
        connect(endpoint, tls).await.map_err(|source| FetchError::Connect { endpoint: endpoint.to_owned(), source })?;
    let mut client = MaintenanceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let write = |source| FetchError::Write { path: path.to_owned(), source };
    let refused = |status: tonic::Status| FetchError::Refused {
        endpoint: endpoint.to_owned(),
        message: status.message().to_owned(),
    };
    let mut out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(write)?;
    let fetched = async {
        let mut stream = client.snapshot(SnapshotRequest {}).await.map_err(refused)?.into_inner();
        while let Some(message) = stream.message().await.map_err(refused)? {
            out.write_all(&message.blob).map_err(write)?;
        }
        out.sync_all().map_err(write)
    };
    let result = fetched.await;
    if result.is_err() {
        let _ = fs::remove_file(path);
    }
    result
}

async fn connect(endpoint: &str, tls: ClientTls) -> Result<Channel, tonic::transport::Error> {
    let mut to = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(CONNECT_TIMEOUT);
    if let Some(ca) = tls.ca {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        if let Some((certificate, key)) = tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        to = to.tls_config(config)?;
    }
    to.connect().await
}
