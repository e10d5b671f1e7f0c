//! One HTTP/1.1 exchange with a backend over a dialled stream.
//!
//! No task drives the connection: waiting for the answer polls it, and afterwards the answer's body does. So a client
//! that goes away takes its connection with it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use skiff_api::Status;
use skiff_client::{Body, any_certificate::AnyCertificate};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::ClientBody;
use super::dialer::{BoxedIo, NodeDialer};
use super::limits::CONNECT_TIMEOUT;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A node's kubelet, by TLS with the API server's client certificate.
    Kubelet { node: String, port: u16 },
    /// Another port of a node, in plain text.
    NodePort { node: String, port: u16 },
    /// A pod; with a name by TLS, whose certificate nobody here could verify.
    Address { node: Option<String>, address: SocketAddr, tls_name: Option<String> },
}

/// Why a backend did not answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{0}")]
    Dial(#[source] io::Error),
    #[error("{0:?} cannot be the name of a TLS server")]
    BadName(String),
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

impl TransportError {
    /// The failure of log, exec and their kin.
    pub fn internal(self) -> Status {
        Status::internal(format!("error dialing backend: {self}"))
    }

    /// The failure of a `proxy` subresource.
    pub fn unavailable(self) -> Status {
        Status::service_unavailable(format!("error trying to reach service: {self}"))
    }
}

/// Connects and exchanges.
pub struct Transport {
    dialer: Arc<dyn NodeDialer>,
    kubelet_tls: TlsConnector,
    pod_tls: TlsConnector,
}

impl Transport {
    /// A transport that speaks to kubelets with `kubelet_tls`.
    pub fn new(dialer: Arc<dyn NodeDialer>, kubelet_tls: Arc<ClientConfig>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pod_tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(AnyCertificate::verifier(&provider))
            .with_no_client_auth();
        Ok(Transport { dialer, kubelet_tls: kubelet_tls.into(), pod_tls: Arc::new(pod_tls).into() })
    }

    /// Sends a request whose URI holds path and query; returns the answer with its body unread.
    pub async fn send(
        &self,
        backend: &Backend,
        mut request: Request<ClientBody>,
    ) -> Result<Response<Body>, TransportError> {
        if !request.headers().contains_key(header::HOST)
            && let Backend::Kubelet { node, port } | Backend::NodePort { node, port } = backend
            && let Ok(host) = HeaderValue::from_str(&format!("{node}:{port}"))
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let io = timeout(CONNECT_TIMEOUT, self.connect(backend)).await.map_err(|_| TransportError::Timeout)??;
        Ok(exchange(io, request).await?)
    }

    async fn connect(&self, backend: &Backend) -> Result<BoxedIo, TransportError> {
        match backend {
            Backend::Kubelet { node, port } => {
                let io = self.dialer.dial(node, *port).await.map_err(TransportError::Dial)?;
                encrypt(&self.kubelet_tls, node, io).await
            }
            Backend::NodePort { node, port } => self.dialer.dial(node, *port).await.map_err(TransportError::Dial),
            Backend::Address { node, address, tls_name } => {
                let io = self.dialer.dial_address(node.as_deref(), *address).await.map_err(TransportError::Dial)?;
                match tls_name {
                    Some(name) => encrypt(&self.pod_tls, name, io).await,
                    None => Ok(io),
                }
            }
        }
    }
}

async fn encrypt(tls: &TlsConnector, name: &str, io: BoxedIo) -> Result<BoxedIo, TransportError> {
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| TransportError::BadName(name.to_owned()))?;
    Ok(Box::new(tls.connect(server_name, io).await.map_err(TransportError::Dial)?))
}

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

pub(crate) async fn exchange(io: BoxedIo, request: Request<ClientBody>) -> Result<Response<Body>, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let mut connection: Option<Connection> = Some(Box::pin(connection.with_upgrades()));
    let mut answer = std::pin::pin!(sender.send_request(request));
    let response = loop {
        let Some(driving) = &mut connection else { break answer.await? };
        tokio::select! {
            response = &mut answer => break response?,
            // An error of the connection reaches the answer, too, and with a better text.
            _ = driving => connection = None,
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(connection) = connection.take()
    {
        // Ends as soon as it has handed its socket to the upgrade; nobody would read the body and so drive it.
        connection.await?;
    }
    Ok(response.map(|body| DrivenBody { body, connection }.map_err(BoxError::from).boxed_unsync()))
}

/// A body that drives the connection it comes from.
struct DrivenBody {
    body: Incoming,
    connection: Option<Connection>,
}

impl http_body::Body for DrivenBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            // Its error, if any, is also the body's.
            self.connection = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Joins two upgraded connections until both directions have ended, one fails, or the token is cancelled.
pub async fn splice(client: OnUpgrade, backend: OnUpgrade, token: CancellationToken) {
    let joined = async {
        let (client, backend) = tokio::try_join!(client, backend)?;
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        tokio::io::copy_bidirectional(&mut client, &mut backend).await?;
        Ok::<_, BoxError>(())
    };
    tokio::select! {
        () = token.cancelled() => {}
        result = joined => {
            if let Err(error) = result {
                tracing::debug!(component = "apiserver", %error, "proxied stream ended early");
            }
        }
    }
}
