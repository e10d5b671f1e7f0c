//! What the server needs to know about pods; implemented by the part of the agent that runs them.

use std::path::PathBuf;

use async_trait::async_trait;
use http::StatusCode;

/// A container of a pod, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
}

/// The sandbox of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
}

/// Where a container's log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSource {
    /// The file the runtime writes (or wrote). Rotated files are its siblings, named `<file>.<time stamp>`.
    pub path: PathBuf,
    /// The container that writes it; followers ask [`StreamingBackend::exited`] about it.
    pub container_id: String,
}

/// Why the backend cannot serve a request. The text goes to the user unchanged; use upstream's wording.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// No such pod or container: `pod "p" does not exist`.
    #[error("{0}")]
    NotFound(String),
    /// It exists and cannot be served now: `container "c" in pod "p" is waiting to start: ContainerCreating`.
    #[error("{0}")]
    BadRequest(String),
    /// The runtime or the node failed.
    #[error("{0}")]
    Internal(String),
}

impl BackendError {
    /// The HTTP status upstream gives for this.
    pub fn status(&self) -> StatusCode {
        match self {
            BackendError::NotFound(_) => StatusCode::NOT_FOUND,
            BackendError::BadRequest(_) => StatusCode::BAD_REQUEST,
            BackendError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Which streams an exec or attach has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamSet {
    pub stdin: bool,
    pub stdout: bool,
    /// Never together with `tty`.
    pub stderr: bool,
    pub tty: bool,
}

/// A pod as it is named in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// When given, the pod of that name must have it.
    pub uid: Option<String>,
}

/// Access to the node's pods and their containers.
#[async_trait]
pub trait StreamingBackend: Send + Sync + 'static {
    /// Finds a running container. Unknown pod: NotFound `pod does not exist`; no running container of that name:
    /// Internal `container not found ("c")`, as upstream.
    async fn container(&self, pod: &PodRef, container: &str) -> Result<Container, BackendError>;

    /// Finds the ready sandbox of a pod. Unknown pod: NotFound `pod does not exist`.
    async fn sandbox(&self, pod: &PodRef) -> Result<Sandbox, BackendError>;

    /// Finds the log of a container, of its present or last run, or with `previous` of the run before.
    async fn logs(&self, pod: &PodRef, container: &str, previous: bool) -> Result<LogSource, BackendError>;

    /// Resolves when the container does not run (any more): at once for one that has ended or is unknown.
    async fn exited(&self, container_id: &str);

    /// Asks the runtime for the streaming URL of a new command (CRI `Exec`).
    async fn exec_url(
        &self,
        container_id: &str,
        command: &[String],
        streams: StreamSet,
    ) -> Result<String, BackendError>;

    /// Asks the runtime for the streaming URL of the container's process (CRI `Attach`).
    async fn attach_url(&self, container_id: &str, streams: StreamSet) -> Result<String, BackendError>;

    /// Asks the runtime for the streaming URL of the pod's ports (CRI `PortForward`).
    async fn port_forward_url(&self, sandbox_id: &str, ports: &[u16]) -> Result<String, BackendError>;

    /// The node's pods as a JSON PodList.
    async fn pods(&self) -> Result<Vec<u8>, BackendError>;

    /// Metrics in Prometheus text form for `/metrics` and the paths below it; `None` for an unknown path.
    async fn metrics(&self, path: &str) -> Option<Vec<u8>>;

    /// Use of the node and its pods as JSON, for `/stats/summary`.
    async fn stats(&self, only_cpu_and_memory: bool) -> Result<Vec<u8>, BackendError>;
}
