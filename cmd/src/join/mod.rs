//! How a node gets into a cluster: trust by the token's hash, then certificates
//! for keys that never leave the node.

mod fetch;

use std::{path::PathBuf, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, StatusCode};
use tokio_util::sync::CancellationToken;

pub use fetch::{Endpoint, FetchError, Trusted, client_config};

use crate::{
    pki::{self, CertificateInfo, KeyAndCertificate, PkiError, certificate_request, fingerprint},
    progress::Step,
    supervisor::{ClusterConfig, NODE_IP_HEADER, NODE_NAME_HEADER, NODE_PASSWORD_HEADER},
    token::{Token, TokenError, random_secret},
};

/// Pause between attempts while the server does not answer; plus up to as much at random.
const RETRY_PAUSE: Duration = Duration::from_millis(1500);

/// Why a node could not join. Retried when the server is not there yet, final otherwise.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("--token: {0}")]
    Token(#[from] TokenError),
    #[error("--server: {0}")]
    Server(String),
    #[error("{0}")]
    Unreachable(#[from] FetchError),
    #[error(
        "the server at {url} is not the one the token is for: its authority has the hash {found}, the token says {expected}. \
         Take the token from <data-dir>/server/node-token of that server, and check that nothing stands between"
    )]
    WrongAuthority { url: String, found: String, expected: String },
    #[error(
        "the server's authority has changed since this node joined (was {expected}, is {found}). If that is wanted, \
         remove {} and start again", path.display()
    )]
    ChangedAuthority { found: String, expected: String, path: PathBuf },
    #[error("the server refused the token: {0}. Take it from <data-dir>/server/node-token of the server")]
    WrongToken(String),
    #[error("the server refused this node: {0}")]
    Refused(String),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    File(#[from] pki::FileError),
    #[error("the server's answer is not understood: {0}")]
    Answer(String),
    #[error("stopped")]
    Stopped,
}

impl JoinError {
    /// Whether waiting may help.
    fn is_temporary(&self) -> bool {
        matches!(self, JoinError::Unreachable(_))
    }
}

/// Who wants to join, and where.
pub struct JoinRequest {
    pub server_url: String,
    pub token: Option<String>,
    pub node_name: String,
    pub node_ip: std::net::IpAddr,
    /// `<data-dir>/agent`.
    pub folder: PathBuf,
}

/// What a node has once it belongs to a cluster.
pub struct Membership {
    pub endpoint: Endpoint,
    pub config: ClusterConfig,
    pub server_ca_pem: String,
    pub client_ca_pem: String,
    pub kubelet_client: KeyAndCertificate,
    pub kubelet_serving: KeyAndCertificate,
    pub proxy_client: KeyAndCertificate,
}

