//! The scheduler: finds a node for every pod that has none.
//!
//! - [`decision`]: one pod against all nodes, pure; [`plugins`] filter and score;
//! - [`preemption`]: which pods must go when there is no room, pure;
//! - [`cache`]: nodes with their pods, kept up to date change by change;
//! - [`queue`]: who waits for what;
//! - [`scheduler`]: the loop that joins them and writes bindings.

pub mod cache;
pub mod decision;
pub mod limits;
pub mod node_info;
pub mod plugins;
pub mod pod_info;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod scheduler;

pub use decision::{Decision, Diagnosis, Nominated, schedule};
pub use scheduler::{SchedulerConfig, run};
