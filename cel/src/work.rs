//! Work: what an evaluation does besides what clients are charged for.
//!
//! The cost that clients know is the same for comparing two numbers and two
//! whole objects, and a list that is put into itself again and again is small on
//! paper and endless in fact. So bytes, elements and comparisons are counted as
//! well, and what costs too many of them ends like a budget that is used up.

use std::cell::Cell;

/// Units of work of one evaluation.
const WORK_MAX: u64 = 50_000_000;
/// Bytes that make one unit of work.
const WORK_UNIT: u64 = 32;

/// The work of one evaluation.
#[derive(Debug, Default)]
pub struct Work(Cell<u64>);

impl Work {
    /// One step over so many bytes; false when nothing may be done any more.
    pub fn step(&self, bytes: u64) -> bool {
        self.0.set(self.0.get().saturating_add(1 + bytes / WORK_UNIT));
        !self.is_spent()
    }

    pub fn is_spent(&self) -> bool {
        self.0.get() > WORK_MAX
    }
}
