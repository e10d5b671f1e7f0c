//! Is there an order in which a register answers like this? The search of Wing and Gong, with memory.
//!
//! A history is linearizable if every operation can be given a moment between its call and its return so that, one after
//! the other, all answers are right. Keys are independent, so each is searched by itself. What was tried (which
//! operations have been placed, in which state that left the key) is not tried again.

use std::collections::HashSet;
use std::time::Instant;

/// What the key holds; `None` if it does not exist.
pub type State = Option<String>;

/// What was asked, and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Put(String),
    Get(State),
    /// Puts if the key holds `expected`; otherwise learns what it holds.
    Swap {
        expected: State,
        new: String,
        answer: Result<(), State>,
    },
    /// Answers whether there was something to delete.
    Delete(bool),
}

/// One operation of one client.
#[derive(Debug, Clone)]
pub struct Operation {
    pub called: Instant,
    pub returned: Instant,
    pub action: Action,
}

impl Action {
    /// The state after it, if its answer is right in `state`.
    fn after(&self, state: &State) -> Option<State> {
        match self {
            Action::Put(value) => Some(Some(value.clone())),
            Action::Get(seen) => (seen == state).then(|| state.clone()),
            Action::Swap { expected, new, answer: Ok(()) } => (expected == state).then(|| Some(new.clone())),
            Action::Swap { expected, answer: Err(seen), .. } => {
                (expected != state && seen == state).then(|| state.clone())
            }
            Action::Delete(was_there) => (*was_there == state.is_some()).then_some(None),
        }
    }
}

/// True if the operations of one key, which begins without a value, can be put in an order.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    let mut operations: Vec<&Operation> = operations.iter().collect();
    operations.sort_by_key(|operation| operation.called);
    let mut placed = vec![false; operations.len()];
    let mut tried: HashSet<(Vec<bool>, State)> = HashSet::new();
    // Each step: which operation was placed, and the state before it.
    let mut steps: Vec<(usize, State)> = Vec::new();
    let mut state: State = None;
    let mut from = 0;
    loop {
        match next(&operations, &placed, &state, from) {
            Some((at, after)) => {
                placed[at] = true;
                if tried.insert((placed.clone(), after.clone())) {
                    steps.push((at, std::mem::replace(&mut state, after)));
                    from = 0;
                } else {
                    placed[at] = false;
                    from = at + 1;
                }
            }
            None if steps.len() == operations.len() => return true,
            None => {
                let Some((at, before)) = steps.pop() else { return false };
                placed[at] = false;
                state = before;
                from = at + 1;
            }
        }
    }
}

/// The first operation, not before `from`, that may come next: nothing left out had returned before it was called.
fn next(operations: &[&Operation], placed: &[bool], state: &State, from: usize) -> Option<(usize, State)> {
    let open = |at: &usize| !placed[*at];
    let deadline = (0..operations.len()).filter(open).map(|at| operations[at].returned).min()?;
    (from..operations.len())
        .filter(open)
        .take_while(|at| operations[*at].called <= deadline)
        .find_map(|at| Some((at, operations[at].action.after(state)?)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn history(operations: &[(u64, u64, Action)]) -> Vec<Operation> {
        let start = Instant::now();
        let at = |ms: &u64| start + Duration::from_millis(*ms);
        operations
            .iter()
            .map(|(called, returned, action)| Operation {
                called: at(called),
                returned: at(returned),
                action: action.clone(),
            })
            .collect()
    }

    fn put(value: &str) -> Action {
        Action::Put(value.into())
    }

    fn get(value: &str) -> Action {
        Action::Get(Some(value.into()))
    }

    fn swap(expected: &str, new: &str, answer: Result<(), State>) -> Action {
        Action::Swap { expected: Some(expected.into()), new: new.into(), answer }
    }

    #[test]
    fn what_overlaps_may_have_either_order() {
        for seen in ["a", "b"] {
            assert!(is_linearizable(&history(&[(0, 9, put("a")), (1, 8, put("b")), (10, 11, get(seen))])));
        }
        assert!(is_linearizable(&history(&[(0, 2, put("a")), (1, 9, put("b")), (3, 4, get("a")), (5, 6, get("b"))])));
    }

    #[test]
    fn a_stale_read_is_found() {
        assert!(!is_linearizable(&history(&[(0, 1, put("a")), (2, 3, put("b")), (4, 5, get("a"))])));
        // Two readers that see two overlapping writes in different orders.
        let back = [(0, 9, put("a")), (0, 9, put("b")), (1, 2, get("b")), (3, 4, get("a")), (5, 6, get("b"))];
        assert!(!is_linearizable(&history(&back)));
        assert!(!is_linearizable(&history(&[(0, 1, put("a")), (2, 3, Action::Get(None))])));
    }

    #[test]
    fn a_lost_update_is_found() {
        let both = [(0, 1, put("a")), (2, 9, swap("a", "b", Ok(()))), (2, 9, swap("a", "c", Ok(())))];
        assert!(!is_linearizable(&history(&both)));
        let one = [
            (0, 1, put("a")),
            (2, 9, swap("a", "b", Ok(()))),
            (2, 9, swap("a", "c", Err(Some("b".into())))),
            (10, 11, Action::Delete(true)),
            (12, 13, Action::Delete(false)),
        ];
        assert!(is_linearizable(&history(&one)));
    }
}
