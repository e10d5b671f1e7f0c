//! The one seam between a [`Client`](crate::Client) and an API server.

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

use crate::ClientError;

/// A response body: frames of bytes, possibly endless (a watch).
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Carries one request to an API server and brings the answer back.
///
/// Two implementations exist: HTTPS from another host or process, and a direct
/// call into the API server of this process, which attaches a fixed identity.
/// Dropping the returned body cancels the request at the server.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends a request whose URI holds only path and query.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ClientError>;
}
