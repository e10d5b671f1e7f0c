//! Everything a server keeps under `<data-dir>/server/tls`.

use std::path::Path;

use super::{Authority, KeyAndCertificate, Leaf, PkiError, files};

/// Names and addresses that only the configuration knows.
pub struct ServerPkiOptions {
    /// Extra names for the API server's certificate.
    pub api_server_names: Vec<String>,
}

/// Authorities, component certificates and the service-account key of a server.
pub struct ServerPki {
    pub server_ca: Authority,
    pub client_ca: Authority,
    pub request_header_ca: Authority,
    /// What the API server's listener shows.
    pub api_server: KeyAndCertificate,
    /// How the API server shows itself to aggregated API servers.
    pub auth_proxy: KeyAndCertificate,
    /// How the API server calls kubelets.
    pub kubelet_client: KeyAndCertificate,
    /// `system:masters`, for the kubeconfig.
    pub admin: KeyAndCertificate,
    /// ECDSA P-256, signs service-account tokens.
    pub service_account_key_pem: String,
}

impl ServerPki {
    /// Loads what is there and makes the rest. Nothing is replaced but leaves that are due.
    pub fn load_or_create(folder: &Path, options: &ServerPkiOptions) -> Result<ServerPki, PkiError> {
        let authority = |name| Authority::load_or_create(folder, name);
        let (server_ca, client_ca, request_header_ca) =
            (authority("server-ca")?, authority("client-ca")?, authority("request-header-ca")?);
        let leaf = |name: &str, authority: &Authority, leaf: Leaf| {
            KeyAndCertificate::load_or_issue(folder, name, authority, &leaf)
        };
        let serving = Leaf::server("kube-apiserver", &options.api_server_names);
        Ok(ServerPki {
            auth_proxy: leaf("client-auth-proxy", &request_header_ca, Leaf::client("system:auth-proxy", None))?,
            api_server: leaf("serving-kube-apiserver", &server_ca, serving)?,
            kubelet_client: leaf(
                "client-kube-apiserver",
                &client_ca,
                Leaf::client("system:kube-apiserver", Some("system:masters")),
            )?,
            admin: leaf("client-admin", &client_ca, Leaf::client("system:admin", Some("system:masters")))?,
            service_account_key_pem: service_account_key(folder)?,
            server_ca,
            client_ca,
            request_header_ca,
        })
    }
}

fn service_account_key(folder: &Path) -> Result<String, PkiError> {
    let path = folder.join("service.key");
    if let Some(key) = files::read_secret(&path)? {
        return Ok(key);
    }
    let key = rcgen::KeyPair::generate()?.serialize_pem();
    files::write_secret(&path, key.as_bytes())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::super::CertificateInfo;
    use super::*;

    fn options(names: &[&str]) -> ServerPkiOptions {
        ServerPkiOptions { api_server_names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_second_start_keeps_every_key_and_a_new_name_renews_the_serving_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let first = ServerPki::load_or_create(folder.path(), &options(&["localhost"])).unwrap();
        let second = ServerPki::load_or_create(folder.path(), &options(&["localhost"])).unwrap();
        assert_eq!(first.api_server.certificate_pem, second.api_server.certificate_pem);
        assert_eq!(first.service_account_key_pem, second.service_account_key_pem);
        let third = ServerPki::load_or_create(folder.path(), &options(&["localhost", "10.0.0.9"])).unwrap();
        assert_ne!(first.api_server.certificate_pem, third.api_server.certificate_pem);
        assert_eq!(first.admin.certificate_pem, third.admin.certificate_pem);
        let info = CertificateInfo::parse(&third.api_server.certificate_pem).unwrap();
        assert_eq!(info.names, ["localhost", "10.0.0.9"]);
    }
}
