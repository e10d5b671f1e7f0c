//! Bounds of this crate: queues, bodies, retries.

use std::time::Duration;

/// First and longest wait before a failed step is tried again.
pub const RETRY_MIN: Duration = Duration::from_millis(250);
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// The least time between two changes of the service rules.
pub const PROXY_MIN_INTERVAL: Duration = Duration::from_millis(20);

/// Questions of one DNS server that wait for upstream servers; more are refused.
pub const DNS_FORWARD_LEN_MAX: usize = 2048;
/// How long one upstream server may take, and all of them together.
pub const DNS_FORWARD_TRY: Duration = Duration::from_secs(2);
pub const DNS_FORWARD_DEADLINE: Duration = Duration::from_secs(6);

/// DNS over TCP: connections at a time, and how long one may be idle.
pub const DNS_TCP_LEN_MAX: usize = 512;
pub const DNS_TCP_IDLE: Duration = Duration::from_secs(10);

/// Names that may lead to names while answering one question.
pub const DNS_CHASE_DEPTH_MAX: usize = 8;

/// Spreads retries of many nodes: between half and all of `delay`.
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.5..=1.0))
}
