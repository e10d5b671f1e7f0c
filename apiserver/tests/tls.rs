//! The listener: TLS with client certificates, both HTTP versions, certificates
//! exchanged while serving, and draining. Driven by the HTTPS client.

#[path = "../examples/setup/config.rs"]
mod config;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{RootCertStore, pki_types::CertificateDer, server::WebPkiClientVerifier};
use skiff_api::GroupVersionResource;
use skiff_apiserver::{ApiServer, Config, MemoryBackend, serve};
use skiff_client::{Client, HttpsTransport, Identity, ServerAddresses, Trust};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ca: &Issuer, name: &str, organization: &str, usage: ExtendedKeyUsagePurpose) -> (String, KeyPair) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if !organization.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, ca).unwrap().pem(), key)
}

fn server_config(server_ca: &Issuer, client_ca: &Issuer) -> rustls::ServerConfig {
    let (pem, key) = leaf(server_ca, "server", "", ExtendedKeyUsagePurpose::ServerAuth);
    let chain = certificates(&pem);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(client_ca.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

struct Running {
    server: ApiServer,
    tls: Arc<ArcSwap<rustls::ServerConfig>>,
    address: String,
    server_ca: Issuer,
    client_ca: Issuer,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

async fn start() -> Running {
    let (server_ca, client_ca) = (authority("server-ca"), authority("client-ca"));
    let config = Config {
        client_ca: vec![client_ca.der().clone()],
        server_address: "localhost".to_owned(),
        ..config::config(MemoryBackend::default()).unwrap()
    };
    let stop = CancellationToken::new();
    let server = ApiServer::new(config, stop.clone()).unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    server.ready().await;
    let tls = Arc::new(ArcSwap::from_pointee(server_config(&server_ca, &client_ca)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(serve(listener, Arc::clone(&tls), server.handler(), stop.clone()));
    Running { server, tls, address, server_ca, client_ca, stop, serving }
}

impl Running {
    fn client(&self, identity: Identity) -> Client {
        let addresses = Arc::new(ServerAddresses::new(vec![self.address.clone()]));
        let trust = Trust::Roots(self.server_ca.pem().into_bytes());
        Client::new(HttpsTransport::new(addresses, "localhost", trust, identity).unwrap(), "test")
    }

    fn admin(&self) -> Client {
        let (pem, key) = leaf(&self.client_ca, "root", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
        self.client(Identity::Certificate { chain_pem: pem.into_bytes(), key_pem: key.serialize_pem().into_bytes() })
    }
}

fn config_maps() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "configmaps")
}

#[tokio::test]
async fn a_certificate_names_the_user_and_its_groups() {
    let running = start().await;
    assert!(running.admin().list(&config_maps(), None, &Default::default()).await.unwrap().items.is_empty());
    let refused = running.client(Identity::Anonymous).list(&config_maps(), None, &Default::default()).await;
    assert!(refused.unwrap_err().to_string().contains("system:anonymous"));
    let stranger_ca = authority("other");
    let (pem, key) = leaf(&stranger_ca, "root", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let forged = Identity::Certificate { chain_pem: pem.into_bytes(), key_pem: key.serialize_pem().into_bytes() };
    assert!(running.client(forged).list(&config_maps(), None, &Default::default()).await.is_err());
}

#[tokio::test]
async fn a_new_certificate_is_used_for_new_connections() {
    let running = start().await;
    let other_ca = authority("new-server-ca");
    running.tls.store(Arc::new(server_config(&other_ca, &running.client_ca)));
    assert!(
        running.admin().list(&config_maps(), None, &Default::default()).await.is_err(),
        "the old CA is not trusted"
    );
}

#[tokio::test]
async fn stopping_ends_watches_and_the_listener() {
    let running = start().await;
    let admin = running.admin();
    let mut watch = admin.watch(&config_maps(), None, &Default::default()).await.unwrap();
    let body = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    admin.create(&GroupVersionResource::new("", "v1", "namespaces"), None, &body).await.unwrap();
    let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    admin.create(&config_maps(), Some("n"), &map).await.unwrap();
    assert!(watch.next().await.unwrap().is_ok());
    running.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(3), async { while watch.next().await.is_some() {} }).await;
    assert!(ended.is_ok(), "the watch ends");
    tokio::time::timeout(Duration::from_secs(8), running.serving).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(&running.address).await.is_err());
    drop(running.server);
}
