//! Who talks to the node: TLS with client certificates, identity from the certificate, and the decision.

use std::sync::Arc;

use http::Method;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The name the API server's client certificate may carry instead of the group.
pub const API_SERVER_USER: &str = "system:kube-apiserver";
/// Members may do everything.
pub const MASTERS_GROUP: &str = "system:masters";

/// A verified client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Common name.
    pub name: String,
    /// Organisations.
    pub groups: Vec<String>,
}

impl Identity {
    /// Reads the subject of a certificate that TLS has verified; `None` if it has no common name or does not parse.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Identity { name, groups })
    }
}

/// What a client wants to do, in the terms of the `nodes` subresources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `create`, ...
    pub verb: &'static str,
    /// `proxy`, `metrics`, `log`, `stats`, `healthz`, ...
    pub subresource: &'static str,
    /// The request path.
    pub path: String,
}

impl Attributes {
    /// The attributes of a request.
    pub fn of(method: &Method, path: &str) -> Self {
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        };
        let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
        let subresource = match path {
            _ if below("/metrics") => "metrics",
            _ if below("/stats") => "stats",
            _ if below("/logs") => "log",
            _ if below("/healthz") => "healthz",
            _ if below("/pods") || below("/runningpods") => "pods",
            _ => "proxy",
        };
        Attributes { verb, subresource, path: path.to_owned() }
    }
}

/// Decides whether a client may do something.
pub type Authorizer = Arc<dyn Fn(&Identity, &Attributes) -> bool + Send + Sync>;

/// The default decision: only the API server's kubelet client.
pub fn api_server_only(identity: &Identity, _: &Attributes) -> bool {
    identity.name == API_SERVER_USER || identity.groups.iter().any(|group| group == MASTERS_GROUP)
}

/// TLS for the server: `certificates` and `key` are the node's serving pair; clients may show a certificate of one of `client_cas`.
pub fn tls_config(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_cas: RootCertStore,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Health needs no certificate, so the handshake must not insist; requests without one are refused later.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client_cas), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)?;
    // Upgrades exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, groups: &[&str]) -> Identity {
        Identity { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect() }
    }

    #[test]
    fn only_the_api_server_is_let_in_by_default() {
        let attributes = Attributes::of(&Method::POST, "/exec/default/p/c");
        assert!(api_server_only(&identity(API_SERVER_USER, &[]), &attributes));
        assert!(api_server_only(&identity("kubelet-client", &["system:masters"]), &attributes));
        assert!(!api_server_only(&identity("system:node:node-2", &["system:nodes"]), &attributes));
        assert!(!api_server_only(&Identity::default(), &attributes));
    }

    #[test]
    fn paths_map_to_node_subresources() {
        let of = |method: Method, path| {
            let attributes = Attributes::of(&method, path);
            (attributes.verb, attributes.subresource)
        };
        assert_eq!(of(Method::GET, "/metrics/cadvisor"), ("get", "metrics"));
        assert_eq!(of(Method::GET, "/metricsfoo"), ("get", "proxy"));
        assert_eq!(of(Method::POST, "/exec/a/b/c"), ("create", "proxy"));
        assert_eq!(of(Method::GET, "/pods"), ("get", "pods"));
    }
}
