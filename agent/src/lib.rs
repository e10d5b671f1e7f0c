//! The node agent: runs the pods of one node (upstream's kubelet).
//!
//! [`run`] supervises containerd, registers the node, and gives every pod a
//! worker that brings the runtime to what the API asks for. Decisions
//! ([`pods::actions`], [`status`], [`container_config`]) are pure; the code
//! around them only looks and acts. Containers are recognised by what the
//! runtime stores with them, so stopping the agent leaves pods running and the
//! next start takes them up again.

pub mod backend;
mod cadvisor;
pub mod cgroups;
pub mod config;
pub mod container_config;
pub mod containerd;
pub mod context;
pub mod cri;
pub mod error;
pub mod events;
mod eviction;
mod eviction_thresholds;
pub mod images;
mod labels;
mod lifecycle;
pub mod limits;
mod log_links;
pub mod log_rotation;
mod metrics;
pub mod node;
pub mod objects;
pub mod observed;
pub mod pleg;
pub mod pods;
pub mod probes;
pub mod quantity;
mod run;
pub mod server;
mod stats;
pub mod status;
pub mod streaming;
pub mod volumes;

pub use backend::NodeBackend;
pub use config::{AgentConfig, AgentEvent, EventSinkFn, RuntimeConfig};
pub use error::AgentError;
pub use eviction_thresholds::{EvictionThresholds, ThresholdError};
pub use run::{Agent, run};
