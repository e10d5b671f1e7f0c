//! After a burst (hundreds of pods, large lists) memory goes back to the system.
//!
//! The allocator keeps what is freed, and what a burst needed is freed over
//! minutes: histories age, caches shrink. So a process that is larger than it
//! was at its smallest gives back again and again, ever less often while
//! nothing comes of it. One at its smallest is left alone.

use std::time::Duration;

use skiff_host::memory;
use tokio_util::sync::CancellationToken;

const WAIT_MIN: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(16 * 60);
/// Growth that is worth a walk through the allocator's free lists, and a gain worth having walked for.
const GROWTH: u64 = 8 << 20;

/// Gives memory back until the token is cancelled.
pub async fn give_back(token: CancellationToken) {
    let mut rhythm = Rhythm::new();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(rhythm.wait) => {}
        }
        // Without /proc there is nothing to go by.
        let Some(before) = memory::resident() else { return token.cancelled().await };
        if !rhythm.is_due(before) {
            continue;
        }
        let after = tokio::task::spawn_blocking(|| {
            memory::release();
            memory::resident()
        });
        let Ok(Some(after)) = after.await else { return token.cancelled().await };
        let allocated = memory::allocated();
        tracing::debug!(component = "memory", before, after, allocated, "gave free memory back");
        rhythm.gave_back(before, after);
    }
}

/// When to give back: bytes resident go in, the wait until the next look comes out.
struct Rhythm {
    /// The smallest size the process ever settled at.
    floor: u64,
    /// Its size after the last time.
    settled: u64,
    wait: Duration,
}

impl Rhythm {
    fn new() -> Rhythm {
        Rhythm { floor: u64::MAX, settled: 0, wait: WAIT_MIN }
    }

    fn is_due(&mut self, resident: u64) -> bool {
        self.floor = self.floor.min(resident);
        if resident >= self.settled.saturating_add(GROWTH) {
            self.wait = WAIT_MIN;
            return true;
        }
        resident >= self.floor.saturating_add(GROWTH)
    }

    fn gave_back(&mut self, before: u64, after: u64) {
        self.floor = self.floor.min(after);
        self.settled = after;
        let worth_it = before.saturating_sub(after) >= GROWTH;
        self.wait = if worth_it { WAIT_MIN } else { (self.wait * 2).min(WAIT_MAX) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn settled_at(size: u64) -> Rhythm {
        let mut rhythm = Rhythm::new();
        assert!(rhythm.is_due(size), "the first time it is not known what is free");
        rhythm.gave_back(size, size);
        rhythm
    }

    #[test]
    fn a_process_at_rest_is_left_alone_and_a_grown_one_is_not() {
        let mut rhythm = settled_at(60 * MIB);
        assert!(!rhythm.is_due(60 * MIB + GROWTH - 1));
        assert!(rhythm.is_due(60 * MIB + GROWTH));
    }

    #[test]
    fn what_a_burst_frees_late_is_given_back_late() {
        let mut rhythm = settled_at(60 * MIB);
        assert!(rhythm.is_due(180 * MIB));
        rhythm.gave_back(180 * MIB, 130 * MIB);
        assert_eq!(rhythm.wait, WAIT_MIN);
        assert!(rhythm.is_due(130 * MIB), "it is still far from its smallest");
        rhythm.gave_back(130 * MIB, 129 * MIB);
        assert_eq!(rhythm.wait, WAIT_MIN * 2, "nothing came of it");
        assert!(rhythm.is_due(129 * MIB));
        rhythm.gave_back(129 * MIB, 62 * MIB);
        assert!(!rhythm.is_due(62 * MIB));
    }

    #[test]
    fn looks_become_rare_and_growth_makes_them_frequent_again() {
        let mut rhythm = settled_at(60 * MIB);
        for _ in 0..10 {
            assert!(rhythm.is_due(90 * MIB));
            rhythm.gave_back(90 * MIB, 90 * MIB);
        }
        assert_eq!(rhythm.wait, WAIT_MAX);
        assert!(rhythm.is_due(100 * MIB));
        assert_eq!(rhythm.wait, WAIT_MIN);
    }
}
