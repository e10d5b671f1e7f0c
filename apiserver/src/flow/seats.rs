//! Seats of priority levels, and the queues before them.
//!
//! Every level has a nominal number of seats by its share. A level may borrow
//! what others do not use and can lend. Waiters of a level stand in several
//! queues, each flow in the shortest of its hand of them, so that one noisy flow
//! cannot delay all others; queues are served in turn.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use crate::limits;

/// Longest wait in a queue: a quarter of what a request may take.
const WAIT_MAX: Duration = Duration::from_secs(limits::REQUEST_TIMEOUT.as_secs() / 4);
/// Queues of one level at most, whatever an object says.
const QUEUES_MAX: usize = 1024;

/// A level's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    pub count: usize,
    pub hand: usize,
    pub length: usize,
}

/// Limits of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub name: Arc<str>,
    pub shares: i64,
    pub lendable_percent: i64,
    /// `None`: as much as others can lend.
    pub borrow_percent: Option<i64>,
    /// `None`: without a free seat a request is refused.
    pub queues: Option<Queues>,
}

/// Why a request got no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::QueueFull => "queue-full",
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::TimeOut => "time-out",
        }
    }
}

struct State {
    nominal: usize,
    /// Seats nobody else may use.
    kept: usize,
    limit: usize,
    queues: Option<Queues>,
    in_use: usize,
    waiting: Vec<VecDeque<oneshot::Sender<Seat>>>,
    /// The queue served last.
    turn: usize,
}

/// All seats of the server.
pub struct Seats {
    total: usize,
    levels: Mutex<HashMap<Arc<str>, State>>,
}

/// A seat; given back, or handed to the next in line, on drop.
pub struct Seat {
    seats: Arc<Seats>,
    level: Arc<str>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.give_back(&self.level);
    }
}

impl Seats {
    pub fn new(total: usize) -> Seats {
        Seats { total, levels: Mutex::default() }
    }

    /// Takes over new limits. Who waits or sits stays; a level that is gone ends with its last request.
    pub fn set_levels(&self, wanted: &[Level]) {
        let shares: i64 = wanted.iter().map(|level| level.shares).sum::<i64>().max(1);
        let total = i64::try_from(self.total).unwrap_or(i64::MAX);
        let size = |number: i64| usize::try_from(number).unwrap_or(0);
        let mut levels = self.levels.lock();
        levels.retain(|name, state| state.in_use > 0 || wanted.iter().any(|level| level.name == *name));
        for level in wanted {
            // Rounded up, as upstream does, so that the least share is a seat.
            let nominal = (total * level.shares + shares - 1) / shares;
            let lendable = nominal * level.lendable_percent / 100;
            let limit =
                level.borrow_percent.map_or(total, |percent| (nominal + nominal * percent.max(0) / 100).min(total));
            let queues = level.queues.map(|queues| Queues { count: queues.count.min(QUEUES_MAX), ..queues });
            let state = levels.entry(Arc::clone(&level.name)).or_insert_with(|| State {
                nominal: 0,
                kept: 0,
                limit: 0,
                queues: None,
                in_use: 0,
                waiting: Vec::new(),
                turn: 0,
            });
            (state.nominal, state.kept, state.limit) = (size(nominal), size(nominal - lendable), size(limit));
            state.queues = queues;
            let count = queues.map_or(0, |queues| queues.count).max(state.waiting.len());
            state.waiting.resize_with(count, VecDeque::new);
        }
    }

    /// A seat of the level, now or after waiting among the requests of `flow`.
    pub async fn take(self: &Arc<Self>, level: &Arc<str>, flow: u64) -> Result<Seat, Refusal> {
        let waiting = {
            let mut levels = self.levels.lock();
            let Some(state) = levels.get(level) else { return Err(Refusal::ConcurrencyLimit) };
            let free = may_run(&levels, level, self.total) && state.waiting.iter().all(VecDeque::is_empty);
            let Some(state) = levels.get_mut(level) else { return Err(Refusal::ConcurrencyLimit) };
            if free {
                state.in_use += 1;
                return Ok(Seat { seats: Arc::clone(self), level: Arc::clone(level) });
            }
            let Some(queues) = state.queues else { return Err(Refusal::ConcurrencyLimit) };
            let Some(at) = shortest(&state.waiting, &hand(flow, queues)) else { return Err(Refusal::ConcurrencyLimit) };
            // Those who gave up make room.
            state.waiting[at].retain(|waiter| !waiter.is_closed());
            if state.waiting[at].len() >= queues.length {
                return Err(Refusal::QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting[at].push_back(sender);
            receiver
        };
        match timeout(WAIT_MAX, waiting).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) => Err(Refusal::ConcurrencyLimit),
            Err(_) => Err(Refusal::TimeOut),
        }
    }

    fn give_back(self: &Arc<Self>, level: &Arc<str>) {
        let mut handed = Vec::new();
        {
            let mut levels = self.levels.lock();
            if let Some(state) = levels.get_mut(level) {
                state.in_use = state.in_use.saturating_sub(1);
            }
            // Its own waiters first, then those of levels that may borrow.
            let names: Vec<Arc<str>> = std::iter::once(Arc::clone(level))
                .chain(
                    levels
                        .iter()
                        .filter(|(name, state)| *name != level && state.has_waiters())
                        .map(|(name, _)| Arc::clone(name)),
                )
                .collect();
            for name in names {
                while may_run(&levels, &name, self.total) {
                    let Some(state) = levels.get_mut(&name) else { break };
                    let Some(waiter) = state.next() else { break };
                    state.in_use += 1;
                    handed.push((waiter, Seat { seats: Arc::clone(self), level: Arc::clone(&name) }));
                }
            }
        }
        // A waiter that gave up meanwhile drops its seat again, which must not happen under the lock.
        for (waiter, seat) in handed {
            drop(waiter.send(seat));
        }
    }
}

