//! Bounds of this crate's queues, caches and waits, and what happens at each.

use std::time::Duration;

/// First retry of a failed key.
pub const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest pause between retries of a failing key.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1000);
/// Writes of one outcome that run at the same time when they are of one kind.
pub const OPERATIONS_IN_FLIGHT_MAX: usize = 16;
/// How long a key waits for the snapshot to show its own last writes. After
/// that it is reconciled on what is there; preconditions still protect writes.
pub const CATCH_UP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Objects per page when a reflector lists.
pub const REFLECTOR_PAGE_LEN: u32 = 500;
/// A server-side end of every watch, so that a dead path is noticed.
pub const REFLECTOR_WATCH_MAX: Duration = Duration::from_secs(290);
/// First and longest pause of a reflector after a failure.
pub const REFLECTOR_BACKOFF_MIN: Duration = Duration::from_millis(200);
pub const REFLECTOR_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Events waiting to be written; when full, the newest is dropped and counted.
pub const EVENT_QUEUE_LEN: usize = 4096;
/// Events written at the same time; beyond that they wait in the queue.
pub const EVENT_WRITES_IN_FLIGHT_MAX: usize = 16;
/// Series an event recorder remembers; the least recently used is forgotten,
/// which at worst writes a new Event object instead of raising a count.
pub const EVENT_SERIES_MAX: usize = 4096;
/// Attempts to write one event while the API is unreachable.
pub const EVENT_ATTEMPTS_MAX: u32 = 12;

/// Longest wait for a TCP connection with its TLS handshake.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the head of a response.
pub const RESPONSE_HEAD_WAIT_MAX: Duration = Duration::from_secs(65);
/// A silent HTTP/2 connection is probed this often, and given up when the probe is not answered.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub const KEEP_ALIVE_WAIT_MAX: Duration = Duration::from_secs(15);
/// What the server may send ahead of our reading: on one HTTP/2 connection, and on one stream of it.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
pub const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// A token file is read again after this long.
pub const TOKEN_FILE_AGE_MAX: Duration = Duration::from_secs(60);
