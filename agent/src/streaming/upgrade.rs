//! The client's side of the SPDY upgrade towards the runtime's streaming server.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::limits::{REFUSAL_LEN_MAX, RUNTIME_TIMEOUT};

/// Header in which SPDY clients offer, and servers choose, the protocol above SPDY.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Why the runtime's streaming server could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("streaming address {0:?} of the container runtime is not usable")]
    BadUrl(String),
    #[error("connect to the container runtime's streaming server: {0}")]
    Connect(#[source] std::io::Error),
    #[error("talk to the container runtime's streaming server: {0}")]
    Http(#[from] hyper::Error),
    #[error("the container runtime's streaming server did not answer in time")]
    Timeout,
    /// It answered with another status; its text is passed on.
    #[error("{text}")]
    Refused { status: StatusCode, text: String },
}

/// A joined streaming server.
#[derive(Debug)]
pub struct Joined {
    /// The byte stream behind the upgrade.
    pub io: TokioIo<Upgraded>,
    /// The protocol the server chose, if it named one.
    pub protocol: Option<HeaderValue>,
}

/// Connects `url` and upgrades to SPDY, offering `protocols` in order.
pub async fn join(url: &str, protocols: &[HeaderValue]) -> Result<Joined, UpgradeError> {
    timeout(RUNTIME_TIMEOUT, join_unbounded(url, protocols)).await.map_err(|_| UpgradeError::Timeout)?
}

async fn join_unbounded(url: &str, protocols: &[HeaderValue]) -> Result<Joined, UpgradeError> {
    let bad_url = || UpgradeError::BadUrl(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad_url())?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(bad_url)?;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let socket = TcpStream::connect(address).await.map_err(UpgradeError::Connect)?;
    socket.set_nodelay(true).map_err(UpgradeError::Connect)?;

    let mut request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header(header::CONTENT_LENGTH, "0")
        .body(Empty::<Bytes>::new())
        .map_err(|_| bad_url())?;
    for protocol in protocols {
        request.headers_mut().append(STREAM_PROTOCOL, protocol.clone());
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let protocol = response.headers().get(STREAM_PROTOCOL).cloned();
        let io = TokioIo::new(hyper::upgrade::on(response).await?);
        Ok(Joined { io, protocol })
    };
    // The connection future ends when it has handed the socket to the upgrade, or with the response.
    let (joined, _) = tokio::join!(exchange, connection.with_upgrades());
    joined
}

async fn refusal<B>(response: Response<B>) -> UpgradeError
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    let text = match Limited::new(response.into_body(), REFUSAL_LEN_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    let text =
        if text.is_empty() { format!("the container runtime's streaming server answered {status}") } else { text };
    UpgradeError::Refused { status, text }
}
