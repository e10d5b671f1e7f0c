//! Every bound of the store, with what happens when it is reached.

use std::time::Duration;

/// Requests waiting for the writer, by weight in KiB. Full: `Store` calls wait their turn.
pub const QUEUE_KIB: u32 = 64 * 1024;
/// Requests in one commit. More wait for the next one.
pub const BATCH_REQUESTS_MAX: usize = 2048;
/// Bytes of keys and values in one commit. More wait for the next one.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Largest request. More: `Error::RequestTooLarge`.
pub const REQUEST_BYTES_MAX: usize = 1_572_864 + 512 * 1024;
/// Compares or operations in one level of a transaction. More: `Error::TooManyOps`.
pub const TXN_OPS_MAX: usize = 128;
/// Levels of nested transactions. More: `Error::TooManyOps`.
pub const TXN_DEPTH_MAX: usize = 16;

/// Keys visited under one read lock; longer ranges release it in between.
pub const SCAN_CHUNK_KEYS: usize = 1024;
/// Keys counted together; a range is counted in whole blocks and a walk at its ends.
pub const CENSUS_BLOCK_KEYS: usize = 1024;
/// Keys that came or went last. To count a range further back it is walked.
pub const CENSUS_CHANGES_MAX: usize = 4096;
/// Records read from the log in one step of a replay.
pub const LOG_PAGE_RECORDS: usize = 512;
/// Bytes of records read in one step of a replay, at least one record.
pub const LOG_PAGE_BYTES: usize = 2 << 20;
/// Bytes of keys and values packed into one row of the log; a larger record has a row of its own.
pub const RUN_BYTES: usize = 16 << 10;
/// Records packed into one row of the log.
pub const RUN_RECORDS: usize = 64;
/// Records offered to one slice of compaction.
pub const GARBAGE_PER_SLICE: usize = 4096;
/// Reader connections kept open. More historic reads at once wait.
pub const LOG_READERS_MAX: usize = 2;

/// Events in the ring. Older ones are read from the log.
pub const RING_EVENTS_MAX: usize = 16_384;
/// Bytes kept alive by the ring. Older events are read from the log.
pub const RING_BYTES_MAX: usize = 8 << 20;
/// Events in one delivery, extended to the end of a revision.
pub const WATCH_BATCH_EVENTS: usize = 1000;
/// Bytes in one delivery, extended to the end of a revision.
pub const WATCH_BATCH_BYTES: usize = 2 << 20;

/// Time one background slice may take.
pub const SLICE: Duration = Duration::from_millis(1);
/// Least time of a slice behind a busy batch, however short that was.
pub const SLICE_MIN: Duration = Duration::from_micros(100);
/// Share of the time of a busy batch that a slice behind it may take.
pub const SLICE_SHARE: u32 = 4;
/// Pages moved by one step of incremental vacuum.
pub const VACUUM_STEP_PAGES: u32 = 64;
/// Free bytes below which the file is left alone.
pub const FREE_BYTES_MIN: u64 = 4 << 20;
/// WAL size at which an idle writer copies it back.
pub const WAL_IDLE_BYTES: u64 = 4 << 20;
/// WAL size at which a busy writer copies it back; also the size it is cut to.
pub const WAL_BUSY_BYTES: u64 = 16 << 20;
/// How long another process may hold the database file before writes fail.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long reaching a database server may take.
pub const SQL_CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a database server may be silent while it owes an answer. Longer: the connection is given up.
pub const SQL_ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long work is tried again while the database server cannot be reached. Then the callers are told.
pub const SQL_PATIENCE: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to reach a database server.
pub const SQL_RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Silence of announcements after which the database is looked at.
pub const SQL_LISTEN_INTERVAL: Duration = Duration::from_secs(10);
/// Spacing of looks at a database that cannot announce writes.
pub const SQL_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Largest message that is read from a database server.
pub const SQL_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Records read from a shared database in one step of loading or catching up.
pub const SQL_CATCH_UP_RECORDS: usize = 4096;
/// Bytes of records read in that step, at least one record.
pub const SQL_CATCH_UP_BYTES: usize = 8 << 20;
/// How long an etcd may take for one answer.
pub const ETCD_ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How long reads are tried again while an etcd cannot be reached. Then the callers are told.
pub const ETCD_PATIENCE: Duration = Duration::from_secs(10);
/// Spacing of signs of life on an idle connection to an etcd.
pub const ETCD_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Largest message that is read from an etcd.
pub const ETCD_ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long the end of a lease stays recorded. A server that was away for longer loads everything anew.
pub const SQL_ENDED_LEASES_KEPT: Duration = Duration::from_secs(3600);
/// How long a server without writes stays known among the writers.
pub const SQL_WRITERS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes in use at which a store made for a cluster refuses to grow, as large as etcd advises at most.
pub const QUOTA_BYTES_DEFAULT: u64 = 8 << 30;
/// Bytes written between two looks at how much is in use.
pub const QUOTA_LOOK_BYTES: u64 = 256 << 10;
/// What a request costs beside its keys and values, amply.
pub const QUOTA_RECORD_BYTES: u64 = 128;

/// How long a reader of all history, such as a snapshot, may hold back what compaction removes. Longer: it fails.
pub const PIN_MAX: Duration = Duration::from_secs(3600);
/// Bytes of one message of a snapshot.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// Smallest TTL of a lease; smaller ones are raised, as etcd does.
pub const LEASE_TTL_SECONDS_MIN: i64 = 2;
/// Largest TTL of a lease. More: `Error::LeaseTtlTooLarge`.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// How far the stored deadline of a renewed lease may lag behind memory.
pub const LEASE_FLUSH: Duration = Duration::from_secs(5);
/// Keys attached to one shared lease of `put_with_ttl` before a new one is granted.
pub const TTL_LEASE_KEYS_MAX: u32 = 1000;
/// How long one shared lease of `put_with_ttl` takes new keys.
pub const TTL_LEASE_REUSE: Duration = Duration::from_secs(60);
/// Spacing of the samples from which `retention` finds its revision.
pub const RETENTION_SAMPLES: u32 = 10;

/// Watches on one gRPC stream. More: the stream's create request is refused.
pub const STREAM_WATCHES_MAX: usize = 10_000;
/// Bytes of one watch response before a fragmenting watcher splits it.
pub const FRAGMENT_BYTES: usize = 1 << 20;
/// Largest gRPC request, as etcd's default. More: `Error::RequestTooLarge`.
pub const GRPC_REQUEST_BYTES_MAX: usize = 1_572_864;
/// Largest gRPC message that is read at all.
pub const GRPC_DECODE_BYTES_MAX: usize = GRPC_REQUEST_BYTES_MAX + 512 * 1024;
/// Calls open at once on one connection. More wait at the client.
pub const GRPC_STREAMS_MAX: u32 = 16_384;
/// Bytes a client may send ahead of what is read, on one call and on one connection.
pub const GRPC_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// See [`GRPC_STREAM_WINDOW_BYTES`].
pub const GRPC_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How long a client may take for its TLS handshake.
pub const GRPC_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long open calls may take to end when the server stops.
pub const GRPC_STOP_DEADLINE: Duration = Duration::from_secs(2);
/// Time without events after which a gRPC watch that asked for it is told the revision.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
