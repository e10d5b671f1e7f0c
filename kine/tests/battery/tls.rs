//! TLS with database servers and etcds: who is believed, and who is let in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use skiff_kine::*;
use tempfile::TempDir;

use crate::{etcd, servers};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `NAME.crt` and `NAME.key`.
fn issue(authority: &Authority, folder: &Path, name: &str, common_name: &str, hosts: &[&str]) {
    let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Certificates of server and client in a folder, which is handed over to the server.
fn certificates(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let authority = authority();
    fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    issue(&authority, folder, "server", "server", &["localhost", "127.0.0.1"]);
    issue(&authority, folder, "client", "skiff", &[]);
    fs::write(folder.join("other-ca.crt"), self::authority().pem()).unwrap();
    servers::hand_over(folder);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        servers::hand_over(&path);
    }
}

fn files(folder: &Path, ca: &str, client: bool) -> TlsFiles {
    let file = |name: &str| -> Option<PathBuf> { client.then(|| folder.join(name)) };
    TlsFiles { ca: Some(folder.join(ca)), certificate: file("client.crt"), key: file("client.key") }
}

async fn open(url: &str, tls: TlsFiles) -> std::result::Result<Store, String> {
    let database = Database::parse(url, tls).unwrap().unwrap();
    Store::open(StoreOptions::database(database)).await.map_err(|error| error.to_string())
}

async fn works(store: Store) {
    let put = store.put(PutRequest::new("k", "v")).await.unwrap();
    let read = store.range(RangeRequest::new(KeyRange::key("k"))).await.unwrap();
    assert_eq!(read.kvs[0].mod_revision, put.revision);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_with_client_certificates_knows_us_by_ours() {
    let server = servers::postgres_with(false, |folder| {
        certificates(&folder.join("tls"));
        fs::write(folder.join("data/pg_hba.conf"), "hostssl all all 127.0.0.1/32 cert\n").unwrap();
    });
    let tls = server.folder.join("tls");
    let url = |host: &str, options: &str| format!("postgres://skiff@{host}:{}/tls{options}", server.port);
    works(open(&url("127.0.0.1", ""), files(&tls, "ca.crt", true)).await.unwrap()).await;
    works(open(&url("localhost", "?sslmode=verify-full"), files(&tls, "ca.crt", true)).await.unwrap()).await;
    let stranger = open(&url("127.0.0.1", ""), files(&tls, "other-ca.crt", true)).await.err().unwrap();
    assert!(stranger.contains("invalid peer certificate"), "{stranger}");
    let nobody = open(&url("127.0.0.1", ""), files(&tls, "ca.crt", false)).await.err().unwrap();
    assert!(nobody.contains("certificate"), "{nobody}");
    let plain = open(&url("127.0.0.1", "?sslmode=disable"), TlsFiles::default()).await.err().unwrap();
    assert!(plain.contains("no pg_hba.conf entry"), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_demands_tls_gets_it() {
    let server = servers::mariadb_with(false, |folder| certificates(&folder.join("tls")));
    let tls = server.folder.join("tls");
    let url = |database: &str| servers::mariadb_url_of(&server, database);
    works(open(&url("tls"), files(&tls, "ca.crt", true)).await.unwrap()).await;
    works(open(&url("tls"), TlsFiles::default()).await.unwrap()).await;
    let stranger = open(&url("tls"), files(&tls, "other-ca.crt", false)).await.err().unwrap();
    assert!(stranger.contains("invalid peer certificate"), "{stranger}");
    // Versions word it differently.
    assert!(open(&url("tls?tls=false"), TlsFiles::default()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_when_tls_is_demanded() {
    for url in [servers::postgres_url() + "?sslmode=require", servers::mariadb_url() + "?tls=skip-verify"] {
        let error = open(&url, TlsFiles::default()).await.err().unwrap();
        assert!(error.contains("does not offer TLS"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_with_client_certificates_lets_us_in_and_watches_outlive_it() {
    let folder = TempDir::new().unwrap();
    let tls = folder.path().join("tls");
    certificates(&tls);
    let path = |name: &str| tls.join(name).display().to_string();
    let process = etcd::start_secure(&path("server.crt"), &path("server.key"), &path("ca.crt")).await;
    let client = Etcd::open(&endpoints(&process.url, files(&tls, "ca.crt", true))).await.unwrap();
    let mut watcher = client.watch(WatchRequest::new(KeyRange::all(), Revision(2)));
    watcher.begin().await.unwrap();
    client.put(PutRequest::new("a", "1")).await.unwrap();
    let next = async |watcher: &mut EtcdWatcher| loop {
        let patience = std::time::Duration::from_secs(60);
        if let WatchMessage::Events(events) = tokio::time::timeout(patience, watcher.next()).await.unwrap().unwrap() {
            return events[0].kv.clone();
        }
    };
    assert_eq!(next(&mut watcher).await.mod_revision, Revision(2));
    let process = process.restarted().await;
    while client.put(PutRequest::new("b", "1")).await.is_err() {}
    assert_eq!(next(&mut watcher).await.key, "b");
    assert!(Etcd::open(&endpoints(&process.url, files(&tls, "other-ca.crt", true))).await.is_err());
    assert!(Etcd::open(&endpoints(&process.url, files(&tls, "ca.crt", false))).await.is_err());
}

fn endpoints(url: &str, files: TlsFiles) -> EtcdEndpoints {
    EtcdEndpoints::parse(url, &files).unwrap().unwrap()
}
