//! After a burst (hundreds of pods, large lists) memory goes back to the system.
//!
//! Looks once a minute and acts only when the process has grown since it last
//! gave memory back: a process at rest, or one that needs what it has, is left alone.

use std::time::Duration;

use skiff_host::memory;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_secs(60);
/// Growth that is worth a walk through the allocator's free lists.
const GROWTH: u64 = 8 << 20;

/// Gives memory back until the token is cancelled.
pub async fn give_back(token: CancellationToken) {
    let mut settled = 0;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        // Without /proc there is nothing to go by.
        let Some(resident) = memory::resident() else { return token.cancelled().await };
        if !has_grown(resident, settled) {
            settled = settled.min(resident);
            continue;
        }
        let after = tokio::task::spawn_blocking(|| {
            memory::release();
            memory::resident()
        });
        let Ok(Some(after)) = after.await else { return token.cancelled().await };
        tracing::debug!(component = "memory", resident, after, "gave free memory back");
        settled = after;
    }
}

fn has_grown(resident: u64, settled: u64) -> bool {
    resident >= settled + GROWTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_at_rest_is_left_alone_and_a_grown_one_is_not() {
        assert!(!has_grown((60 << 20) + GROWTH - 1, 60 << 20));
        assert!(has_grown((60 << 20) + GROWTH, 60 << 20));
    }
}
