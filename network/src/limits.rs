//! Bounds of this crate: queues, bodies, retries.

use std::time::Duration;

/// First and longest wait before a failed step is tried again.
pub const RETRY_MIN: Duration = Duration::from_millis(250);
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// The least time between two changes of the service rules.
pub const PROXY_MIN_INTERVAL: Duration = Duration::from_millis(20);

/// Spreads retries of many nodes: between half and all of `delay`.
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.5..=1.0))
}
