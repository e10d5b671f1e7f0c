//! Waiting for what becomes true, with a deadline and the last reason it was not.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Calls `check` until it succeeds. After `limit` the last error is returned
/// together with what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(anyhow!("{what}: not within {} s: {error:#}", limit.as_secs()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
