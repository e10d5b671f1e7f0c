//! The listener of a server, and TLS on it.

use std::{io, sync::Arc};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    server::{ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::net::TcpListener;

use crate::{
    config::ServerSettings,
    pki::{ServerPki, tls_key},
};

/// Binds first thing, so that a port in use is found before anything is written.
pub async fn bind(settings: &ServerSettings) -> Result<TcpListener> {
    let address = settings.listen_address();
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "port {} is in use on this host: stop what listens there (ss -ltnp 'sport = :{}' shows it) or choose another --https-listen-port",
            address.port(),
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => anyhow!("--bind-address {}: this host has no such address", address.ip()),
        _ => anyhow!("listen on {address}: {error}"),
    })
}

/// Shows the API server's certificate to everybody; a client may show one of
/// the client or the request-header authority, or none.
pub fn tls(pki: &ServerPki) -> Result<Arc<ArcSwap<ServerConfig>>> {
    let mut roots = RootCertStore::empty();
    for pem in [&pki.client_ca.certificate_pem, &pki.request_header_ca.certificate_pem] {
        for certificate in certificates(pem)? {
            roots.add(certificate).context("read certificate authority")?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .context("prepare verification of client certificates")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(OneKey(tls_key(&pki.api_server)?)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(ArcSwap::from_pointee(config)))
}

/// All certificates of a PEM text.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("read PEM: {error}"))
}

#[derive(Debug)]
struct OneKey(Arc<CertifiedKey>);

impl ResolvesServerCert for OneKey {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