impl State {
    fn has_waiters(&self) -> bool {
        self.waiting.iter().any(|queue| !queue.is_empty())
    }

    /// The next waiter, queues in turn.
    fn next(&mut self) -> Option<oneshot::Sender<Seat>> {
        let count = self.waiting.len();
        for step in 1..=count {
            let at = (self.turn + step) % count;
            while let Some(waiter) = self.waiting[at].pop_front() {
                if !waiter.is_closed() {
                    self.turn = at;
                    return Some(waiter);
                }
            }
        }
        None
    }
}

/// Whether one more request of the level may run: within its own seats always,
/// beyond them while others leave seats that they do not keep for themselves.
fn may_run(levels: &HashMap<Arc<str>, State>, level: &Arc<str>, total: usize) -> bool {
    let Some(state) = levels.get(level) else { return false };
    if state.in_use < state.nominal {
        return true;
    }
    if state.in_use >= state.limit {
        return false;
    }
    let used: usize = levels
        .iter()
        .map(|(name, other)| if name == level { other.in_use } else { other.in_use.max(other.kept) })
        .sum();
    used < total
}

/// The queues a flow may stand in.
fn hand(mut flow: u64, queues: Queues) -> Vec<usize> {
    let mut hand = Vec::with_capacity(queues.hand.min(queues.count));
    let count = queues.count as u64;
    for dealt in 0..queues.hand.min(queues.count) as u64 {
        // Deals cards without putting them back: the number-th of those still there.
        let left = count - dealt;
        let mut card = usize::try_from(flow % left).unwrap_or(0);
        flow /= left;
        let mut before: Vec<usize> = hand.clone();
        before.sort_unstable();
        for taken in before {
            if card >= taken {
                card += 1;
            }
        }
        hand.push(card);
    }
    hand
}

fn shortest(waiting: &[VecDeque<oneshot::Sender<Seat>>], hand: &[usize]) -> Option<usize> {
    hand.iter().copied().filter(|at| *at < waiting.len()).min_by_key(|at| waiting[*at].len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str, shares: i64, lendable: i64, queues: Option<Queues>) -> Level {
        Level { name: name.into(), shares, lendable_percent: lendable, borrow_percent: None, queues }
    }

    fn seats(total: usize, levels: &[Level]) -> Arc<Seats> {
        let seats = Seats::new(total);
        seats.set_levels(levels);
        Arc::new(seats)
    }

    #[tokio::test]
    async fn a_level_borrows_what_others_lend_and_no_more() {
        let seats = seats(10, &[level("a", 1, 0, None), level("b", 1, 60, None)]);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut held = Vec::new();
        while let Ok(seat) = seats.take(&a, 0).await {
            held.push(seat);
        }
        assert_eq!(held.len(), 8, "five of its own and three that b can lend");
        let own = seats.take(&b, 0).await;
        assert!(own.is_ok(), "b still has its own");
        held.clear();
        let mut of_b = Vec::new();
        while let Ok(seat) = seats.take(&b, 0).await {
            of_b.push(seat);
        }
        assert_eq!(of_b.len() + 1, 5, "a lends nothing");
    }

    #[tokio::test]
    async fn waiters_get_the_seat_in_turn_and_full_queues_refuse() {
        let queues = Queues { count: 1, hand: 1, length: 1 };
        let seats = seats(1, &[level("a", 1, 0, Some(queues))]);
        let a: Arc<str> = "a".into();
        let first = seats.take(&a, 1).await.unwrap();
        let waiting = tokio::spawn({
            let (seats, a) = (Arc::clone(&seats), Arc::clone(&a));
            async move { seats.take(&a, 2).await.is_ok() }
        });
        while !seats.levels.lock()[&a].has_waiters() {
            tokio::task::yield_now().await;
        }
        assert_eq!(seats.take(&a, 3).await.err(), Some(Refusal::QueueFull));
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(seats.take(&a, 4).await.is_ok(), "the waiter has given its seat back");
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_line() {
        let queues = Queues { count: 4, hand: 2, length: 8 };
        let seats = seats(1, &[level("a", 1, 0, Some(queues))]);
        let a: Arc<str> = "a".into();
        let first = seats.take(&a, 1).await.unwrap();
        let mut waiting = Box::pin(seats.take(&a, 2));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        drop(first);
        assert_eq!(seats.levels.lock()[&a].in_use, 0);
        assert!(seats.take(&a, 3).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let seats = seats(1, &[level("a", 1, 0, Some(Queues { count: 1, hand: 1, length: 5 }))]);
        let a: Arc<str> = "a".into();
        let _first = seats.take(&a, 1).await.unwrap();
        assert_eq!(seats.take(&a, 2).await.err(), Some(Refusal::TimeOut));
    }

    #[test]
    fn a_hand_has_different_queues() {
        for flow in [0, 7, 12_345_678_901, u64::MAX] {
            let mut hand = hand(flow, Queues { count: 8, hand: 6, length: 1 });
            hand.sort_unstable();
            hand.dedup();
            assert!(hand.len() == 6 && hand.iter().all(|at| *at < 8), "{hand:?}");
        }
    }
}
