//! Streaming towards containers: exec, attach and port-forward.
//!
//! The container runtime's streaming server speaks SPDY/3.1. SPDY clients are joined to it byte for byte; WebSocket clients are
//! terminated here and translated, because the runtime's own WebSocket side has no end-of-file for stdin (protocol v5).
//!
//! Invariants: every loop ends with its client, its container or its token; every buffer has a bound in [`limits`]; nothing
//! here spawns a task.

pub mod channels;
pub mod limits;
pub mod portforward;
pub mod remotecommand;
pub mod spdy;
pub mod upgrade;
pub mod websocket;

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamingError {
    #[error("websocket: {0}")]
    WebSocket(Box<tokio_tungstenite::tungstenite::Error>),
    #[error(transparent)]
    Spdy(#[from] spdy::SpdyError),
    #[error("stream: {0}")]
    Io(#[from] std::io::Error),
}

impl From<tokio_tungstenite::tungstenite::Error> for StreamingError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        StreamingError::WebSocket(Box::new(error))
    }
}
