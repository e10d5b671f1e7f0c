//! Starts one container of a pod.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use skiff_client::EventType;

use super::{
    actions::Start,
    resize::Applied,
    spec::{self, ContainerKind},
    worker::PodWorker,
};
use crate::{
    container_config::{
        container::{ContainerInput, container_config, log_path, termination_path},
        env::{self, EnvObjects},
        resources::container_resources,
        sandbox,
    },
    cri::v1,
    events, lifecycle, limits, log_links,
    objects::{ObjectRef, RefKind},
    observed::{ContainerState, ObservedPod},
    probes::CheckTarget,
    status::WaitReason,
    volumes::Volumes,
};

/// A hook may take as long as a container may live; this only bounds one that hangs for ever.
const POST_START_MAX: Duration = Duration::from_secs(3600);

struct Failure {
    reason: &'static str,
    message: String,
}

impl Failure {
    fn new(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { reason, message: message.into() }
    }
}

impl PodWorker {
    /// Starts a container; a failure becomes the reason why it waits.
    pub(super) async fn start_container(
        &mut self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        start: &Start,
        sandbox_id: &str,
        sandbox_config: &v1::PodSandboxConfig,
        volumes: &Volumes,
    ) -> Result<(), ()> {
        let Some((_, container)) = spec::find_container(pod, &start.name) else { return Ok(()) };
        if let Some(end) = start.previous_end {
            self.backoff.next(&spec::backoff_key(pod, &container), end, Timestamp::now());
        }
        let result = self.try_start(pod, observed, start, &container, sandbox_id, sandbox_config, volumes).await;
        match result {
            Ok(()) => {
                self.waiting.remove(&start.name);
                Ok(())
            }
            Err(failure) => {
                let message = match failure.reason {
                    "ErrImagePull" => format!(
                        "Failed to pull image \"{}\": {}",
                        container.image.as_deref().unwrap_or_default(),
                        failure.message
                    ),
                    _ => failure.message.clone(),
                };
                let (event_type, reason) = match failure.reason {
                    "ImagePullBackOff" => (EventType::Normal, "BackOff"),
                    "PostStartHookError" => (EventType::Warning, "FailedPostStartHook"),
                    _ => (EventType::Warning, "Failed"),
                };
                let text = if reason == "Failed" && failure.reason != "ErrImagePull" {
                    format!("Error: {message}")
                } else {
                    message
                };
                self.context.recorder.record(events::container(pod, &start.name, event_type, reason, text));
                let wait = WaitReason { reason: failure.reason.to_owned(), message: failure.message };
                if self.waiting.get(&start.name).is_none_or(|before| before.reason != wait.reason) {
                    tracing::warn!(
                        component = "pod",
                        pod = spec::full_name(pod),
                        container = start.name,
                        reason = wait.reason,
                        message = wait.message,
                        "container not started"
                    );
                }
                self.waiting.insert(start.name.clone(), wait);
                Err(())
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn try_start(
        &mut self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        start: &Start,
        container: &Container,
        sandbox_id: &str,
        sandbox_config: &v1::PodSandboxConfig,
        volumes: &Volumes,
    ) -> Result<(), Failure> {
        let context = Arc::clone(&self.context);
        let record = |reason: &str, message: String| {
            context.recorder.record(events::container(pod, &container.name, EventType::Normal, reason, message));
        };
        // A container that was made but never started is in the way of the next.
        for half_made in observed.containers_named(&container.name).filter(|c| c.state == ContainerState::Created) {
            context
                .cri
                .remove_container(&half_made.id)
                .await
                .map_err(|e| Failure::new("CreateContainerError", e.message()))?;
        }
        let secrets = self.pull_secrets(pod).await;
        let image_name = container.image.clone().unwrap_or_default();
        let image = context
            .puller
            .ensure(pod, container, &secrets, Some(sandbox_config.clone()), || {
                record("Pulling", format!("Pulling image \"{image_name}\""));
            })
            .await
            .map_err(|error| Failure::new(error.reason, error.message))?;
        // While the configuration is wrong the image is found again and again; once told is enough.
        if self.waiting.get(&container.name).is_none_or(|wait| wait.reason != "CreateContainerConfigError") {
            record("Pulled", image.message.clone());
        }

        self.pull_image_volumes(pod, container, &secrets, sandbox_config).await?;
        let config_error = |message: String| Failure::new("CreateContainerConfigError", message);
        let objects = self.env_objects(pod).await.map_err(config_error)?;
        let facts = context.facts(pod, observed);
        let env = env::environment(pod, container, &objects, &facts).map_err(|error| config_error(error.0))?;
        let mut mounts =
            context.volumes.container_mounts(pod, container, volumes, &env).map_err(|error| config_error(error.0))?;
        self.add_own_mounts(container, &mut mounts).map_err(config_error)?;
        let applied = Applied::from(&container_resources(pod, container, &context.machine));
        let target = self.target(pod, observed, start);
        let config = container_config(ContainerInput {
            pod,
            container,
            restart_count: start.restart_count,
            image_ref: &image.image_ref,
            image_user: &image.user,
            env,
            mounts,
            machine: &context.machine,
            seccomp_root: &context.config.seccomp_dir(),
            target: target.as_deref(),
        })
        .map_err(|error| config_error(error.0))?;
        let logs = sandbox::log_directory(&context.config.pod_log_dir(), pod);
        let log = log_path(&container.name, start.restart_count);
        if let Some(directory) = logs.join(&log).parent() {
            std::fs::create_dir_all(directory)
                .map_err(|error| Failure::new("CreateContainerError", error.to_string()))?;
        }
        let id = context
            .cri
            .create_container(sandbox_id, config, sandbox_config.clone())
            .await
            .map_err(|error| Failure::new("CreateContainerError", error.message()))?;
        self.applied.insert(id.clone(), applied);
        record("Created", format!("Container created: {}", container.name));
        context.cri.start_container(&id).await.map_err(|error| Failure::new("RunContainerError", error.message()))?;
        log_links::link(&context.config.pod_log_dir(), &logs.join(&log), pod, &container.name, &id);
        record("Started", format!("Container started: {}", container.name));
        self.post_start(pod, observed, container, &id).await
    }

    async fn post_start(
        &self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        container: &Container,
        id: &str,
    ) -> Result<(), Failure> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let target = CheckTarget {
            container_id: id.to_owned(),
            container: container.clone(),
            ip: self.context.facts(pod, observed).pod_ips.first().copied(),
        };
        match lifecycle::run(&self.context.cri, hook, &target, POST_START_MAX).await {
            Ok(()) => Ok(()),
            Err(why) => {
                let grace = spec::grace_period_seconds(pod);
                let message = "FailedPostStartHook".to_owned();
                // A failure to stop is told there; the reason of the wait is the hook's either way.
                let _ = self.kill_container(pod, id, &container.name, grace, &message).await;
                Err(Failure::new("PostStartHookError", format!("PostStartHook failed: {why}")))
            }
        }
    }

    async fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Secret>> {
        let mut found = Vec::new();
        for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
            let reference = self.reference(pod, RefKind::Secret, &reference.name);
            match self.context.objects.get::<Secret>(&reference).await {
                Ok(Some(secret)) => found.push(secret),
                Ok(None) => self.warn(
                    pod,
                    "FailedToRetrieveImagePullSecret",
                    format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", reference.name),
                ),
                Err(error) => self.warn(pod, "FailedToRetrieveImagePullSecret", error.to_string()),
            }
        }
        found
    }

    /// Images that the container mounts must be there before the runtime can mount them.
    async fn pull_image_volumes(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Arc<Secret>],
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<(), Failure> {
        for volume in spec::spec(pod).volumes.iter().flatten() {
            let Some(source) = &volume.image else { continue };
            if !container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name) {
                continue;
            }
            let stand_in = Container {
                name: container.name.clone(),
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Container::default()
            };
            let found = self.context.puller.ensure(pod, &stand_in, secrets, Some(sandbox_config.clone()), || {}).await;
            let found = found.map_err(|error| Failure::new(error.reason, error.message))?;
            if let Some(mounter) = &self.context.image_mounter {
                let target = self.context.volumes.image_dir(pod, &volume.name);
                let mounted = mounter.mount(&found.image_ref, &target).await;
                mounted.map_err(|error| Failure::new("CreateContainerError", error))?;
            }
        }
        Ok(())
    }

