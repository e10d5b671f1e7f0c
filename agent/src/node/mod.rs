//! This node in the API: registration, status and lease.

mod facts;
mod lease;
mod registration;
mod reporter;

pub use facts::{NodeFactsInput, node_status};
pub use lease::run as run_lease;
pub use registration::register;
pub use reporter::NodeReporter;
