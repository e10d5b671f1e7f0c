//! Certificates for requests whose names are taken as they are: subject, names
//! and key come from the request, usages and life from the signer.
//!
//! The certificate is written here, byte for byte, because the subject must stay
//! as it is: a user may be in many groups, which are as many organizations.

use std::time::Duration;

use rcgen::{KeyPair, SigningKey};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    oid_registry::{OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER},
    prelude::{FromDer, X509Certificate},
};

use super::{Authority, PkiError, der};

/// Clocks of clients may be behind by this much.
const BACKDATE: Duration = Duration::from_secs(300);
/// Shorter lives are not dated back.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Bits of the key-usage extension.
const KEY_USAGES: [(&str, usize); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Identifiers of the extended-key-usage extension.
const EXTENDED_USAGES: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

impl Authority {
    /// Signs a request (PEM) with everything it says. `now` in seconds since the epoch.
    pub fn sign_as_requested(
        &self,
        request_pem: &[u8],
        usages: &[String],
        lifetime: Duration,
        now: i64,
    ) -> Result<String, PkiError> {
        let refuse = |error: &dyn std::fmt::Display| PkiError::Request(error.to_string());
        let (_, block) = x509_parser::pem::parse_x509_pem(request_pem).map_err(|error| refuse(&error))?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| refuse(&error))?;
        request
            .verify_signature()
            .map_err(|_| PkiError::Request("unable to verify certificate request signature".to_owned()))?;
        let broken = |error: &dyn std::fmt::Display| PkiError::Certificate {
            path: "certificate authority".to_owned(),
            message: error.to_string(),
        };
        let (_, own) =
            x509_parser::pem::parse_x509_pem(self.certificate_pem.as_bytes()).map_err(|error| broken(&error))?;
        let (_, own) = X509Certificate::from_der(&own.contents).map_err(|error| broken(&error))?;

        let key = KeyPair::from_pem(&self.key_pem)?;
        let algorithm = algorithm(&key)?;
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 2);
        let begin = if lifetime < SHORT { now } else { now - seconds(BACKDATE) };
        let end = now.saturating_add(seconds(lifetime)).min(own.validity().not_after.timestamp());
        let wanted = &request.certification_request_info;
        let body = der::sequence(&[
            &der::explicit(0, &der::integer(&[2])),
            &der::integer(&serial()),
            &algorithm,
            own.subject().as_raw(),
            &der::sequence(&[&der::time(begin), &der::time(end)]),
            wanted.subject.as_raw(),
            wanted.subject_pki.raw,
            &der::explicit(3, &extensions(&request, usages, &own)?),
        ]);
        let signature = key.sign(&body)?;
        let certificate = der::sequence(&[&body, &algorithm, &der::bits(&signature)]);
        Ok(self.with_chain(pem(&certificate)))
    }
}

fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = rand::random();
    // Positive and of full length.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    bytes
}

/// How the key signs, as certificates name it.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, PkiError> {
    let null = der::element(0x05, &[]);
    let known = key.algorithm();
    Ok(if *known == rcgen::PKCS_ECDSA_P256_SHA256 {
        der::sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 2])])
    } else if *known == rcgen::PKCS_ECDSA_P384_SHA384 {
        der::sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 3])])
    } else if *known == rcgen::PKCS_RSA_SHA256 {
        der::sequence(&[&der::oid(&[1, 2, 840, 113_549, 1, 1, 11]), &null])
    } else if *known == rcgen::PKCS_ED25519 {
        der::sequence(&[&der::oid(&[1, 3, 101, 112])])
    } else {
        return Err(PkiError::Request("the authority's key is of a kind that cannot sign".to_owned()));
    })
}

fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let truth = if critical { der::element(0x01, &[0xff]) } else { Vec::new() };
    der::sequence(&[&der::oid(id), &truth, &der::octets(value)])
}

