//! Every bound of the API server, with what happens when it is reached.

use std::time::Duration;

/// Largest request body. More: 413.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// Time an ordinary request may take. More: 504.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Time a write of one object may take. More: 504.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(34);
/// Reading and mutating requests in flight. More: 429.
pub const READS_IN_FLIGHT_MAX: usize = 400;
pub const WRITES_IN_FLIGHT_MAX: usize = 200;
/// Seconds a refused client is told to wait.
pub const RETRY_AFTER_SECONDS: i32 = 1;

/// Events kept per resource for watches to resume from. Older starts: 410 Expired.
pub const RING_EVENTS_MAX: usize = 16_384;
/// Memory of superseded objects kept alive by one ring. Over it the oldest go.
pub const RING_BYTES_MAX: usize = 32 << 20;
/// How long a superseded object keeps its typed and other derived forms.
pub const RING_WARM: Duration = Duration::from_secs(3);
/// Memory of one ring spent on events older than [`RING_FRESH`]. Over it the oldest go.
pub const RING_BYTES_STALE: usize = 1 << 20;
/// Age below which an event is kept for clients that reconnect.
pub const RING_FRESH: Duration = Duration::from_secs(75);
/// Events of a ring kept whatever their size.
pub const RING_EVENTS_MIN: usize = 100;
/// Watchers of a resource are woken for a change at once, then not again for so long per watcher, so that
/// waking them takes a bounded part of the time; changes meanwhile are sent together.
pub const WAKE_PAUSE_PER_WATCHER: Duration = Duration::from_micros(10);
/// The pause however many watchers there are.
pub const WAKE_PAUSE_MAX: Duration = Duration::from_millis(20);
/// A shorter pause is none: timers are no finer.
pub const WAKE_PAUSE_MIN: Duration = Duration::from_millis(1);
/// Bytes handed to a connection in one frame of a list or watch.
pub const FRAME_BYTES: usize = 32 << 10;
/// Written objects that wait to come back as changes of the store. More: the oldest are decoded instead.
pub const HANDOVER_LEN: usize = 256;
/// Bytes of them together.
pub const HANDOVER_BYTES: usize = 4 << 20;
/// Time a reader waits for the caches to catch up with the store. More: 504.
pub const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between bookmarks of an idle watch.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after a random time between this and twice this.
pub const WATCH_TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// History that clients can rely on: pages and watches resume for at least this long.
pub const HISTORY_MIN: Duration = Duration::from_secs(300);
/// Time between compactions; history lives at most this much longer than [`HISTORY_MIN`].
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before the watch of the store is opened again after it broke.
pub const REWATCH_PAUSE: Duration = Duration::from_millis(200);

/// Attempts of a write whose object changed meanwhile, when the client set no version. More: 409.
pub const UPDATE_ATTEMPTS_MAX: usize = 20;
/// Attempts to find a free generated name. More: 409 AlreadyExists.
pub const GENERATE_NAME_ATTEMPTS_MAX: usize = 8;
/// Objects deleted at the same time by one deletecollection.
pub const DELETE_COLLECTION_CONCURRENCY: usize = 8;
/// Objects read from the store in one step of a list at a past revision.
pub const LIST_PAGE_KEYS: usize = 500;

/// All annotations of an object together, keys and values. More: 422.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
/// Length of a field manager. More: 422.
pub const FIELD_MANAGER_LEN_MAX: usize = 128;
/// Response bytes from which gzip is worth it.
pub const GZIP_BYTES_MIN: usize = 128 << 10;
/// Time open connections get to finish when the server stops. Then they are cut.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time a TLS handshake may take before the connection is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections open at the same time. More wait in the listen queue.
pub const CONNECTIONS_MAX: usize = 8192;

/// Writes in flight while the objects of every cluster are made at start.
pub const BOOTSTRAP_CONCURRENCY: usize = 32;
/// Namespaces whose deletion is remembered until the caches show it. More are found by the caches alone.
pub const RECENT_DELETIONS_MAX: usize = 256;
/// Evicted pods noted in one disruption budget. More: the disruption controller is behind, evictions are refused.
pub const DISRUPTED_PODS_MAX: usize = 2000;
/// Charges of quotas for writes that the caches do not show yet. More: 503, the client tries again.
pub const PENDING_CHARGES_MAX: usize = 4096;
