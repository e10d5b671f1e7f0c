//! Where an API server is and who we are there: read from a kubeconfig file,
//! or from what every pod finds in its file system.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::Engine;
use serde::Deserialize;

use crate::{
    ClientError,
    https::{HttpsTransport, Identity, ServerAddresses, Trust},
};

/// Directory of a pod's service account.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// All it takes to reach an API server.
#[derive(Clone)]
pub struct Access {
    /// `host:port`.
    pub address: String,
    /// What stands behind it in the file's URL; `/` when nothing does.
    pub path: String,
    /// Name that the server's certificate must carry.
    pub server_name: String,
    pub ca_pem: Vec<u8>,
    pub identity: Identity,
    /// Namespace of the context, or of the pod.
    pub namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    users: Vec<Named<User>>,
    #[serde(default)]
    contexts: Vec<Named<ContextEntry>>,
    #[serde(default)]
    current_context: String,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    entry: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
    #[serde(default)]
    namespace: String,
}

impl Access {
    /// Reads a kubeconfig file; `context` replaces its current one.
    pub fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<Access, ClientError> {
        let what = format!("read kubeconfig {}", path.display());
        let text = fs::read_to_string(path).map_err(|error| ClientError::transport(what.clone(), error))?;
        let base = path.parent().unwrap_or(Path::new("."));
        parse(&text, base, context).map_err(|problem| ClientError::transport(what, problem))
    }

    /// What a pod uses: the service account's token and CA, the address from its environment.
    pub fn in_cluster(host: &str, port: &str) -> Result<Access, ClientError> {
        let directory = Path::new(SERVICE_ACCOUNT_DIR);
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(|error| ClientError::transport(format!("read {}", path.display()), error))
        };
        let namespace = String::from_utf8_lossy(&read("namespace")?).trim().to_owned();
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Access {
            address,
            path: "/".to_owned(),
            server_name: host.to_owned(),
            ca_pem: read("ca.crt")?,
            identity: Identity::TokenFile(directory.join("token")),
            namespace,
        })
    }

    /// A transport to this one address.
    pub fn transport(&self) -> Result<Arc<HttpsTransport>, ClientError> {
        HttpsTransport::new(
            Arc::new(ServerAddresses::new(vec![self.address.clone()])),
            &self.server_name,
            Trust::Roots(self.ca_pem.clone()),
            self.identity.clone(),
        )
    }
}

fn parse(text: &str, base: &Path, context: Option<&str>) -> Result<Access, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let context = context.unwrap_or(&file.current_context);
    let context = find(&file.contexts, context, "context")?;
    let cluster = find(&file.clusters, &context.cluster, "cluster")?;
    let user = find(&file.users, &context.user, "user")?;
    let (host, port, path) = split_server(&cluster.server)?;
    let ca_pem = content(&cluster.certificate_authority_data, &cluster.certificate_authority, base)?
        .ok_or("cluster has no certificate-authority")?;
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok(Access {
        address,
        path,
        server_name: cluster.tls_server_name.clone().unwrap_or(host),
        ca_pem,
        identity: identity(user, base)?,
        namespace: if context.namespace.is_empty() { "default".to_owned() } else { context.namespace.clone() },
    })
}

fn find<'a, T>(entries: &'a [Named<T>], name: &str, what: &str) -> Result<&'a T, String> {
    let entry = entries.iter().find(|entry| entry.name == name);
    entry.map(|entry| &entry.entry).ok_or_else(|| format!("{what} {name:?} is not in the file"))
}

fn identity(user: &User, base: &Path) -> Result<Identity, String> {
    let chain = content(&user.client_certificate_data, &user.client_certificate, base)?;
    let key = content(&user.client_key_data, &user.client_key, base)?;
    Ok(match (chain, key, &user.token, &user.token_file) {
        (Some(chain_pem), Some(key_pem), _, _) => Identity::Certificate { chain_pem, key_pem },
        (Some(_), None, _, _) => return Err("user has a client certificate but no client key".to_owned()),
        (_, _, _, Some(file)) => Identity::TokenFile(base.join(file)),
        (_, _, Some(token), _) => Identity::Token(token.clone()),
        _ => Identity::Anonymous,
    })
}

/// Inline base64 data wins over a file, as in client-go; relative files lie beside the kubeconfig.
fn content(data: &Option<String>, file: &Option<PathBuf>, base: &Path) -> Result<Option<Vec<u8>>, String> {
    if let Some(data) = data {
        let decoded = base64::engine::general_purpose::STANDARD.decode(data.trim());
        return decoded.map(Some).map_err(|error| format!("decode inline data: {error}"));
    }
    let Some(file) = file else { return Ok(None) };
    let path = base.join(file);
    fs::read(&path).map(Some).map_err(|error| format!("read {}: {error}", path.display()))
}

fn split_server(server: &str) -> Result<(String, u16, String), String> {
    let uri: http::Uri = server.parse().map_err(|error| format!("server {server:?}: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("server {server:?} is not an https address"));
    }
    let host = uri.host().ok_or_else(|| format!("server {server:?} has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok((host.to_owned(), uri.port_u16().unwrap_or(443), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: c
clusters:
- name: k
  cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Y2E=}
users:
- name: u
  user: {client-certificate-data: Y3J0, client-key-data: a2V5}
- name: t
  user: {token: secret}
contexts:
- name: c
  context: {cluster: k, user: u}
- name: d
  context: {cluster: k, user: t, namespace: n}
";

    #[test]
    fn current_context_names_cluster_and_user() {
        let access = parse(TEXT, Path::new("/"), None).unwrap();
        assert_eq!((access.address.as_str(), access.path.as_str()), ("127.0.0.1:6443", "/"));
        let elsewhere = split_server("https://[::1]/audit?a=b").unwrap();
        assert_eq!(elsewhere, ("::1".to_owned(), 443, "/audit?a=b".to_owned()));
        assert_eq!(access.ca_pem, b"ca");
        assert!(matches!(access.identity, Identity::Certificate { key_pem, .. } if key_pem == b"key"));
    }

    #[test]
    fn a_context_can_be_chosen() {
        let access = parse(TEXT, Path::new("/"), Some("d")).unwrap();
        assert_eq!(access.namespace, "n");
        assert!(matches!(access.identity, Identity::Token(token) if token == "secret"));
    }

    #[test]
    fn an_unknown_context_is_named_in_the_error() {
        let error = parse(TEXT, Path::new("/"), Some("x")).err().unwrap();
        assert!(error.contains("\"x\""), "{error}");
    }
}