fn extensions(
    request: &X509CertificationRequest<'_>,
    usages: &[String],
    authority: &X509Certificate<'_>,
) -> Result<Vec<u8>, PkiError> {
    let (mut bits, mut extended) = (Vec::new(), Vec::new());
    for usage in usages {
        if let Some((_, bit)) = KEY_USAGES.iter().find(|(name, _)| name == usage) {
            bits.push(*bit);
        } else if let Some((_, id)) = EXTENDED_USAGES.iter().find(|(name, _)| name == usage) {
            let id = der::oid(id);
            if !extended.contains(&id) {
                extended.push(id);
            }
        } else {
            return Err(PkiError::Request(format!("unrecognized usage values: {usage:?}")));
        }
    }
    let mut all = Vec::new();
    if !bits.is_empty() {
        all.push(extension(&[2, 5, 29, 15], true, &der::named_bits(&bits)));
    }
    if !extended.is_empty() {
        all.push(extension(&[2, 5, 29, 37], false, &der::element(0x30, &extended.concat())));
    }
    all.push(extension(&[2, 5, 29, 19], true, &der::sequence(&[])));
    let identifier =
        authority.extensions().iter().find(|extension| extension.oid == OID_X509_EXT_SUBJECT_KEY_IDENTIFIER);
    // The identifier is an octet string inside the extension; its content goes under an implicit tag.
    if let Some(content) = identifier.and_then(|extension| extension.value.get(2..)) {
        all.push(extension(&[2, 5, 29, 35], false, &der::sequence(&[&der::element(0x80, content)])));
    }
    if let Some(names) = alternative_names(request) {
        let no_subject = request.certification_request_info.subject.iter().next().is_none();
        all.push(extension(&[2, 5, 29, 17], no_subject, &names));
    }
    Ok(der::element(0x30, &all.concat()))
}

/// The names asked for, as they were sent.
fn alternative_names(request: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    request.certification_request_info.iter_attributes().find_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(asked) => {
            let names = asked.extensions.iter().find(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME)?;
            Some(names.value.to_vec())
        }
        _ => None,
    })
}

fn pem(certificate: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    let text = BASE64.encode(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rustls::{RootCertStore, pki_types::CertificateDer, server::WebPkiClientVerifier};
    use rustls_pki_types::{UnixTime, pem::PemObject};

    use super::*;

    fn request(names: &[&str]) -> (KeyPair, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "devs");
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        (key, pem)
    }

    fn usages(all: &[&str]) -> Vec<String> {
        all.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn a_certificate_is_what_was_asked_for_and_a_strict_verifier_takes_it() {
        let authority = Authority::create("client-ca").unwrap();
        let (_, asked) = request(&["a.example", "10.0.0.1"]);
        let now = jiff::Timestamp::now().as_second();
        let lifetime = Duration::from_secs(3600);
        let pem = authority
            .sign_as_requested(asked.as_bytes(), &usages(&["digital signature", "client auth"]), lifetime, now)
            .unwrap();
        let info = super::super::CertificateInfo::parse(&pem).unwrap();
        assert_eq!((info.common_name.as_str(), info.organizations.as_slice()), ("jane", &["devs".to_owned()][..]));
        assert_eq!(info.names, ["a.example", "10.0.0.1"]);
        assert_eq!(info.not_after, now + 3600);

        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        verifier.verify_client_cert(&leaf, &[], UnixTime::now()).expect("a good client certificate");
        let server = authority.sign_as_requested(asked.as_bytes(), &usages(&["server auth"]), lifetime, now).unwrap();
        let server = CertificateDer::from_pem_slice(server.as_bytes()).unwrap();
        assert!(verifier.verify_client_cert(&server, &[], UnixTime::now()).is_err(), "not for clients");
    }

    #[test]
    fn a_forged_request_and_unknown_usages_are_refused() {
        let authority = Authority::create("client-ca").unwrap();
        let (_, asked) = request(&[]);
        let (_, block) = x509_parser::pem::parse_x509_pem(asked.as_bytes()).unwrap();
        let mut forged = block.contents.clone();
        let at = forged.windows(4).position(|bytes| bytes == b"jane").unwrap();
        forged[at] = b'x';
        let forged = super::pem(&forged).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        let lifetime = Duration::from_secs(3600);
        assert!(authority.sign_as_requested(forged.as_bytes(), &usages(&["client auth"]), lifetime, 0).is_err());
        assert!(authority.sign_as_requested(asked.as_bytes(), &usages(&["magic"]), lifetime, 0).is_err());
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let authority = Authority::create("client-ca").unwrap();
        let (_, asked) = request(&[]);
        let now = jiff::Timestamp::now().as_second();
        let century = Duration::from_secs(100 * 365 * 86_400);
        let pem = authority.sign_as_requested(asked.as_bytes(), &usages(&["client auth"]), century, now).unwrap();
        let own = super::super::CertificateInfo::parse(&authority.certificate_pem).unwrap();
        assert_eq!(super::super::CertificateInfo::parse(&pem).unwrap().not_after, own.not_after);
    }
}
