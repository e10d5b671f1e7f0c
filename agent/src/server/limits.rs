//! Every bound of the node's HTTPS server, with what happens when it is reached.

use std::time::Duration;

/// Open client connections; further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1024;
/// Longest TLS handshake; a slower client is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a request's headers.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for streams to end at stop; then they are dropped.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pieces of a log waiting for the client. When full, reading waits.
pub const LOG_QUEUE_LEN: usize = 8;
/// Bytes read from a log at once.
pub const LOG_READ_LEN: usize = 64 * 1024;
/// Longest record of a log; a longer one is cut into records of this length.
pub const LOG_RECORD_LEN_MAX: usize = 1024 * 1024;
/// Longest wait of a follower without any event, as a safety net where no event comes (overlay or network file systems).
pub const LOG_FOLLOW_RECHECK: Duration = Duration::from_secs(10);
