//! Why the node agent failed, in the terms its callers decide on.

use std::{io, path::PathBuf};

use skiff_client::ClientError;

use crate::cri::CriError;

/// A failure of the agent as a whole: it cannot run on this host as configured.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cgroup(#[from] skiff_host::cgroup::CgroupError),
    #[error("container runtime: {0}")]
    Runtime(#[from] CriError),
    #[error("containerd: {0}")]
    Containerd(String),
    #[error("register node {node}: {source}")]
    Register {
        node: String,
        #[source]
        source: ClientError,
    },
    #[error("configuration: {0}")]
    Config(String),
}

impl AgentError {
    /// An I/O failure with what was done to which path.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> AgentError {
        let path = path.into();
        move |source| AgentError::Io { action, path, source }
    }
}
