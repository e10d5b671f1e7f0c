//! Every bound of the tunnel, with what happens when it is reached.

use std::time::Duration;

/// Largest payload of one Data frame. Writers split; a longer one from the peer is a protocol error.
pub const DATA_LEN_MAX: usize = 32 * 1024;
/// Largest frame of any type. The websocket refuses longer messages before they are buffered.
pub const FRAME_LEN_MAX: usize = 64 * 1024;
/// Longest text of an OpenError. Longer reasons are cut.
pub const MESSAGE_LEN_MAX: usize = 1024;
/// Streams of one session. Beyond it opens fail, local ones at once and the peer's by OpenError.
pub const STREAMS_MAX: usize = 4096;
/// Bytes a peer may have outstanding per stream and direction.
pub const WINDOW_DEFAULT: u32 = 256 * 1024;
/// Smallest window that can be configured or granted.
pub const WINDOW_MIN: u32 = 16;
/// Largest window; credit beyond it is a protocol error.
pub const WINDOW_MAX: u32 = 16 * 1024 * 1024;
/// Bytes a stream buffers for sending. When full the writer waits.
pub const TX_BUFFER_LEN_MAX: usize = 64 * 1024;
/// Control frames waiting for the socket. A peer that overflows it loses the session.
pub const CONTROL_FRAMES_MAX: usize = 4 * STREAMS_MAX;
/// An emptied buffer that grew beyond this is given back to the allocator.
pub const IDLE_BUFFER_LEN_MAX: usize = 16 * 1024;

/// Time between two pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Silence after which the peer counts as dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(20);
/// Time between two exchanges of stream lists.
pub const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait for the peer to answer an Open.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time a dialler gives one attempt to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// First ceiling of the random wait between attempts; doubles with each failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Last ceiling of the random wait between attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A session that lasted this long sets the back-off back to its start.
pub const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Longest wait of a server for a node that is reconnecting.
pub const SESSION_WAIT: Duration = Duration::from_secs(10);
/// Longest time a session gives the socket to take its last frames when it ends.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Time a reset stream has to hand what had arrived to its target. Then its connection is dropped.
pub const RESET_GRACE: Duration = Duration::from_secs(2);
