//! The etcd API on TCP, for etcdctl, backups and monitoring from elsewhere.
//!
//! Who can use it can read every Secret and write past all of Kubernetes' rules. So clients must show a certificate of an
//! authority that signs for nothing else: none of the cluster's own certificates open it.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use skiff_kine::grpc::{Listener, TlsOptions};

use crate::pki::{Authority, KeyAndCertificate, Leaf, PkiError};

/// Binds the address. Certificates are made on the first start, in `folder`: `etcd-ca.crt`, and
/// `client-etcd.crt` with its key for the client.
pub async fn bind(address: SocketAddr, folder: &Path, names: &[String]) -> Result<Listener> {
    let tls = tls(folder, names).context("certificates of the etcd API")?;
    Ok(Listener::tcp(address, Some(tls)).await?)
}

fn tls(folder: &Path, names: &[String]) -> Result<TlsOptions, PkiError> {
    let authority = Authority::load_or_create(folder, "etcd-ca")?;
    let serving = KeyAndCertificate::load_or_issue(folder, "serving-etcd", &authority, &Leaf::server("etcd", names))?;
    KeyAndCertificate::load_or_issue(folder, "client-etcd", &authority, &Leaf::client("etcd-client", None))?;
    Ok(TlsOptions {
        certificate: serving.certificate_pem,
        key: serving.key_pem,
        client_ca: Some(authority.certificate_pem.clone()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use skiff_kine::{
        PutRequest, Store, StoreOptions,
        grpc::{ClientTls, fetch_snapshot},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_its_own_client_certificate_opens_it() {
        let folder = tempfile::tempdir().unwrap();
        let tls = folder.path().join("tls");
        let names = ["127.0.0.1".to_owned()];
        let listener = bind("127.0.0.1:0".parse().unwrap(), &tls, &names).await.unwrap();
        let url = listener.url().to_owned();
        let store = Store::open(StoreOptions::memory()).await.unwrap();
        store.put(PutRequest::new("a", "1")).await.unwrap();
        let token = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(store.clone(), token.clone()));
        let read = |name: &str| fs::read_to_string(tls.join(name)).unwrap();
        let with = |identity| ClientTls { ca: Some(read("etcd-ca.crt")), identity };
        let own = Some((read("client-etcd.crt"), read("client-etcd.key")));
        fetch_snapshot(&url, with(own), &folder.path().join("own")).await.unwrap();
        assert!(fetch_snapshot(&url, with(None), &folder.path().join("none")).await.is_err());
        let other = Authority::load_or_create(&folder.path().join("other"), "client-ca").unwrap();
        let other = other.issue(&Leaf::client("system:admin", Some("system:masters"))).unwrap();
        let other = Some((other.certificate_pem, other.key_pem));
        assert!(fetch_snapshot(&url, with(other), &folder.path().join("other.db")).await.is_err());
        token.cancel();
        serving.await.unwrap().unwrap();
        store.close().await.unwrap();
    }
}