/// Joins, waiting for the server as long as it is not reachable.
pub async fn join(request: &JoinRequest, step: &Step, token: &CancellationToken) -> Result<Membership, JoinError> {
    let mut told = false;
    loop {
        let error = match attempt(request).await {
            Ok(membership) => return Ok(membership),
            Err(error) if error.is_temporary() => error,
            Err(error) => return Err(error),
        };
        step.detail(&format!("waiting for the server: {error}"));
        if !told {
            tracing::warn!(component = "join", %error, "the server does not answer yet; trying on");
            told = true;
        }
        let pause = RETRY_PAUSE.mul_f64(1.0 + rand::random::<f64>());
        tokio::select! {
            () = token.cancelled() => return Err(JoinError::Stopped),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn attempt(request: &JoinRequest) -> Result<Membership, JoinError> {
    let endpoint = Endpoint::parse(&request.server_url).map_err(JoinError::Server)?;
    let join_token = request.token.as_deref().map(Token::parse).transpose()?;
    let server_ca_pem = trust(request, &endpoint, join_token.as_ref()).await?;
    let credentials =
        Credentials { request, endpoint: &endpoint, server_ca_pem: &server_ca_pem, token: join_token.as_ref() };
    let config = credentials.get("/v1-skiff/config").await?;
    let config = serde_json::from_str(&config).map_err(|error| JoinError::Answer(error.to_string()))?;
    let client_ca_pem = credentials.get("/v1-skiff/client-ca.crt").await?;
    // Only now is it certain that this is our cluster: before, nothing is kept.
    pki::write_public(&request.folder.join("server-ca.crt"), server_ca_pem.as_bytes())?;
    pki::write_public(&request.folder.join("client-ca.crt"), client_ca_pem.as_bytes())?;
    Ok(Membership {
        kubelet_client: credentials.certificate("client-kubelet").await?,
        kubelet_serving: credentials.certificate("serving-kubelet").await?,
        proxy_client: credentials.certificate("client-kube-proxy").await?,
        config,
        client_ca_pem,
        server_ca_pem,
        endpoint,
    })
}

/// The server's authority: fetched without trust, then held against the token's
/// hash, or against what this node trusted before.
async fn trust(request: &JoinRequest, endpoint: &Endpoint, token: Option<&Token>) -> Result<String, JoinError> {
    let path = request.folder.join("server-ca.crt");
    let known = pki::read_secret(&path)?;
    let expected = token.and_then(|token| token.authority_hash.clone());
    if let (Some(known), None) = (&known, &expected) {
        return Ok(known.clone());
    }
    let answer = fetch::fetch(endpoint, &Trusted::Anything, None, Method::GET, "/cacerts", &[], "").await?;
    if answer.code != StatusCode::OK || !answer.body.contains("BEGIN CERTIFICATE") {
        return Err(JoinError::Answer(format!("{} answered {} to /cacerts", endpoint.url, answer.code)));
    }
    let found = fingerprint(&answer.body);
    match (expected, &known) {
        (Some(expected), _) if expected != found => {
            return Err(JoinError::WrongAuthority { url: endpoint.url.clone(), found, expected });
        }
        (_, Some(known)) if fingerprint(known) != found => {
            return Err(JoinError::ChangedAuthority {
                found,
                expected: fingerprint(known),
                path: request.folder.clone(),
            });
        }
        (None, None) => tracing::warn!(
            component = "join",
            hash = found,
            "the token names no authority: the server's is trusted as it is, this once"
        ),
        _ => {}
    }
    Ok(answer.body)
}

/// How this node proves who it is: its certificate once it has one, else the token.
struct Credentials<'a> {
    request: &'a JoinRequest,
    endpoint: &'a Endpoint,
    server_ca_pem: &'a str,
    token: Option<&'a Token>,
}

impl Credentials<'_> {
    async fn get(&self, path: &str) -> Result<String, JoinError> {
        self.call(Method::GET, path, &[], "").await
    }

    /// The certificate `<folder>/<name>.crt` for the key beside it; asked for
    /// when it is missing, due or made for another name or address.
    async fn certificate(&self, name: &str) -> Result<KeyAndCertificate, JoinError> {
        let (folder, node) = (&self.request.folder, &self.request.node_name);
        let (certificate_path, key_path) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        let key_pem = match pki::read_secret(&key_path)? {
            Some(key) => key,
            None => {
                let key = rcgen::KeyPair::generate().map_err(PkiError::from)?.serialize_pem();
                pki::write_secret(&key_path, key.as_bytes())?;
                key
            }
        };
        if let Some(certificate_pem) = pki::read_secret(&certificate_path)?
            && let Ok(info) = CertificateInfo::parse(&certificate_pem)
            && info.is_current()
            && self.fits(name, &info)
        {
            return Ok(KeyAndCertificate { certificate_pem, key_pem });
        }
        let csr = certificate_request(&key_pem, node)?;
        let password = node_password(folder)?;
        let address = self.request.node_ip.to_string();
        let headers =
            [(NODE_NAME_HEADER, node.as_str()), (NODE_PASSWORD_HEADER, &password), (NODE_IP_HEADER, &address)];
        let certificate_pem = self.call(Method::POST, &format!("/v1-skiff/{name}.crt"), &headers, &csr).await?;
        CertificateInfo::parse(&certificate_pem).map_err(JoinError::Answer)?;
        pki::write_public(&certificate_path, certificate_pem.as_bytes())?;
        Ok(KeyAndCertificate { certificate_pem, key_pem })
    }

    fn fits(&self, name: &str, info: &CertificateInfo) -> bool {
        match name {
            "client-kubelet" => info.common_name == format!("system:node:{}", self.request.node_name),
            "serving-kubelet" => {
                let has = |name: &String| info.names.contains(name);
                has(&self.request.node_name) && has(&self.request.node_ip.to_string())
            }
            _ => true,
        }
    }

    /// The node certificate first; on 401 (expired, or another authority) the token.
    async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<String, JoinError> {
        let trusted = Trusted::Authority(self.server_ca_pem.to_owned());
        if let Some(identity) = self.identity()? {
            let answer =
                fetch::fetch(self.endpoint, &trusted, Some(&identity), method.clone(), path, headers, body).await;
            match answer {
                Ok(answer) if answer.code != StatusCode::UNAUTHORIZED => return answered(answer),
                Err(error) if self.token.is_none() => return Err(error.into()),
                _ => {}
            }
        }
        let Some(token) = self.token else {
            let message = "this node has no certificate of the cluster and no --token was given".to_owned();
            return Err(JoinError::WrongToken(message));
        };
        let basic = BASE64_STANDARD.encode(format!("{}:{}", token.user_name(), token.secret));
        let basic = format!("Basic {basic}");
        let mut headers = headers.to_vec();
        headers.push(("authorization", &basic));
        answered(fetch::fetch(self.endpoint, &trusted, None, method, path, &headers, body).await?)
    }

    fn identity(&self) -> Result<Option<KeyAndCertificate>, JoinError> {
        let folder = &self.request.folder;
        let certificate = pki::read_secret(&folder.join("client-kubelet.crt"))?;
        let key = pki::read_secret(&folder.join("client-kubelet.key"))?;
        Ok(certificate.zip(key).map(|(certificate_pem, key_pem)| KeyAndCertificate { certificate_pem, key_pem }))
    }
}

fn answered(answer: fetch::Answer) -> Result<String, JoinError> {
    let message = answer.body.trim().to_owned();
    match answer.code {
        StatusCode::OK => Ok(answer.body),
        StatusCode::UNAUTHORIZED => Err(JoinError::WrongToken(message)),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Err(JoinError::Unreachable(FetchError::Busy(message)))
        }
        code => Err(JoinError::Refused(format!("{message} ({code})"))),
    }
}

/// The password that proves this host owns its node name; made once.
pub fn node_password(folder: &std::path::Path) -> Result<String, pki::FileError> {
    let path = folder.join("node-password");
    if let Some(password) = pki::read_secret(&path)? {
        return Ok(password.trim().to_owned());
    }
    let password = random_secret();
    pki::write_secret(&path, password.as_bytes())?;
    Ok(password)
}
