//! Pods of this node: where they come from, and one worker for each.

pub mod actions;
pub mod admission;
pub mod backoff;
mod kill;
mod messages;
pub mod pod_set;
mod resize;
pub mod spec;
mod start;
pub mod static_pods;
mod sync;
mod terminate;
mod worker;

pub use pod_set::PodSet;
