//! What this build calls itself.

/// The Kubernetes release whose API this is, with our own counter.
pub const VERSION: &str = concat!("v1.37.0+skiff", env!("CARGO_PKG_VERSION"));
/// Major and minor of the API.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "37";
