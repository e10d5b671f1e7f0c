//! What the suites share: hosts in namespaces, clusters of the built binary,
//! test images, kubectl, waiting, and a runner that shows every test by name.

pub mod cluster;
pub mod host;
pub mod image;
pub mod kubectl;
pub mod packages;
pub mod runner;
pub mod terminal;
pub mod transcript;
pub mod wait;

pub use cluster::{Cluster, ClusterOptions};
pub use host::Host;
pub use kubectl::{Background, Kubectl};
pub use wait::eventually;
