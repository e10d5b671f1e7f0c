//! Client certificates: common name is the user, organizations are the groups.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::UserInfo;

/// Certificates that may sign client certificates. The TLS layer accepts
/// certificates of any CA the server knows; this says which one it was.
#[derive(Clone, Default)]
pub struct CaSet(Option<Arc<dyn ClientCertVerifier>>);

impl CaSet {
    /// An empty list makes a set that verifies nothing.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<CaSet, rustls::Error> {
        if roots.is_empty() {
            return Ok(CaSet(None));
        }
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(CaSet(Some(verifier)))
    }

    /// Whether the chain (leaf first) leads to one of the CAs, now, for client use.
    pub fn verifies(&self, chain: &[CertificateDer<'static>]) -> bool {
        match (&self.0, chain.split_first()) {
            (Some(verifier), Some((leaf, rest))) => verifier.verify_client_cert(leaf, rest, UnixTime::now()).is_ok(),
            _ => false,
        }
    }
}

/// Subject of a certificate.
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// Reads the subject; `None` when the certificate or its common name is missing.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned).ok();
    let common_name = parsed.subject().iter_common_name().find_map(text)?;
    let organizations = parsed.subject().iter_organization().filter_map(text).collect();
    Some(Subject { common_name, organizations })
}

/// The user a certificate names.
pub fn user(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let Subject { common_name, organizations } = subject(certificate)?;
    if common_name.is_empty() {
        return None;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let hex = skiff_api::hex::encode(digest.as_ref());
    let mut user = UserInfo { username: common_name, groups: organizations, ..UserInfo::default() };
    user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hex}")]);
    Some(user)
}
