//! Who is calling the supervisor API: the holder of a token, or a node that joined before.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, Request, StatusCode, header};
use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{JoinSecrets, Refusal};

/// An accepted caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Knows the server secret: may do everything here.
    ServerToken,
    /// Knows the agent secret: may join nodes.
    AgentToken,
    /// Holds the certificate of this node.
    Node(String),
}

/// Identifies the caller: the token counts first, so that a node whose
/// certificate has trouble can still join again.
pub fn identify<B>(
    request: &Request<B>,
    certificates: &[CertificateDer<'_>],
    secrets: &JoinSecrets,
) -> Result<Caller, Refusal> {
    if let Some((user, secret)) = basic_credentials(request.headers()) {
        return match user.as_str() {
            "server" if same(&secret, &secrets.server) => Ok(Caller::ServerToken),
            "node" | "server" if same(&secret, &secrets.agent) => Ok(Caller::AgentToken),
            "node" if same(&secret, &secrets.server) => Ok(Caller::AgentToken),
            _ => Err(Refusal(StatusCode::UNAUTHORIZED, "the token is not the one of this cluster".to_owned())),
        };
    }
    match certificates.first().and_then(|der| node_of_certificate(der)) {
        Some(node) => Ok(Caller::Node(node)),
        None => Err(Refusal(StatusCode::UNAUTHORIZED, "a token or a node certificate is needed".to_owned())),
    }
}

fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()?;
    let (user, secret) = decoded.split_once(':')?;
    Some((user.to_owned(), secret.to_owned()))
}

/// Compares hashes, so that the time taken says nothing about the secret.
fn same(given: &str, expected: &str) -> bool {
    let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    !expected.is_empty() && hash(given).as_ref() == hash(expected).as_ref()
}

fn node_of_certificate(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let is_node = subject.iter_organization().any(|organization| organization.as_str() == Ok("system:nodes"));
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    name.strip_prefix("system:node:").filter(|_| is_node).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Leaf};
    use rustls_pki_types::pem::PemObject;

    fn request(credentials: Option<&str>) -> Request<()> {
        let mut request = Request::builder();
        if let Some(credentials) = credentials {
            request = request.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(credentials)));
        }
        request.body(()).unwrap()
    }

    #[test]
    fn secrets_and_node_certificates_are_told_apart() {
        let secrets = JoinSecrets { server: "s".into(), agent: "a".into() };
        assert_eq!(identify(&request(Some("server:s")), &[], &secrets).unwrap(), Caller::ServerToken);
        assert_eq!(identify(&request(Some("node:a")), &[], &secrets).unwrap(), Caller::AgentToken);
        assert!(identify(&request(Some("server:a")), &[], &secrets).is_ok_and(|caller| caller == Caller::AgentToken));
        assert!(identify(&request(Some("node:wrong")), &[], &secrets).is_err());
        assert!(identify(&request(None), &[], &secrets).is_err());
        let authority = Authority::create("client-ca").unwrap();
        let der = |leaf: &Leaf| {
            let pem = authority.issue(leaf).unwrap().certificate_pem;
            CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
        };
        let node = der(&Leaf::client("system:node:n1", Some("system:nodes")));
        assert_eq!(identify(&request(None), &[node], &secrets).unwrap(), Caller::Node("n1".into()));
        let other = der(&Leaf::client("system:node:n1", Some("developers")));
        assert!(identify(&request(None), &[other], &secrets).is_err());
    }
}
