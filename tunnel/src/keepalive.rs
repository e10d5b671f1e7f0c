//! When to ping and when to give the peer up: pure, time is a parameter.

use std::time::Duration;

use tokio::time::Instant;

/// What is due now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this time.
    Wait(Instant),
    /// Send a ping with this number.
    Ping(u64),
    /// Nothing was heard for too long.
    Dead,
}

/// The keep-alive clock of one session.
#[derive(Debug)]
pub struct KeepAlive {
    interval: Duration,
    dead_after: Duration,
    last_heard: Instant,
    next_ping: Instant,
    sequence: u64,
}

impl KeepAlive {
    /// A clock for a peer that was just heard.
    pub fn new(interval: Duration, dead_after: Duration, now: Instant) -> Self {
        KeepAlive { interval, dead_after, last_heard: now, next_ping: now + interval, sequence: 0 }
    }

    /// Any message counts as life.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// Tells what is due at `now`. Each ping is told once.
    pub fn due(&mut self, now: Instant) -> Due {
        let death = self.last_heard + self.dead_after;
        if now >= death {
            return Due::Dead;
        }
        if now >= self.next_ping {
            self.sequence += 1;
            self.next_ping = now + self.interval;
            return Due::Ping(self.sequence);
        }
        Due::Wait(self.next_ping.min(death))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pings_come_each_interval_and_silence_kills() {
        let start = Instant::now();
        let mut clock = KeepAlive::new(5 * SECOND, 20 * SECOND, start);
        assert_eq!(clock.due(start), Due::Wait(start + 5 * SECOND));
        assert_eq!(clock.due(start + 5 * SECOND), Due::Ping(1));
        assert_eq!(clock.due(start + 5 * SECOND), Due::Wait(start + 10 * SECOND));
        clock.heard(start + 6 * SECOND);
        assert_eq!(clock.due(start + 25 * SECOND), Due::Ping(2));
        assert_eq!(clock.due(start + 25 * SECOND), Due::Wait(start + 26 * SECOND));
        assert_eq!(clock.due(start + 26 * SECOND), Due::Dead);
    }
}
