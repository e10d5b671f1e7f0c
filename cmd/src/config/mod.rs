//! Configuration: files on disk, and the typed form that components get.

mod agent;
mod api_server_args;
mod file;
mod kubelet_args;
mod server;

pub use agent::{AgentSettings, DEFAULT_DATA_DIR, cgroup_root, instance_of};
pub use file::{ConfigError, file_arguments};
pub use server::{FlannelBackend, ServerSettings};
