//! Every bound of the proxy, with what happens when it is reached.

use std::time::Duration;

/// Longest wait for a connection and its TLS handshake. More: the request fails.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for streams to end at stop. Then they are dropped with the process.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a kubelet's error text that are passed on.
pub const ERROR_TEXT_LEN_MAX: usize = 64 << 10;
/// Length of an HTML tag whose links are rewritten. A longer one passes unchanged.
pub const HTML_TAG_LEN_MAX: usize = 64 << 10;
/// Longest wait for a websocket client to take the close.
pub const WEBSOCKET_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a kubelet's document that this server reads for itself. More: it counts as unreadable.
pub const DOCUMENT_LEN_MAX: usize = 16 << 20;
