//! What the kubelet's HTTPS server asks about pods, answered from the workers and the runtime.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    cadvisor,
    context::Context,
    cri::{CriError, v1},
    limits,
    metrics::{self, NodeUsage},
    observed::{ObservedContainer, ObservedPod},
    pods::{PodSet, spec},
    server::{
        BackendError, Container, LogSource, Sandbox, StreamingBackend,
        backend::{PodRef, StreamSet},
    },
    stats::{self, Rate, Sample, VolumeTable},
    volumes::usage::{self, VolumeUsage},
};

/// The node's pods for the server.
pub struct NodeBackend {
    context: Arc<Context>,
    pods: Arc<PodSet>,
    rate: Rate,
    /// What volumes held when somebody asked last.
    volumes: Mutex<Option<(Instant, Arc<VolumeTable>)>>,
}

fn internal(error: CriError) -> BackendError {
    BackendError::Internal(error.message())
}

impl NodeBackend {
    pub(crate) fn new(context: Arc<Context>, pods: Arc<PodSet>) -> NodeBackend {
        NodeBackend { context, pods, rate: Rate::default(), volumes: Mutex::default() }
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

    /// What is used now.
    async fn sample(&self) -> Result<Sample, BackendError> {
        let cri = &self.context.cri;
        let (containers, sandboxes, image_fs) =
            tokio::join!(cri.list_container_stats(), cri.list_pod_sandbox_stats(), cri.image_fs_info());
        // Runtimes need not tell of sandboxes and images.
        let image_fs = image_fs.ok().and_then(|info| info.image_filesystems.into_iter().next());
        let pods: Vec<Arc<Pod>> = self.pods.pods().into_iter().map(|pod| self.with_status(pod)).collect();
        let observed = self.context.pleg.pods();
        let (node_name, cgroups) = (self.context.config.node_name.clone(), self.context.cgroups.clone());
        let data_dir = self.context.config.data_dir.clone();
        let mut sample = Sample {
            node_name,
            now: Timestamp::now(),
            containers: containers.map_err(internal)?,
            sandboxes: sandboxes.unwrap_or_default(),
            pods,
            ..Sample::default()
        };
        let sample = tokio::task::spawn_blocking(move || {
            sample.machine = skiff_host::process::machine_info();
            sample.node = NodeUsage::read();
            sample.started = stats::boot_time();
            sample.interfaces = stats::interfaces();
            sample.node_fs = skiff_host::fs::usage(&data_dir).ok();
            sample.image_fs = image_fs.and_then(|fs| {
                let usage = skiff_host::fs::usage(Path::new(&fs.fs_id?.mountpoint)).ok()?;
                Some((usage, fs.used_bytes.map_or(0, |used| used.value)))
            });
            for (pod, container) in observed.iter().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one))) {
                if let Some(started) = container.started_at {
                    sample.starts.insert(container.id.clone(), started);
                }
                if let Some(folder) = Path::new(&container.log_path).parent() {
                    let key = (pod.uid.clone(), container.name.clone());
                    sample.logs.entry(key).or_insert_with(|| stats::bytes_in(folder));
                }
            }
            for pod in &sample.pods {
                let of_pod = observed.iter().filter(|have| have.uid == spec::uid(pod));
                for container in of_pod.flat_map(|have| &have.containers).filter(|container| container.is_running()) {
                    if let Some(throttling) = cgroups.throttling(pod, &container.id) {
                        sample.throttling.insert(container.id.clone(), throttling);
                    }
                }
            }
            sample
        });
        let mut sample = sample.await.map_err(|error| BackendError::Internal(error.to_string()))?;
        sample.node_nano_cores = self.rate.nano_cores(sample.now, sample.node.cpu_seconds);
        Ok(sample)
    }

    /// What volumes hold, measured not long ago: a walk through them is dear.
    async fn volumes(&self) -> Arc<VolumeTable> {
        // Held meanwhile, so that those who ask at the same time share one walk.
        let mut known = self.volumes.lock().await;
        if let Some((at, table)) = known.as_ref()
            && at.elapsed() < limits::VOLUME_USAGE_AGE
        {
            return Arc::clone(table);
        }
        let (context, pods) = (Arc::clone(&self.context), self.pods.pods());
        let walk = tokio::task::spawn_blocking(move || {
            let mut entries_max = limits::VOLUME_ENTRIES_MAX;
            let mut measured = |pod: &Arc<Pod>| -> Vec<VolumeUsage> {
                let places = context.volumes.places(pod).into_iter();
                places.filter_map(|place| usage::measure(place, &mut entries_max)).collect()
            };
            pods.iter().map(|pod| (spec::uid(pod).to_owned(), measured(pod))).collect::<VolumeTable>()
        });
        let table = Arc::new(walk.await.unwrap_or_default());
        *known = Some((Instant::now(), Arc::clone(&table)));
        table
    }

    /// What the claims of pods hold: pods and their claims.
    async fn claims(&self) -> Vec<(Arc<Pod>, VolumeUsage)> {
        let (context, pods) = (Arc::clone(&self.context), self.pods.pods());
        let look = tokio::task::spawn_blocking(move || {
            let claims = pods.iter().flat_map(|pod| {
                let places = context.volumes.places(pod).into_iter().filter(|place| place.claim.is_some());
                places.filter_map(|place| Some((Arc::clone(pod), usage::measure(place, &mut 0)?))).collect::<Vec<_>>()
            });
            claims.collect()
        });
        look.await.unwrap_or_default()
    }

    fn with_status(&self, pod: Arc<Pod>) -> Arc<Pod> {
        match self.context.status.latest(spec::uid(&pod)) {
            Some(status) => Arc::new(Pod { status: Some((*status).clone()), ..(*pod).clone() }),
            None => pod,
        }
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
        let items: Vec<Arc<Pod>> = self.pods.pods().into_iter().map(|pod| self.with_status(pod)).collect();
        let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        serde_json::to_vec(&list).map_err(|error| BackendError::Internal(error.to_string()))
    }

    async fn metrics(&self, path: &str) -> Option<Vec<u8>> {
        match path {
            "" | "/" | "/metrics" => {
                let claims = self.claims().await;
                Some(metrics::kubelet(&self.context.pleg.pods(), &claims).into_bytes())
            }
            "/metrics/resource" => {
                let stats = self.context.cri.list_container_stats().await;
                if let Err(error) = &stats {
                    tracing::warn!(component = "metrics", %error, "read use of containers");
                }
                let pods = self.context.pleg.pods();
                Some(metrics::resource(stats.as_deref().ok(), &pods, &NodeUsage::read()).into_bytes())
            }
            "/metrics/cadvisor" => match self.sample().await {
                Ok(sample) => {
                    let observed = self.context.pleg.pods();
                    let containers = observed.iter().flat_map(|pod| &pod.containers);
                    let images = containers.map(|container| (container.id.clone(), container.image.clone())).collect();
                    Some(cadvisor::metrics(&sample, &|pod| self.context.cgroups.path(pod), &images).into_bytes())
                }
                Err(error) => {
                    tracing::warn!(component = "metrics", %error, "read use of containers");
                    Some(cadvisor::failed().into_bytes())
                }
            },
            _ => None,
        }
    }

    async fn stats(&self, only_cpu_and_memory: bool) -> Result<Vec<u8>, BackendError> {
        let mut sample = self.sample().await?;
        if !only_cpu_and_memory {
            sample.volumes = self.volumes().await;
        }
        serde_json::to_vec(&stats::summary(&sample, only_cpu_and_memory))
            .map_err(|error| BackendError::Internal(error.to_string()))
    }
}
