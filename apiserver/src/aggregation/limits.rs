//! Every bound of aggregation, with what happens when it is reached.

use std::time::Duration;

/// Longest wait for a connection to a remote API server. More: 503.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a check. More: the APIService is unavailable.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections tried by one check at the same time; one success is enough.
pub const CHECK_ATTEMPTS: usize = 2;
/// Time after which a healthy server is asked again.
pub const RESYNC: Duration = Duration::from_secs(30);
/// First and longest pause after a failed check.
pub const RETRY_MIN: Duration = Duration::from_millis(250);
pub const RETRY_MAX: Duration = Duration::from_secs(15);
/// Largest document a remote server may hand in. More: it is left out.
pub const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// APIServices whose TLS settings are kept. More: all are made anew.
pub const REMOTES_CACHED_MAX: usize = 512;
