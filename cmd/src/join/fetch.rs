//! One HTTPS request to a server whose authority may not be known yet.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use skiff_client::any_certificate::AnyCertificate;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pki::KeyAndCertificate;

/// Everything, from connecting to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// No usable answer from the server.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("connect to {address}: {source}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS with {address}: {source}")]
    Tls {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("request to {address}: {message}")]
    Request { address: String, message: String },
    #[error("{address} did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout { address: String },
    #[error("the server is busy: {0}")]
    Busy(String),
}

/// A server by URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub url: String,
    /// `host:port`.
    pub address: String,
    pub host: String,
}

impl Endpoint {
    pub fn parse(url: &str) -> Result<Endpoint, String> {
        let rest = url.strip_prefix("https://").ok_or_else(|| format!("{url:?} does not start with https://"))?;
        let uri: http::Uri = format!("https://{rest}").parse().map_err(|error| format!("{url:?}: {error}"))?;
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
        let port = uri.port_u16().unwrap_or(6443);
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Endpoint { url: url.to_owned(), address: format!("{host}:{port}"), host: bare })
    }
}

/// Which server certificate is good enough.
pub enum Trusted {
    /// Only to fetch the authority, which is then held against a hash.
    Anything,
    /// Certificates of this authority (PEM).
    Authority(String),
}

/// Code and text of an answer.
pub struct Answer {
    pub code: StatusCode,
    pub body: String,
}

/// Sends one request over its own connection.
pub async fn fetch(
    endpoint: &Endpoint,
    trusted: &Trusted,
    identity: Option<&KeyAndCertificate>,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, FetchError> {
    let request = exchange(endpoint, trusted, identity, method, path, headers, body);
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer,
        Err(_) => Err(FetchError::Timeout { address: endpoint.address.clone() }),
    }
}

async fn exchange(
    endpoint: &Endpoint,
    trusted: &Trusted,
    identity: Option<&KeyAndCertificate>,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, FetchError> {
    let address = &endpoint.address;
    let fail = |message: String| FetchError::Request { address: address.clone(), message };
    let stream =
        TcpStream::connect(address).await.map_err(|source| FetchError::Connect { address: address.clone(), source })?;
    let config = client_config(trusted, identity).map_err(fail)?;
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| fail(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|source| FetchError::Tls { address: address.clone(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| fail(error.to_string()))?;
    let mut request = Request::builder().method(method).uri(path).header("host", address.as_str());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(|error| fail(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| fail(error.to_string()))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| fail(error.to_string()))?.to_bytes();
        Ok(Answer { code, body: String::from_utf8_lossy(&body).into_owned() })
    };
    // The connection is driven beside the request and ends with it.
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(fail(error.to_string())),
        },
    }
}

/// TLS towards a server.
pub fn client_config(trusted: &Trusted, identity: Option<&KeyAndCertificate>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match trusted {
        // The answer is public and proves itself by its hash.
        Trusted::Anything => builder.dangerous().with_custom_certificate_verifier(AnyCertificate::verifier(&provider)),
        Trusted::Authority(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| error.to_string())?;
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|error| error.to_string())?;
    builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_addresses_with_the_default_port() {
        let endpoint = Endpoint::parse("https://server.example").unwrap();
        assert_eq!(endpoint.address, "server.example:6443");
        let endpoint = Endpoint::parse("https://[fd00::1]:7443").unwrap();
        assert_eq!((endpoint.address.as_str(), endpoint.host.as_str()), ("[fd00::1]:7443", "fd00::1"));
        assert!(Endpoint::parse("http://x").is_err());
    }
}
