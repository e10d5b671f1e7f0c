//! The transport against a real TLS server on loopback.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::Client;

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// (chain, key) in PEM.
    fn leaf(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// Answers every request with what it saw: HTTP version, token, and whether a client certificate came.
async fn serve(ca: &Ca, tasks: &mut JoinSet<()>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificates(&ca.pem(), "ca").unwrap().remove(0)).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let (chain, key) = ca.leaf("api");
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&chain, "chain").unwrap(), PrivateKeyDer::from_pem_slice(&key).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let certified = stream.get_ref().1.peer_certificates().is_some();
            connections.spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| async move {
                    let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
                    let text = format!("{:?} {} {certified}", request.version(), token.unwrap_or("-"));
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn ask(transport: &Arc<HttpsTransport>) -> Result<String, ClientError> {
    let client = Client::new(transport.clone(), "test");
    let bytes = client.raw(http::Method::GET, "/version", None).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn addresses(list: &[SocketAddr]) -> Arc<ServerAddresses> {
    Arc::new(ServerAddresses::new(list.iter().map(ToString::to_string).collect()))
}

#[tokio::test]
async fn identity_is_presented_and_can_change_without_a_new_transport() {
    let (ca, mut tasks) = (Ca::new(), JoinSet::new());
    let address = serve(&ca, &mut tasks).await;
    let token = Identity::Token("secret".to_owned());
    let transport = HttpsTransport::new(addresses(&[address]), "api", Trust::Roots(ca.pem()), token).unwrap();
    assert_eq!(ask(&transport).await.unwrap(), "HTTP/2.0 Bearer secret false");
    let (chain_pem, key_pem) = ca.leaf("client");
    transport.set_identity(Identity::Certificate { chain_pem, key_pem }).unwrap();
    assert_eq!(ask(&transport).await.unwrap(), "HTTP/2.0 - true");
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let (ca, other, mut tasks) = (Ca::new(), Ca::new(), JoinSet::new());
    let address = serve(&ca, &mut tasks).await;
    let trust = Trust::Roots(other.pem());
    let transport = HttpsTransport::new(addresses(&[address]), "api", trust, Identity::Anonymous).unwrap();
    let error = ask(&transport).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let trust = Trust::Roots(ca.pem());
    let transport = HttpsTransport::new(addresses(&[address]), "other", trust, Identity::Anonymous).unwrap();
    assert!(ask(&transport).await.is_err(), "the name does not fit");
}

#[tokio::test]
async fn a_dead_address_is_passed_over() {
    let (ca, mut tasks) = (Ca::new(), JoinSet::new());
    let address = serve(&ca, &mut tasks).await;
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dial = addresses(&[dead, address]);
    let transport = HttpsTransport::new(dial.clone(), "api", Trust::Roots(ca.pem()), Identity::Anonymous).unwrap();
    assert_eq!(ask(&transport).await.unwrap(), "HTTP/2.0 - false");
    assert_eq!(*dial.good.lock(), 1);
}

#[tokio::test]
async fn a_token_file_is_read() {
    let (ca, mut tasks) = (Ca::new(), JoinSet::new());
    let address = serve(&ca, &mut tasks).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "from-file\n").unwrap();
    let identity = Identity::TokenFile(file.path().to_owned());
    let transport = HttpsTransport::new(addresses(&[address]), "api", Trust::Roots(ca.pem()), identity).unwrap();
    assert_eq!(ask(&transport).await.unwrap(), "HTTP/2.0 Bearer from-file false");
}