    fn reference(&self, pod: &Pod, kind: RefKind, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: spec::namespace(pod).to_owned(), name: name.to_owned() }
    }

    async fn env_objects(&self, pod: &Pod) -> Result<EnvObjects, String> {
        let (config_maps, secrets) = env::references(pod);
        let mut objects = EnvObjects::default();
        for name in config_maps {
            let reference = self.reference(pod, RefKind::ConfigMap, &name);
            let found = self.context.objects.get::<ConfigMap>(&reference).await.map_err(|error| error.to_string())?;
            objects.config_maps.extend(found.map(|object| (name, object)));
        }
        for name in secrets {
            let reference = self.reference(pod, RefKind::Secret, &name);
            let found = self.context.objects.get::<Secret>(&reference).await.map_err(|error| error.to_string())?;
            objects.secrets.extend(found.map(|object| (name, object)));
        }
        if !self.is_static
            && tokio::time::timeout(limits::OBJECT_WAIT, self.context.services.wait_synced()).await.is_err()
        {
            return Err("services have not yet been read at least once, cannot construct envvars".to_owned());
        }
        objects.services = self.context.services_for(pod);
        Ok(objects)
    }

    /// `/etc/hosts` and the place for last words, unless the pod mounts something there itself.
    fn add_own_mounts(&self, container: &Container, mounts: &mut Vec<v1::Mount>) -> Result<(), String> {
        let directory = self.context.volumes.pod_dir(&self.uid);
        let hosts: PathBuf = directory.join("etc-hosts");
        let taken = |path: &str, mounts: &[v1::Mount]| {
            mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == path)
        };
        if hosts.exists() && !taken("/etc/hosts", mounts) {
            mounts.push(v1::Mount {
                container_path: "/etc/hosts".to_owned(),
                host_path: hosts.display().to_string(),
                ..Default::default()
            });
        }
        let path = termination_path(container);
        if !taken(path, mounts) {
            let own = directory.join("containers").join(&container.name);
            let file = own.join(format!("{:08x}", rand::random::<u32>()));
            let made = std::fs::create_dir_all(&own).and_then(|()| std::fs::write(&file, "")).and_then(|()| {
                // The container may run as any user.
                std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            });
            made.map_err(|error| format!("create {}: {error}", file.display()))?;
            mounts.push(v1::Mount {
                container_path: path.to_owned(),
                host_path: file.display().to_string(),
                ..Default::default()
            });
        }
        Ok(())
    }

    /// The container whose processes a debug container sees.
    fn target(&self, pod: &Pod, observed: &ObservedPod, start: &Start) -> Option<String> {
        if start.kind != ContainerKind::Ephemeral {
            return None;
        }
        let debug = spec::ephemeral_containers(pod).iter().find(|container| container.name == start.name)?;
        let target = debug.target_container_name.as_deref().filter(|name| !name.is_empty())?;
        observed.container(target).filter(|container| container.is_running()).map(|container| container.id.clone())
    }
}
