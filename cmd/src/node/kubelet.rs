//! The node's HTTPS listener: what the API server calls for logs, exec, attach
//! and port-forward, through loopback or the tunnel.

use std::{io, net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result, anyhow};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use skiff_agent::server::{KubeletServer, KubeletServerConfig, StreamingBackend, api_server_only, tls_config};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::pki::KeyAndCertificate;

/// A bound port that does not answer yet.
pub struct Kubelet {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
}

/// Binds before the node starts, so that a port in use is found early.
pub async fn listen(port: u16, serving: &KeyAndCertificate, client_ca_pem: &str) -> Result<Kubelet> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("port {port} is in use on this host, perhaps by another kubelet: stop it or choose another --kubelet-port")
        }
        _ => anyhow!("listen on port {port}: {error}"),
    })?;
    let chain = certificates(&serving.certificate_pem)?;
    let key =
        PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).map_err(|error| anyhow!("read key: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(client_ca_pem)? {
        roots.add(certificate).context("read client authority")?;
    }
    Ok(Kubelet { listener, tls: tls_config(chain, key, roots).context("prepare TLS of the kubelet")? })
}

impl Kubelet {
    /// Serves until cancelled.
    pub async fn serve(self, backend: Arc<dyn StreamingBackend>, token: CancellationToken) {
        let config = KubeletServerConfig { tls: self.tls, authorizer: Arc::new(api_server_only), backend };
        KubeletServer::new(config).run(self.listener, token).await;
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("read PEM: {error}"))
}
