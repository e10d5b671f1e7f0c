//! Bounds and times of the scheduler.

use std::time::Duration;

/// First and longest pause of a pod that could not be placed or bound.
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that found no node is tried again after this long even if nothing seems to have changed.
pub const UNSCHEDULABLE_WAIT_MAX: Duration = Duration::from_secs(300);
/// Bindings written at the same time; beyond that decisions wait.
pub const BINDINGS_IN_FLIGHT_MAX: usize = 64;
/// Up to this many nodes all are looked at; beyond, enough feasible ones.
pub const NODES_ALWAYS_CHECKED: usize = 100;
/// Nodes tried when looking for victims.
pub const PREEMPTION_CANDIDATES_MAX: usize = 100;
