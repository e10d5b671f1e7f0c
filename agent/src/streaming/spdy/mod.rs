//! SPDY/3.1 as Kubernetes uses it: framing, compressed headers, multiplexed streams.
//!
//! Peers are the Go implementation `spdystream` and its descendants. They neither send nor honour window updates: back-pressure
//! is the TCP connection's. So this side reads WINDOW_UPDATE and SETTINGS and acts on neither, and stops
//! reading the connection when a stream's reader lags.

pub mod connection;
pub mod dictionary;
pub mod frame;
pub mod headers;

pub use connection::{Connection, Driver, ReceiveHalf, SendHalf, SpdyStream};
pub use headers::Headers;

/// How a SPDY connection or stream failed.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    #[error("spdy: {0}")]
    Io(#[from] std::io::Error),
    #[error("spdy: header block: {0}")]
    Headers(&'static str),
    #[error("spdy: {0}")]
    Protocol(&'static str),
    #[error("spdy: the connection ended")]
    Ended,
    #[error("spdy: stream was reset by the peer (status {0})")]
    Reset(u32),
    #[error("spdy: too many streams")]
    TooManyStreams,
}
