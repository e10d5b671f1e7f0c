//! The supervisor API: what joining agents and the command line ask of a server,
//! on the same listener as the Kubernetes API.
//!
//! | path | who | answer |
//! |---|---|---|
//! | `GET /cacerts` | anyone | the server authority, PEM |
//! | `GET /ping` | anyone | `pong` |
//! | `GET /v1-skiff/config` | token or node certificate | [`ClusterConfig`] as JSON |
//! | `GET /v1-skiff/client-ca.crt` | same | the client authority, PEM |
//! | `POST /v1-skiff/<name>.crt` | same, with node name and password | certificate for the key of the posted request |
//! | `GET /v1-skiff/connect` | node certificate | websocket: the reverse tunnel |
//!
//! Everything else belongs to the API server.

mod certificates;
mod connect;
mod credentials;
mod node_password;

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use skiff_client::{Body, Client};
use skiff_tunnel::Sessions;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use credentials::Caller;

use crate::pki::ServerPki;

/// A certificate request is about 500 bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Joining requests handled at the same time; more are told to come back.
const JOINS_MAX: usize = 20;

/// Names of the headers with which a node says who it is.
pub const NODE_NAME_HEADER: &str = "skiff-node-name";
pub const NODE_PASSWORD_HEADER: &str = "skiff-node-password";
pub const NODE_IP_HEADER: &str = "skiff-node-ip";

/// What a node must know of the cluster it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfig {
    pub version: String,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub cluster_dns: String,
    pub cluster_domain: String,
    pub flannel_backend: String,
    pub node_ports: (u16, u16),
    /// Subject of the certificate with which the API server calls kubelets.
    pub kubelet_client_name: String,
}

/// Secrets that let someone join.
pub struct JoinSecrets {
    pub server: String,
    pub agent: String,
}

/// The supervisor API of one server.
pub struct Supervisor {
    pub pki: Arc<ServerPki>,
    pub secrets: JoinSecrets,
    pub config: ClusterConfig,
    /// With the supervisor's own identity.
    pub client: Client,
    pub sessions: Arc<Sessions>,
    pub token: CancellationToken,
    /// Owns the tunnels' tasks; the server waits for it at stop.
    pub tasks: TaskTracker,
    joins: tokio::sync::Semaphore,
}

/// An answer that is not success: a code and a plain sentence.
#[derive(Debug)]
pub struct Refusal(pub StatusCode, pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

impl Supervisor {
    pub fn new(
        pki: Arc<ServerPki>,
        secrets: JoinSecrets,
        config: ClusterConfig,
        client: Client,
        sessions: Arc<Sessions>,
        token: CancellationToken,
    ) -> Supervisor {
        let joins = tokio::sync::Semaphore::new(JOINS_MAX);
        Supervisor { pki, secrets, config, client, sessions, token, tasks: TaskTracker::new(), joins }
    }

    /// Whether a path belongs to this API.
    pub fn owns(path: &str) -> bool {
        path == "/cacerts" || path == "/ping" || path.starts_with("/v1-skiff/")
    }

    /// Answers one request; `certificates` is the client's chain, already
    /// verified against the client authority by TLS.
    pub async fn handle(&self, request: Request<Body>, certificates: &[CertificateDer<'_>]) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let answer = self.route(&path, request, certificates).await;
        answer.unwrap_or_else(|refusal| {
            tracing::info!(component = "supervisor", path, %refusal, "refused");
            text(refusal.0, format!("{}\n", refusal.1))
        })
    }

    async fn route(
        &self,
        path: &str,
        request: Request<Body>,
        certificates: &[CertificateDer<'_>],
    ) -> Result<Response<Body>, Refusal> {
        match (request.method(), path) {
            (&Method::GET, "/cacerts") => return Ok(text(StatusCode::OK, self.pki.server_ca.certificate_pem.clone())),
            (&Method::GET, "/ping") => return Ok(text(StatusCode::OK, "pong".to_owned())),
            _ => {}
        }
        let caller = credentials::identify(&request, certificates, &self.secrets)?;
        match (request.method(), path) {
            (&Method::GET, "/v1-skiff/config") => {
                let body = serde_json::to_string(&self.config).map_err(internal)?;
                Ok(text(StatusCode::OK, body))
            }
            (&Method::GET, "/v1-skiff/client-ca.crt") => {
                Ok(text(StatusCode::OK, self.pki.client_ca.certificate_pem.clone()))
            }
            (&Method::GET, "/v1-skiff/connect") => connect::accept(self, request, &caller),
            (&Method::POST, path) if path.ends_with(".crt") => {
                let Ok(_permit) = self.joins.try_acquire() else {
                    let message = "many nodes are joining at this moment; try again in a few seconds";
                    return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, message.to_owned()));
                };
                certificates::issue(self, path, request, &caller).await
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, format!("{path} is not part of the supervisor API"))),
        }
    }
}

async fn read_body(request: Request<Body>) -> Result<Bytes, Refusal> {
    let refuse = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| refuse(format!("read body: {error}")))?;
        bytes.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(refuse(format!("the body is longer than {REQUEST_BYTES_MAX} bytes")));
        }
    }
    Ok(bytes.freeze())
}

fn internal(error: impl fmt::Display) -> Refusal {
    tracing::error!(component = "supervisor", %error, "request failed");
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
}
