//! Leaf certificates: what they say, how they are read back, when they are due.

use std::{path::Path, sync::Arc};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::{crypto::ring::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Authority, LEAF_DAYS, PkiError, RENEW_BEFORE_DAYS, files};

/// What a leaf certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// What a leaf certificate says.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub common_name: String,
    pub organization: Option<String>,
    /// DNS names and addresses.
    pub names: Vec<String>,
    pub usage: Usage,
}

impl Leaf {
    /// A client identity: common name is the user, organisation the group.
    pub fn client(user: &str, group: Option<&str>) -> Leaf {
        Leaf { common_name: user.into(), organization: group.map(Into::into), names: Vec::new(), usage: Usage::Client }
    }

    pub fn server(common_name: &str, names: &[String]) -> Leaf {
        Leaf { common_name: common_name.into(), organization: None, names: names.to_vec(), usage: Usage::Server }
    }
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct KeyAndCertificate {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl KeyAndCertificate {
    /// Loads `<folder>/<name>.crt` and `.key`; issues anew when missing, due, or
    /// when the certificate lacks a name the leaf must have.
    pub fn load_or_issue(folder: &Path, name: &str, authority: &Authority, leaf: &Leaf) -> Result<Self, PkiError> {
        let certificate_path = folder.join(format!("{name}.crt"));
        let key_path = folder.join(format!("{name}.key"));
        if let (Some(certificate_pem), Some(key_pem)) =
            (files::read_secret(&certificate_path)?, files::read_secret(&key_path)?)
        {
            let info = CertificateInfo::parse(&certificate_pem)
                .map_err(|message| PkiError::Certificate { path: certificate_path.display().to_string(), message })?;
            if info.is_current() && leaf.names.iter().all(|name| info.names.contains(name)) {
                return Ok(KeyAndCertificate { certificate_pem, key_pem });
            }
        }
        let issued = authority.issue(leaf)?;
        files::write_secret(&key_path, issued.key_pem.as_bytes())?;
        files::write_public(&certificate_path, issued.certificate_pem.as_bytes())?;
        Ok(issued)
    }
}

/// The parts of a certificate that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub names: Vec<String>,
    /// Seconds since the epoch.
    pub not_after: i64,
}

impl CertificateInfo {
    /// Reads the first certificate of a PEM text.
    pub fn parse(pem: &str) -> Result<CertificateInfo, String> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let text = |found: Option<&x509_parser::x509::AttributeTypeAndValue>| {
            found.and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned()
        };
        let subject = certificate.subject();
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => extension.value.general_names.iter().filter_map(general_name).collect(),
            _ => Vec::new(),
        };
        Ok(CertificateInfo {
            common_name: text(subject.iter_common_name().next()),
            organizations: subject.iter_organization().map(|organization| text(Some(organization))).collect(),
            names,
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Whether more than the renewal margin is left.
    pub fn is_current(&self) -> bool {
        self.not_after - jiff::Timestamp::now().as_second() > RENEW_BEFORE_DAYS * 86_400
    }
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// A certificate request for a key that stays here.
pub fn certificate_request(key_pem: &str, common_name: &str) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key_pem)?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    Ok(params.serialize_request(&key)?.pem()?)
}

/// Turns PEM into what rustls signs with.
pub fn tls_key(pair: &KeyAndCertificate) -> Result<Arc<CertifiedKey>, PkiError> {
    let fail = |message: String| PkiError::Certificate { path: "certificate".to_owned(), message };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| fail(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|error| fail(error.to_string()))?;
    let key = any_supported_type(&key).map_err(|error| fail(error.to_string()))?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

pub(super) fn leaf_params(leaf: &Leaf) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(leaf.names.clone())?;
    let mut subject = DistinguishedName::new();
    if let Some(organization) = &leaf.organization {
        subject.push(DnType::OrganizationName, organization.clone());
    }
    subject.push(DnType::CommonName, leaf.common_name.clone());
    params.distinguished_name = subject;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match leaf.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
    };
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = days_from_now(LEAF_DAYS);
    Ok(params)
}

/// From yesterday (clocks of small boards run late) to `days` from now.
#[allow(clippy::type_complexity)]
pub(super) fn days_from_now(days: i64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = jiff::Timestamp::now().as_second().max(86_400).unsigned_abs();
    let seconds = std::time::Duration::from_secs;
    (epoch + seconds(now - 86_400), epoch + seconds(now + days.unsigned_abs() * 86_400))
}
