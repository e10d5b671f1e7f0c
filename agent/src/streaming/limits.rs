//! Every bound of the streaming code, with what happens when it is reached.

use std::time::Duration;

/// Largest control frame; a longer one ends the connection.
pub const CONTROL_FRAME_LEN_MAX: usize = 64 * 1024;
/// Largest decompressed header block; a longer one ends the connection.
pub const HEADER_BLOCK_LEN_MAX: usize = 64 * 1024;
/// Bytes of a data frame handed on at once. Longer frames are handed on in pieces.
pub const DATA_PIECE_LEN_MAX: usize = 32 * 1024;
/// Pieces a stream holds for its reader. When full the connection stops reading.
pub const STREAM_QUEUE_LEN: usize = 8;
/// Frames waiting to be written. When full writers wait.
pub const WRITE_QUEUE_LEN: usize = 16;
/// Streams of one SPDY connection, pending and open; further ones are refused.
pub const SPDY_STREAMS_MAX: usize = 256;
/// Largest websocket message of a client; a longer one ends the connection.
pub const WEBSOCKET_MESSAGE_LEN_MAX: usize = 1024 * 1024;
/// Ports of one legacy port-forward request; more are refused. The channel number is one byte and each port has two.
pub const FORWARDED_PORTS_MAX: usize = 100;
/// Bytes of a runtime's refusal that are passed on.
pub const REFUSAL_LEN_MAX: usize = 8 * 1024;
/// Bytes of the status at the end of an exec.
pub const STATUS_LEN_MAX: usize = 64 * 1024;
/// Output of a `run` request; the rest is cut.
pub const RUN_OUTPUT_LEN_MAX: usize = 16 * 1024 * 1024;
/// Longest wait for the runtime to accept a connection or a stream.
pub const RUNTIME_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between pings to a websocket client; a client that vanished while its input was stuck is noticed by them only.
pub const WEBSOCKET_PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longest wait for a websocket client to take the close.
pub const WEBSOCKET_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
