//! The node's HTTPS server (upstream's kubelet API): logs, exec, attach, port-forward, pods, metrics.
//!
//! Only the API server talks to it. Clients are known by their certificate; everything but health on loopback needs an
//! authorised one. Exec and its kin are joined to the container runtime by `crate::streaming`.

pub mod auth;
pub mod backend;
pub mod handlers;
pub mod limits;
pub mod listener;
pub mod logs;
pub mod options;
pub mod routes;

pub use auth::{Attributes, Authorizer, Identity, api_server_only, tls_config};
pub use backend::{BackendError, Container, LogSource, Sandbox, StreamingBackend};
pub use listener::{KubeletServer, KubeletServerConfig};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A plain text answer.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
