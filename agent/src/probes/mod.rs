//! Probes: HTTP, TCP, exec and gRPC checks of running containers.

mod check;
mod http;
mod prober;

pub use check::{CheckTarget, resolve_port};
pub use http::{HttpCheck, http_get};
pub use prober::Prober;
