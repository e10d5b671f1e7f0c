//! A certificate authority: its certificate, its key, and what it signs.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use ring::digest;

use super::{
    AUTHORITY_DAYS, KeyAndCertificate, Leaf, PkiError, files,
    leaf::{days_from_now, leaf_params},
};

/// Signs leaf certificates of one trust domain.
pub struct Authority {
    /// The certificate (or chain, when an operator brought one) as PEM.
    pub certificate_pem: String,
    /// The key as PKCS#8 PEM, needed by the in-cluster signer.
    pub key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Loads `<folder>/<name>.crt` and `.key`, or makes both.
    pub fn load_or_create(folder: &Path, name: &str) -> Result<Authority, PkiError> {
        let certificate_path = folder.join(format!("{name}.crt"));
        let key_path = folder.join(format!("{name}.key"));
        let existing = (files::read_secret(&certificate_path)?, files::read_secret(&key_path)?);
        if let (Some(certificate_pem), Some(key_pem)) = existing {
            return Authority::load(certificate_pem, key_pem)
                .map_err(|source| PkiError::Parse { path: certificate_path.display().to_string(), source });
        }
        let authority = Authority::create(name)?;
        files::write_secret(&key_path, authority.key_pem.as_bytes())?;
        files::write_public(&certificate_path, authority.certificate_pem.as_bytes())?;
        Ok(authority)
    }

    /// A new self-signed authority.
    pub fn create(name: &str) -> Result<Authority, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, format!("skiff-{name}@{}", jiff::Timestamp::now().as_second()));
        params.distinguished_name = subject;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = days_from_now(AUTHORITY_DAYS);
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Authority { issuer: Issuer::new(params, key), certificate_pem, key_pem })
    }

    fn load(certificate_pem: String, key_pem: String) -> Result<Authority, rcgen::Error> {
        let key = KeyPair::from_pem(&key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)?;
        Ok(Authority { issuer, certificate_pem, key_pem })
    }

    /// A new key and its certificate.
    pub fn issue(&self, leaf: &Leaf) -> Result<KeyAndCertificate, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = leaf_params(leaf)?.signed_by(&key, &self.issuer)?;
        Ok(KeyAndCertificate { certificate_pem: self.with_chain(certificate.pem()), key_pem: key.serialize_pem() })
    }

    /// Signs the public key of a request under the names *we* chose: nothing in
    /// the request but its key is trusted.
    pub fn sign_request(&self, request_pem: &str, leaf: &Leaf) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|error| PkiError::Request(error.to_string()))?;
        let certificate = leaf_params(leaf)?.signed_by(&request.public_key, &self.issuer)?;
        Ok(self.with_chain(certificate.pem()))
    }

    /// Appends intermediates when the operator's authority is not self-signed.
    pub(super) fn with_chain(&self, leaf_pem: String) -> String {
        if self.certificate_pem.matches("BEGIN CERTIFICATE").count() > 1 {
            format!("{leaf_pem}{}", self.certificate_pem)
        } else {
            leaf_pem
        }
    }
}

/// The hash that a join token carries: SHA-256 of the authority's file when it
/// is one certificate, of the root's DER when it is a chain. Lower-case hex.
pub fn fingerprint(authority_pem: &str) -> String {
    let certificates: Vec<_> = pem_certificates(authority_pem);
    let digest = match certificates.as_slice() {
        [] | [_] => digest::digest(&digest::SHA256, authority_pem.as_bytes()),
        [.., root] => digest::digest(&digest::SHA256, root),
    };
    skiff_api::hex::encode(digest.as_ref())
}

fn pem_certificates(pem: &str) -> Vec<Vec<u8>> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(|found| found.ok().map(|der| der.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{certificate_request, leaf::Usage};
    use super::*;

    #[test]
    fn a_signed_request_carries_our_names_and_not_the_requesters() {
        let authority = Authority::create("client-ca").unwrap();
        let key = KeyPair::generate().unwrap();
        let request = certificate_request(&key.serialize_pem(), "system:admin").unwrap();
        let leaf = Leaf::client("system:node:a", Some("system:nodes"));
        let pem = authority.sign_request(&request, &leaf).unwrap();
        let info = super::super::CertificateInfo::parse(&pem).unwrap();
        assert_eq!(info.common_name, "system:node:a");
        assert_eq!(info.organizations, ["system:nodes"]);
        assert!(matches!(leaf.usage, Usage::Client));
    }

    #[test]
    fn an_authority_survives_reloading() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(folder.path(), "server-ca").unwrap();
        let second = Authority::load_or_create(folder.path(), "server-ca").unwrap();
        assert_eq!(first.certificate_pem, second.certificate_pem);
        assert_eq!(fingerprint(&first.certificate_pem).len(), 64);
        second.issue(&Leaf::server("x", &["localhost".to_owned(), "127.0.0.1".to_owned()])).unwrap();
    }
}
