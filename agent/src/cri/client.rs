//! The client of the runtime: one method per call, each with a deadline.
//!
//! The channel connects on first use and reconnects by itself, so a [`Cri`]
//! stays valid while containerd is replaced. Calls that stop or remove treat
//! "not found" as done.

use std::{path::Path, time::Duration};

use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

use super::{
    CriError, events,
    v1::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use crate::limits;

/// Speaks CRI v1 over a unix socket; cheap to clone.
#[derive(Clone)]
pub struct Cri {
    channel: Channel,
}

fn request<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Calls a method of a service with a deadline and names the call in its error.
macro_rules! call {
    ($self:ident.$service:ident().$method:ident, $message:expr, $timeout:expr) => {
        $self
            .$service()
            .$method(request($message, $timeout))
            .await
            .map(tonic::Response::into_inner)
            .map_err(CriError::call(stringify!($method)))
    };
}

impl Cri {
    /// A client of the runtime at `socket`; connects on first use.
    pub fn new(socket: &Path) -> Result<Cri, CriError> {
        let uri = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|source| CriError::Connect { socket: socket.display().to_string(), source })?;
        Ok(Cri { channel: endpoint.connect_timeout(Duration::from_secs(5)).connect_lazy() })
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(limits::CRI_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::CRI_MESSAGE_BYTES_MAX)
    }

    fn image(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(limits::CRI_MESSAGE_BYTES_MAX)
    }

    pub async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        let message = v1::VersionRequest { version: "v1".to_owned() };
        call!(self.runtime().version, message, Duration::from_secs(5))
    }

    pub async fn status(&self) -> Result<v1::StatusResponse, CriError> {
        call!(self.runtime().status, v1::StatusRequest { verbose: false }, Duration::from_secs(15))
    }

    /// Container events of runtimes that have them in CRI (containerd 1.7 and later).
    pub async fn container_events(&self) -> Result<Streaming<v1::ContainerEventResponse>, CriError> {
        let answer = self.runtime().get_container_events(v1::GetEventsRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(CriError::call("get_container_events"))
    }

    /// containerd's own task events of the namespace that CRI uses.
    pub async fn native_events(&self) -> Result<Streaming<events::Envelope>, CriError> {
        let filters = vec!["namespace==k8s.io,topic~=^/tasks/".to_owned()];
        let mut client = events::events_client::EventsClient::new(self.channel.clone());
        let answer = client.subscribe(events::SubscribeRequest { filters }).await;
        answer.map(tonic::Response::into_inner).map_err(CriError::call("subscribe"))
    }

    pub async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, CriError> {
        let message = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(call!(self.runtime().run_pod_sandbox, message, limits::CRI_SANDBOX_TIMEOUT)?.pod_sandbox_id)
    }

    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let message = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(call!(self.runtime().stop_pod_sandbox, message, limits::CRI_CALL_TIMEOUT).map(drop))
    }

    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let message = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(call!(self.runtime().remove_pod_sandbox, message, limits::CRI_CALL_TIMEOUT).map(drop))
    }

    pub async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, CriError> {
        let message = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = call!(self.runtime().pod_sandbox_status, message, limits::CRI_CALL_TIMEOUT)?;
        answer.status.ok_or(CriError::Incomplete { call: "pod_sandbox_status", missing: "status" })
    }

    pub async fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>, CriError> {
        let message = v1::ListPodSandboxRequest { filter: None };
        Ok(call!(self.runtime().list_pod_sandbox, message, limits::CRI_CALL_TIMEOUT)?.items)
    }

    /// The sandboxes of one pod.
    pub async fn list_sandboxes_of(&self, pod_uid: &str) -> Result<Vec<v1::PodSandbox>, CriError> {
        let label_selector = [(crate::labels::POD_UID.to_owned(), pod_uid.to_owned())].into();
        let filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
        let message = v1::ListPodSandboxRequest { filter: Some(filter) };
        Ok(call!(self.runtime().list_pod_sandbox, message, limits::CRI_CALL_TIMEOUT)?.items)
    }

    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let message = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.runtime().create_container, message, limits::CRI_CALL_TIMEOUT)?.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let message = v1::StartContainerRequest { container_id: id.to_owned() };
        call!(self.runtime().start_container, message, limits::CRI_CALL_TIMEOUT).map(drop)
    }

    /// SIGTERM (or the image's stop signal), then SIGKILL after `grace_seconds`.
    pub async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), CriError> {
        let grace_seconds = grace_seconds.max(0);
        let message = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        let timeout = limits::CRI_CALL_TIMEOUT + Duration::from_secs(grace_seconds.unsigned_abs());
        gone_is_done(call!(self.runtime().stop_container, message, timeout).map(drop))
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let message = v1::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_done(call!(self.runtime().remove_container, message, limits::CRI_CALL_TIMEOUT).map(drop))
    }

    pub async fn list_containers(&self) -> Result<Vec<v1::Container>, CriError> {
        let message = v1::ListContainersRequest { filter: None };
        Ok(call!(self.runtime().list_containers, message, limits::CRI_CALL_TIMEOUT)?.containers)
    }

    /// The containers of one pod.
    pub async fn list_containers_of(&self, pod_uid: &str) -> Result<Vec<v1::Container>, CriError> {
        let label_selector = [(crate::labels::POD_UID.to_owned(), pod_uid.to_owned())].into();
        let filter = v1::ContainerFilter { label_selector, ..Default::default() };
        let message = v1::ListContainersRequest { filter: Some(filter) };
        Ok(call!(self.runtime().list_containers, message, limits::CRI_CALL_TIMEOUT)?.containers)
    }

    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, CriError> {
        let message = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = call!(self.runtime().container_status, message, limits::CRI_CALL_TIMEOUT)?;
        answer.status.ok_or(CriError::Incomplete { call: "container_status", missing: "status" })
    }

    pub async fn update_container_resources(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), CriError> {
        let message = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            annotations: Default::default(),
        };
        call!(self.runtime().update_container_resources, message, limits::CRI_CALL_TIMEOUT).map(drop)
    }

    pub async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let message = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.runtime().reopen_container_log, message, limits::CRI_CALL_TIMEOUT).map(drop)
    }

    /// Runs a command to its end; the runtime kills it after `timeout`.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let message = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout: seconds };
        let deadline = if seconds == 0 { limits::CRI_CALL_TIMEOUT } else { timeout + Duration::from_secs(5) };
        call!(self.runtime().exec_sync, message, deadline)
    }

    /// The address at which the runtime serves this exec.
    pub async fn exec(&self, message: v1::ExecRequest) -> Result<String, CriError> {
        Ok(call!(self.runtime().exec, message, limits::CRI_CALL_TIMEOUT)?.url)
    }

    /// The address at which the runtime serves this attach.
    pub async fn attach(&self, message: v1::AttachRequest) -> Result<String, CriError> {
        Ok(call!(self.runtime().attach, message, limits::CRI_CALL_TIMEOUT)?.url)
    }

    /// The address at which the runtime forwards to these ports.
    pub async fn port_forward(&self, message: v1::PortForwardRequest) -> Result<String, CriError> {
        Ok(call!(self.runtime().port_forward, message, limits::CRI_CALL_TIMEOUT)?.url)
    }

    pub async fn list_container_stats(&self) -> Result<Vec<v1::ContainerStats>, CriError> {
        let message = v1::ListContainerStatsRequest { filter: None };
        Ok(call!(self.runtime().list_container_stats, message, limits::CRI_CALL_TIMEOUT)?.stats)
    }

    /// Network and process figures of all sandboxes (containerd 1.7 and later).
    pub async fn list_pod_sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>, CriError> {
        let message = v1::ListPodSandboxStatsRequest { filter: None };
        Ok(call!(self.runtime().list_pod_sandbox_stats, message, limits::CRI_CALL_TIMEOUT)?.stats)
    }

    pub async fn list_images(&self) -> Result<Vec<v1::Image>, CriError> {
        let message = v1::ListImagesRequest { filter: None };
        Ok(call!(self.image().list_images, message, limits::CRI_CALL_TIMEOUT)?.images)
    }

    /// The image of this name or digest, if the runtime has it.
    pub async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, CriError> {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let message = v1::ImageStatusRequest { image: Some(spec), verbose: false };
        Ok(call!(self.image().image_status, message, limits::CRI_CALL_TIMEOUT)?.image)
    }

    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let message = v1::PullImageRequest { image: Some(spec), auth, sandbox_config };
        Ok(call!(self.image().pull_image, message, limits::IMAGE_PULL_TIMEOUT)?.image_ref)
    }

    pub async fn remove_image(&self, image: &str) -> Result<(), CriError> {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let message = v1::RemoveImageRequest { image: Some(spec) };
        gone_is_done(call!(self.image().remove_image, message, limits::CRI_CALL_TIMEOUT).map(drop))
    }

    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, CriError> {
        call!(self.image().image_fs_info, v1::ImageFsInfoRequest {}, limits::CRI_CALL_TIMEOUT)
    }
}

fn gone_is_done(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
