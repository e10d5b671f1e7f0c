//! The overlay between nodes, as flannel does it, inside this process.
//!
//! Every node announces its tunnel end in annotations of its Node object and
//! derives, from everybody's announcements, the few kernel entries it needs
//! ([`plan::compile`]). [`run`] waits for the node's pod subnet, makes the
//! device, writes the CNI configuration (which makes the node ready for pods),
//! announces the node and then follows Node events. Conventions (names,
//! annotations, addresses, VNI, port) are flannel's, so nodes of both kinds and
//! existing tools understand each other.

pub mod config;
pub mod device;
pub mod kernel;
pub mod lease;
pub mod masquerade;
pub mod node_files;
pub mod plan;
pub mod run;

pub use config::{Backend, NetConf, NetworkConfig, VxlanBackend};
pub use node_files::lease_dir;
pub use run::{FlannelError, run};
