//! Brings a pod that should run to that state, one round at a time.

use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_client::EventType;

use super::{
    actions::{ActionInput, Actions, KillReason, Start, compute_pod_actions},
    admission::{LABELS_DO_NOT_MATCH, Rejection},
    resize, spec,
    worker::{PodWorker, Round},
};
use crate::{
    container_config::{hosts, sandbox},
    cri::v1,
    events,
    observed::ObservedPod,
    status::{Override, WaitReason},
    volumes::{self, Volumes},
};

impl PodWorker {
    /// One round for a pod that should run.
    pub(super) async fn sync(&mut self, wanted: &Arc<Pod>) -> Round {
        let pod = wanted;
        let context = Arc::clone(&self.context);
        let observed = match self.observe(pod).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "look at pod");
                return Round::Retry(None);
            }
        };
        if !self.admit(pod, &observed).await {
            self.ended = true;
            self.publish(pod, &observed);
            return Round::Wait(Some(Duration::ZERO));
        }
        let granted = self.grant(wanted);
        let pod = &granted;
        let now = Timestamp::now();
        let deadline = spec::active_deadline(pod);
        if deadline.is_some_and(|deadline| deadline <= now) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            context.recorder.record(events::pod(pod, EventType::Normal, "DeadlineExceeded", message.clone()));
            self.verdict = Some(Override { reason: "DeadlineExceeded".to_owned(), message, disruption: false });
            self.ended = true;
            return Round::Wait(Some(Duration::ZERO));
        }
        context.prober.sync(pod, &observed);
        self.read_messages(&observed);
        self.publish(wanted, &observed);

        let slot = context.sync_slots.acquire().await;
        let prepared = self.prepare(pod, &observed).await;
        drop(slot);
        let volumes = match prepared {
            Ok(volumes) => volumes,
            Err(()) => return Round::Retry(None),
        };
        let probes = context.prober.results(&observed);
        let mut actions = compute_pod_actions(&ActionInput {
            pod,
            observed: &observed,
            probes: &probes,
            backoff: &self.backoff,
            now: Timestamp::now(),
        });
        if !actions.kill_pod {
            self.apply_resources(pod, &observed, &mut actions).await;
        }
        let outcome = self.execute(pod, &observed, &actions, &volumes).await;
        let after = match self.observe(pod).await {
            Ok(after) => after,
            Err(error) => {
                tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "look at pod");
                return Round::Retry(None);
            }
        };
        context.prober.sync(pod, &after);
        self.read_messages(&after);
        self.publish(wanted, &after);
        self.remove_dead(pod, &after).await;
        if outcome.is_ok() && actions.kill_pod && !actions.create_sandbox {
            // Nothing is to be started again: the pod has run its course.
            self.ended = true;
            return Round::Wait(Some(Duration::ZERO));
        }
        let until = |at: Option<Timestamp>| {
            at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default())
        };
        let next = [
            actions.waiting.iter().map(|waiting| waiting.left).min(),
            until(volumes.refresh_at),
            until(deadline),
            context.puller.next_try(pod),
        ];
        let mut next = next.into_iter().flatten().min().map(|wait| wait + Duration::from_millis(5));
        // What ended in this round, by itself or by us, is answered in the next; nobody else tells of it.
        if outcome.is_ok() && after.has_ended_since(&observed) {
            next = Some(Duration::ZERO);
        }
        if outcome.is_err() { Round::Retry(next) } else { Round::Wait(next) }
    }

    /// Asks once whether the node takes the pod. What already runs was taken before.
    async fn admit(&mut self, pod: &Arc<Pod>, observed: &ObservedPod) -> bool {
        if self.admitted {
            return true;
        }
        let adopted = !observed.sandboxes.is_empty();
        if adopted {
            self.context.set_admitted(&self.uid, Some(Arc::clone(pod)));
        } else if let Err(rejection) = self.try_admit(pod).await {
            let message = format!("Pod was rejected: {}", rejection.message);
            self.warn(pod, &rejection.reason, rejection.message);
            self.verdict = Some(Override { reason: rejection.reason, message, disruption: false });
            return false;
        }
        self.allocated = resize::initial(pod, adopted);
        self.admitted = true;
        true
    }

    /// A refusal is final, so it is never given by labels that may be old: the node is read anew first.
    async fn try_admit(&self, pod: &Arc<Pod>) -> Result<(), Rejection> {
        match self.context.try_admit(&self.uid, pod) {
            Err(rejection) if rejection.reason == LABELS_DO_NOT_MATCH => {
                self.context.read_labels().await;
                self.context.try_admit(&self.uid, pod)
            }
            verdict => verdict,
        }
    }

    /// Directories, control group and volumes. What fails is told as an event and tried again.
    async fn prepare(&mut self, pod: &Arc<Pod>, observed: &ObservedPod) -> Result<Volumes, ()> {
        let context = Arc::clone(&self.context);
        if !context.is_network_ready() && !spec::is_host_network(pod) && observed.ready_sandbox().is_none() {
            let message = "network is not ready: container runtime network not ready: NetworkReady=false";
            self.tell_once(pod, "NetworkNotReady", message);
            return Err(());
        }
        if let Some(message) = unsupported(pod) {
            self.warn(pod, "FailedCreatePodSandBox", message.to_owned());
            return Err(());
        }
        let directory = context.volumes.pod_dir(&self.uid);
        let logs = sandbox::log_directory(&context.config.pod_log_dir(), pod);
        for path in [&directory, &logs] {
            if let Err(error) = std::fs::create_dir_all(path) {
                self.warn(pod, "FailedCreatePodDirectory", format!("create {}: {error}", path.display()));
                return Err(());
            }
        }
        if let Err(error) = context.cgroups.create(pod, &context.machine) {
            self.warn(pod, "FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"));
            return Err(());
        }
        context.objects.refer(&self.uid, &volumes::references(pod));
        match context.volumes.mount_all(pod, &context.facts(pod, observed)).await {
            Ok(volumes) => Ok(volumes),
            Err(error) => {
                self.warn(pod, "FailedMount", error.to_string());
                Err(())
            }
        }
    }

    pub(super) fn warn(&self, pod: &Pod, reason: &str, message: String) {
        tracing::warn!(component = "pod", pod = spec::full_name(pod), reason, message);
        self.context.recorder.record(events::pod(pod, EventType::Warning, reason, message));
    }

    fn tell_once(&mut self, pod: &Pod, reason: &str, message: &str) {
        if self.told.insert(reason.to_owned()) {
            self.warn(pod, reason, message.to_owned());
        }
    }

    async fn execute(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Arc<ObservedPod>,
        actions: &Actions,
        volumes: &Volumes,
    ) -> Result<(), ()> {
        if actions.kill_pod {
            if actions.create_sandbox && !observed.containers.is_empty() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.context.recorder.record(events::pod(pod, EventType::Normal, "SandboxChanged", message));
            }
            self.kill_pod(pod, observed, spec::grace_period_seconds(pod)).await?;
        }
        for kill in &actions.kill {
            let grace = self.restart_grace(pod, &kill.name, kill.reason);
            self.kill_container(pod, &kill.id, &kill.name, grace, &kill.message).await?;
        }
        for waiting in &actions.waiting {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(waiting.whole.as_secs()),
                waiting.name,
                spec::full_name(pod)
            );
            let shown =
                format!("Back-off restarting failed container {} in pod {}", waiting.name, spec::full_name(pod));
            let reason = WaitReason { reason: "CrashLoopBackOff".to_owned(), message };
            if self.waiting.insert(waiting.name.clone(), reason.clone()) != Some(reason) {
                let event = events::container(pod, &waiting.name, EventType::Warning, "BackOff", shown);
                self.context.recorder.record(event);
            }
        }
        if actions.start.is_empty() && !actions.create_sandbox {
            return Ok(());
        }
        let attempt = match actions.create_sandbox {
            true => actions.sandbox_attempt,
            false => observed.sandbox().map(|sandbox| sandbox.attempt).unwrap_or_default(),
        };
        let config = self.sandbox_config(pod, attempt);
        let sandbox_id = match (&actions.sandbox_id, actions.create_sandbox) {
            (Some(id), false) => id.clone(),
            _ => self.create_sandbox(pod, config.clone()).await?,
        };
        let observed = self.observe(pod).await.map_err(|error| {
            tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "look at pod");
        })?;
        if actions.create_sandbox {
            self.publish(pod, &observed);
        }
        self.write_hosts(pod, &observed);
        // Addresses of the pod are known now, for files of the downward API as well.
        let mut failed = false;
        // A container that was just stopped starts in the next round, where its end counts for the back-off.
        let stopped = |start: &&Start| actions.kill.iter().any(|kill| kill.name == start.name);
        for start in actions.start.iter().filter(|start| !stopped(start)) {
            failed |= self.start_container(pod, &observed, start, &sandbox_id, &config, volumes).await.is_err();
        }
        if failed { Err(()) } else { Ok(()) }
    }

    pub(super) fn sandbox_config(&self, pod: &Pod, attempt: u32) -> v1::PodSandboxConfig {
        let parent = self.context.cgroups.path(pod);
        let logs = self.context.config.pod_log_dir();
        sandbox::sandbox_config(pod, attempt, &parent, &logs, &self.context.dns, None)
    }

    async fn create_sandbox(&mut self, pod: &Arc<Pod>, config: v1::PodSandboxConfig) -> Result<String, ()> {
        let handler = self.runtime_handler(pod).await.map_err(|message| {
            self.warn(pod, "FailedCreatePodSandBox", message);
        })?;
        match self.context.cri.run_pod_sandbox(config, &handler).await {
            Ok(id) => Ok(id),
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {}", error.message());
                self.warn(pod, "FailedCreatePodSandBox", message);
                Err(())
            }
        }
    }

    /// The runtime's name for the pod's class.
    async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let Some(name) = spec::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(String::new());
        };
        let classes = skiff_api::GroupVersionResource::new("node.k8s.io", "v1", "runtimeclasses");
        let class = self.context.config.client.get(&classes, None, name).await;
        let class = class.map_err(|error| format!("failed to get RuntimeClass {name}: {error}"))?;
        let value = class.value().map_err(|error| error.to_string())?;
        Ok(value["handler"].as_str().unwrap_or_default().to_owned())
    }

    fn write_hosts(&self, pod: &Pod, observed: &ObservedPod) {
        let text = if spec::is_host_network(pod) {
            hosts::host_network(pod, &std::fs::read_to_string("/etc/hosts").unwrap_or_default())
        } else {
            let ips = observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
            hosts::managed(pod, &ips, &self.context.config.cluster_domain)
        };
        let path = self.context.volumes.pod_dir(&self.uid).join("etc-hosts");
        // Every user of the container reads it, whatever our umask is.
        let readable = || std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644));
        if let Err(error) = std::fs::write(&path, text).and_then(|()| readable()) {
            tracing::warn!(component = "pod", path = %path.display(), %error, "write hosts file");
        }
    }

    /// A probe may bring its own grace period for the restart that it causes.
    fn restart_grace(&self, pod: &Pod, name: &str, reason: KillReason) -> i64 {
        let container = spec::find_container(pod, name).map(|(_, container)| container).unwrap_or_default();
        let probe = match reason {
            KillReason::LivenessProbe => container.liveness_probe,
            KillReason::StartupProbe => container.startup_probe,
            _ => None,
        };
        let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
        own.unwrap_or_else(|| spec::grace_period_seconds(pod))
    }

    /// Removes dead containers beyond the few that `kubectl logs --previous` needs, and sandboxes without any.
    pub(super) async fn remove_dead(&self, pod: &Pod, observed: &ObservedPod) {
        let kept = crate::limits::DEAD_CONTAINERS_KEPT;
        let mut removed: Vec<String> = Vec::new();
        for (_, container) in spec::all_containers(pod) {
            let mut instances = observed.containers_named(&container.name);
            // The newest one is shown, dead or alive; the dead ones behind it are history.
            instances.next();
            for old in instances.filter(|old| !old.is_live()).skip(kept) {
                match self.context.cri.remove_container(&old.id).await {
                    Ok(()) => {
                        removed.push(old.id.clone());
                        remove_log(&old.log_path);
                    }
                    Err(error) => {
                        tracing::warn!(component = "pod", container = old.id, %error, "remove dead container")
                    }
                }
            }
        }
        for sandbox in observed.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready) {
            let used = observed.containers.iter().any(|c| c.sandbox_id == sandbox.id && !removed.contains(&c.id));
            if !used && let Err(error) = self.context.cri.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(component = "pod", sandbox = sandbox.id, %error, "remove dead sandbox");
            }
        }
    }
}

/// What this node cannot do must stop a pod rather than be left out silently.
fn unsupported(pod: &Pod) -> Option<&'static str> {
    let pod_spec = spec::spec(pod);
    if pod_spec.host_users == Some(false) {
        return Some("user namespaces (hostUsers: false) are not supported on this node");
    }
    if pod_spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("dynamic resource allocation (resourceClaims) is not supported on this node");
    }
    let has_devices = |container: &Container| container.volume_devices.as_ref().is_some_and(|list| !list.is_empty());
    let all = spec::all_containers(pod);
    let any = all.iter().any(|(_, container)| has_devices(container));
    any.then_some("block volumes (volumeDevices) are not supported on this node")
}

/// Seconds in the notation that users know from upstream: `10s`, `2m40s`.
fn go_duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// Removes a log with its rotated parts.
fn remove_log(path: &str) {
    let path = std::path::Path::new(path);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
    let name = name.to_string_lossy();
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&*name) {
            // A log that cannot be removed goes with the pod's directory.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
