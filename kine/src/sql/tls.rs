//! How a database server's certificate is judged.
//!
//! As clients of these databases do: with an authority its signature always counts, the name unless
//! told otherwise; without one and without a demand the connection is encrypted but unproven.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

/// Where systems keep the authorities they trust.
const SYSTEM_AUTHORITIES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Whether to encrypt, and what to ask of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TlsMode {
    Off,
    /// If the server can; nothing is verified.
    #[default]
    Prefer,
    /// Always; nothing is verified.
    Require,
    /// Always, with a certificate of a trusted authority.
    VerifyAuthority,
    /// Always, with a certificate of a trusted authority for this host.
    VerifyName,
}

/// What is needed to open TLS connections.
#[derive(Clone)]
pub(crate) struct TlsPlan {
    pub(crate) mode: TlsMode,
    config: Option<Arc<ClientConfig>>,
}

/// PEM files of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PemFiles {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl TlsPlan {
    /// Reads the files; the text of an error names the one that is wrong.
    pub(crate) fn new(mode: TlsMode, files: &PemFiles) -> Result<TlsPlan, String> {
        if mode == TlsMode::Off {
            return Ok(TlsPlan { mode, config: None });
        }
        let provider = Arc::new(ring::default_provider());
        let authority = || -> Result<Arc<WebPkiServerVerifier>, String> {
            let roots = Arc::new(roots(files.ca.as_deref())?);
            let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            builder.build().map_err(|error| error.to_string())
        };
        let verifier: Arc<dyn ServerCertVerifier> = match mode {
            TlsMode::VerifyName => authority()?,
            TlsMode::VerifyAuthority => Arc::new(Lenient { provider: provider.clone(), authority: Some(authority()?) }),
            _ => Arc::new(Lenient { provider: provider.clone(), authority: None }),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (&files.certificate, &files.key) {
            (None, None) => config.with_no_client_auth(),
            (Some(certificate), Some(key)) => config
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?,
            _ => return Err("a certificate and its key belong together".to_owned()),
        };
        Ok(TlsPlan { mode, config: Some(Arc::new(config)) })
    }

    pub(crate) fn connection(&self, host: &str) -> Result<ClientConnection, String> {
        let config = self.config.clone().ok_or("TLS is off")?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no name for TLS"))?;
        ClientConnection::new(config, name).map_err(|error| error.to_string())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| format!("{}: {error}", path.display()))?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate", path.display()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The file of authorities this host trusts.
pub(crate) fn system_authorities() -> Result<PathBuf, String> {
    let found = SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| "this host has no list of trusted authorities; give --datastore-cafile".to_owned())
}

/// The given authority, or those the system trusts.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let path = match ca {
        Some(path) => path.to_owned(),
        None => system_authorities()?,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(&path)?);
    if added == 0 {
        return Err(format!("{} holds no usable certificate", path.display()));
    }
    Ok(roots)
}

/// Judges certificates less strictly than rustls does by itself; what is signed with them must still be right.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    /// Asked about the authority; whatever it says about the name is ignored. `None` takes every certificate.
    authority: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
