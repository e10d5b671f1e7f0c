//! Client certificates: common name is the user, organizations are the groups.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::{
    der_parser::{Oid, oid},
    prelude::{FromDer, X509Certificate},
};

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

/// The attribute of a subject that carries a uid.
const UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// Subject of a certificate.
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// Should be one text at most that is not empty.
    uids: Vec<String>,
}

/// Reads the subject; `None` when the certificate or its common name is missing.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned).ok();
    // Of several names the last one counts, as in Go.
    let common_name = parsed.subject().iter_common_name().filter_map(text).last()?;
    let organizations = parsed.subject().iter_organization().filter_map(text).collect();
    let uids = parsed.subject().iter_by_oid(&UID).map(|uid| text(uid).unwrap_or_default()).collect();
    Some(Subject { common_name, organizations, uids })
}

/// The user a certificate names.
pub fn user(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let Subject { common_name, organizations, uids } = subject(certificate)?;
    let uid = match uids.as_slice() {
        [] => String::new(),
        [uid] if !uid.is_empty() => uid.clone(),
        // A uid that cannot be told makes the certificate nobody's.
        _ => return None,
    };
    if common_name.is_empty() {
        return None;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let hex = skiff_api::hex::encode(digest.as_ref());
    let mut user = UserInfo { username: common_name, uid, groups: organizations, ..UserInfo::default() };
    user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hex}")]);
    Some(user)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;

    fn of(attributes: &[(DnType, &str)]) -> Option<UserInfo> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        user(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn a_subject_names_user_group_and_uid() {
        let uid = || DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let jane = of(&[(DnType::CommonName, "jane"), (DnType::OrganizationName, "devs"), (uid(), "u-1")]).unwrap();
        assert_eq!((jane.username.as_str(), jane.uid.as_str()), ("jane", "u-1"));
        assert_eq!(jane.groups, ["devs"]);
        assert!(jane.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
        assert!(of(&[(DnType::CommonName, "jane"), (uid(), "")]).is_none());
        assert!(of(&[(DnType::OrganizationName, "devs")]).is_none());
        assert_eq!(of(&[(DnType::CommonName, "jane")]).unwrap().uid, "");
    }
}
