//! What the kubelet's HTTPS server asks about pods, answered from the workers and the runtime.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    context::Context,
    cri::{CriError, v1},
    metrics::{self, NodeUsage},
    observed::{ObservedContainer, ObservedPod},
    pods::{PodSet, spec},
    server::{
        BackendError, Container, LogSource, Sandbox, StreamingBackend,
        backend::{PodRef, StreamSet},
    },
};

/// The node's pods for the server.
pub struct NodeBackend {
    context: Arc<Context>,
    pods: Arc<PodSet>,
}

fn internal(error: CriError) -> BackendError {
    BackendError::Internal(error.message())
}

impl NodeBackend {
    pub(crate) fn new(context: Arc<Context>, pods: Arc<PodSet>) -> NodeBackend {
        NodeBackend { context, pods }
    }

    fn pod(&self, wanted: &PodRef) -> Result<Arc<Pod>, BackendError> {
        let matches = |pod: &Arc<Pod>| {
            spec::namespace(pod) == wanted.namespace
                && spec::name(pod) == wanted.name
                && wanted.uid.as_ref().is_none_or(|uid| spec::uid(pod) == uid)
        };
        let found = self.pods.pods().into_iter().find(matches);
        found.ok_or_else(|| BackendError::NotFound("pod does not exist".to_owned()))
    }

    async fn observe(&self, pod: &Pod) -> Result<Arc<ObservedPod>, BackendError> {
        let pleg = &self.context.pleg;
        pleg.refresh(spec::uid(pod), spec::namespace(pod), spec::name(pod)).await.map_err(internal)
    }

    /// Why a container has no log: upstream's words for each state.
    fn no_log(&self, pod: &Pod, container: &str, previous: bool) -> BackendError {
        let name = spec::name(pod);
        if spec::find_container(pod, container).is_none() {
            return BackendError::BadRequest(format!("container {container} is not valid for pod {name}"));
        }
        if previous {
            return BackendError::BadRequest(format!(
                "previous terminated container \"{container}\" in pod \"{name}\" not found"
            ));
        }
        let latest = self.context.status.latest(spec::uid(pod));
        let statuses = latest.iter().flat_map(|status| {
            let lists =
                [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
            lists.into_iter().flatten().flatten()
        });
        let mut waiting = statuses
            .filter(|status| status.name == container)
            .filter_map(|status| status.state.as_ref()?.waiting.clone());
        let reason =
            waiting.next().and_then(|waiting| waiting.reason).unwrap_or_else(|| "ContainerCreating".to_owned());
        let why = match reason.as_str() {
            "ErrImagePull" => "image can't be pulled".to_owned(),
            "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
            _ => reason,
        };
        BackendError::BadRequest(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}"))
    }
}

fn log_source(container: &ObservedContainer) -> LogSource {
    LogSource { path: PathBuf::from(&container.log_path), container_id: container.id.clone() }
}

#[async_trait]
impl StreamingBackend for NodeBackend {
    async fn container(&self, pod: &PodRef, container: &str) -> Result<Container, BackendError> {
        let pod = self.pod(pod)?;
        let observed = self.observe(&pod).await?;
        let running = observed.containers_named(container).find(|container| container.is_running());
        running
            .map(|container| Container { id: container.id.clone() })
            .ok_or_else(|| BackendError::Internal(format!("container not found (\"{container}\")")))
    }

    async fn sandbox(&self, pod: &PodRef) -> Result<Sandbox, BackendError> {
        let pod = self.pod(pod)?;
        let observed = self.observe(&pod).await?;
        let ready = observed.ready_sandbox().map(|sandbox| Sandbox { id: sandbox.id.clone() });
        ready.ok_or_else(|| BackendError::Internal("pod is not running".to_owned()))
    }

    async fn logs(&self, pod: &PodRef, container: &str, previous: bool) -> Result<LogSource, BackendError> {
        let pod = self.pod(pod)?;
        let observed = self.observe(&pod).await?;
        let mut instances = observed.containers_named(container).filter(|found| found.started_at.is_some());
        let found = if previous { instances.nth(1) } else { instances.next() };
        found.map(log_source).ok_or_else(|| self.no_log(&pod, container, previous))
    }

    async fn exited(&self, container_id: &str) {
        self.context.pleg.wait_exited(container_id).await;
    }

    async fn exec_url(
        &self,
        container_id: &str,
        command: &[String],
        streams: StreamSet,
    ) -> Result<String, BackendError> {
        let request = v1::ExecRequest {
            container_id: container_id.to_owned(),
            cmd: command.to_vec(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        self.context.cri.exec(request).await.map_err(internal)
    }

    async fn attach_url(&self, container_id: &str, streams: StreamSet) -> Result<String, BackendError> {
        let request = v1::AttachRequest {
            container_id: container_id.to_owned(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        self.context.cri.attach(request).await.map_err(internal)
    }

    async fn port_forward_url(&self, sandbox_id: &str, ports: &[u16]) -> Result<String, BackendError> {
        let port = ports.iter().map(|port| i32::from(*port)).collect();
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port };
        self.context.cri.port_forward(request).await.map_err(internal)
    }

    async fn pods(&self) -> Result<Vec<u8>, BackendError> {
        let items: Vec<Pod> = self
            .pods
            .pods()
            .into_iter()
            .map(|pod| {
                let mut pod = (*pod).clone();
                if let Some(status) = self.context.status.latest(spec::uid(&pod)) {
                    pod.status = Some((*status).clone());
                }
                pod
            })
            .collect();
        let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        serde_json::to_vec(&list).map_err(|error| BackendError::Internal(error.to_string()))
    }

    async fn metrics(&self, path: &str) -> Option<Vec<u8>> {
        match path {
            "" | "/" | "/metrics" => Some(metrics::kubelet(&self.context.pleg.pods()).into_bytes()),
            "/metrics/resource" => {
                let stats = self.context.cri.list_container_stats().await;
                let pods = self.context.pleg.pods();
                Some(metrics::resource(&stats.unwrap_or_default(), &pods, &NodeUsage::read()).into_bytes())
            }
            _ => None,
        }
    }
}
