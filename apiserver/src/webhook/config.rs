//! `clientConfig`: where a webhook is, and whom to trust there.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::aggregation::{ServiceReference, client_config};

/// Roots of the host, where a webhook has no bundle of its own.
const HOST_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Service {
        reference: ServiceReference,
        /// Begins with a slash.
        path: String,
    },
    Url {
        host: String,
        port: u16,
        /// With the query, begins with a slash.
        path: String,
    },
}

/// A parsed `clientConfig`.
#[derive(Clone)]
pub struct ClientConfig {
    pub target: Target,
    pub(super) tls: TlsConnector,
}

impl ClientConfig {
    /// Reads `{url | service, caBundle}`.
    pub fn parse(config: &Value) -> Result<ClientConfig, String> {
        let target = match (config["url"].as_str(), config["service"].is_object()) {
            (Some(url), _) => parse_url(url)?,
            (None, true) => parse_service(&config["service"]),
            (None, false) => return Err("webhook configuration must have either service or URL".to_owned()),
        };
        let bundle = BASE64
            .decode(config["caBundle"].as_str().unwrap_or_default())
            .map_err(|error| format!("caBundle: {error}"))?;
        let bundle = if bundle.trim_ascii().is_empty() { host_roots() } else { bundle };
        let tls =
            client_config(Some(&bundle), None).map_err(|error| format!("unable to load root certificates: {error}"))?;
        Ok(ClientConfig { target, tls: Arc::new(tls).into() })
    }

    /// The URL without a timeout.
    pub fn url(&self) -> String {
        match &self.target {
            Target::Service { reference, path } => format!("https://{}:{}{path}", reference.host(), reference.port),
            Target::Url { path, .. } => format!("https://{}{path}", self.authority()),
        }
    }

    /// Host and port, as in the header.
    pub(super) fn authority(&self) -> String {
        match &self.target {
            Target::Service { reference, .. } => format!("{}:{}", reference.host(), reference.port),
            Target::Url { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Target::Url { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

fn parse_service(service: &Value) -> Target {
    let text = |name: &str| service[name].as_str().unwrap_or_default();
    let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let path = text("path");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let reference = ServiceReference { namespace: text("namespace").to_owned(), name: text("name").to_owned(), port };
    Target::Service { reference, path }
}

fn parse_url(url: &str) -> Result<Target, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("{url:?} does not begin with https://"));
    }
    let host = uri.host().ok_or_else(|| format!("{url:?} has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Target::Url { host, port: uri.port_u16().unwrap_or(443), path })
}

fn host_roots() -> Vec<u8> {
    HOST_ROOTS.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_are_read() {
        let service = parse_service(&json!({"name": "s", "namespace": "n", "path": "convert"}));
        let reference = ServiceReference { namespace: "n".to_owned(), name: "s".to_owned(), port: 443 };
        assert_eq!(service, Target::Service { reference, path: "/convert".to_owned() });
        let url = parse_url("https://[::1]:8443/a?b=c").unwrap();
        assert_eq!(url, Target::Url { host: "::1".to_owned(), port: 8443, path: "/a?b=c".to_owned() });
        assert!(parse_url("http://plain").is_err());
        assert!(ClientConfig::parse(&json!({})).is_err());
    }
}
