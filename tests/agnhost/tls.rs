//! Serving over TLS with a certificate from files.

use std::{fs, sync::Arc};

use anyhow::{Context, Result};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

/// TLS with the certificate and key of two PEM files. With a CA file only
/// clients with a certificate of that authority get in.
pub fn acceptor(certificate: &str, key: &str, client_ca: Option<&str>) -> Result<TlsAcceptor> {
    let read = |path: &str| fs::read(path).with_context(|| path.to_owned());
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match client_ca {
        None => builder.with_no_client_auth().with_single_cert(chain, key)?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in CertificateDer::pem_slice_iter(&read(path)?) {
                roots.add(authority?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?
        }
    };
    Ok(Arc::new(config).into())
}
