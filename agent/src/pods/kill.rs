//! Stops containers and sandboxes.
//!
//! Hooks run inside the grace period. Regular containers stop together; then
//! sidecars, in the reverse of the order in which they started, share what is
//! left of the time.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use skiff_client::EventType;
use tokio::time::Instant;

use super::{spec, worker::PodWorker};
use crate::{events, lifecycle, observed::ObservedPod, probes::CheckTarget};

/// Even an impatient end leaves this much time, so that SIGTERM is seen at all.
const GRACE_SECONDS_MIN: i64 = 2;

impl PodWorker {
    /// Stops one container, its hook first.
    pub(super) async fn kill_container(
        &self,
        pod: &Pod,
        id: &str,
        name: &str,
        grace_seconds: i64,
        message: &str,
    ) -> Result<(), ()> {
        let began = Instant::now();
        let message = if message.is_empty() { format!("Stopping container {name}") } else { message.to_owned() };
        self.context.recorder.record(events::container(pod, name, EventType::Normal, "Killing", message));
        self.pre_stop(pod, id, name, grace_seconds).await;
        let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
        let left = grace_seconds.saturating_sub(spent).max(GRACE_SECONDS_MIN);
        self.context.cri.stop_container(id, left).await.map_err(|error| {
            tracing::warn!(component = "pod", pod = spec::full_name(pod), container = name, %error, "stop container");
        })
    }

    async fn pre_stop(&self, pod: &Pod, id: &str, name: &str, grace_seconds: i64) {
        let Some((_, container)) = spec::find_container(pod, name) else { return };
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else { return };
        let Ok(seconds) = u64::try_from(grace_seconds) else { return };
        if seconds == 0 {
            return;
        }
        let observed = self.context.pleg.get(&self.uid);
        let facts = observed.map(|observed| self.context.facts(pod, &observed));
        let ip = facts.and_then(|facts| facts.pod_ips.first().copied());
        let target = CheckTarget { container_id: id.to_owned(), container: container.clone(), ip };
        if let Err(why) = lifecycle::run(&self.context.cri, hook, &target, Duration::from_secs(seconds)).await {
            let message = format!("PreStopHook failed: {why}");
            let event = events::container(pod, name, EventType::Warning, "FailedPreStopHook", message);
            self.context.recorder.record(event);
        }
    }

    /// Stops everything of a pod that runs. Safe to repeat.
    pub(super) async fn kill_pod(&self, pod: &Arc<Pod>, observed: &ObservedPod, grace_seconds: i64) -> Result<(), ()> {
        let began = Instant::now();
        let sidecars: Vec<&str> = spec::init_containers(pod)
            .iter()
            .filter(|container| spec::is_restartable_init(container))
            .map(|container| container.name.as_str())
            .collect();
        let live: Vec<_> = observed.containers.iter().filter(|container| container.is_live()).collect();
        let (late, first): (Vec<_>, Vec<_>) =
            live.into_iter().partition(|container| sidecars.contains(&container.name.as_str()));
        let stops =
            first.iter().map(|container| self.kill_container(pod, &container.id, &container.name, grace_seconds, ""));
        let mut failed = join_all(stops).await.iter().any(Result::is_err);
        for name in sidecars.iter().rev() {
            for container in late.iter().filter(|container| container.name == **name) {
                let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
                let left = grace_seconds.saturating_sub(spent).max(0);
                failed |= self.kill_container(pod, &container.id, name, left, "").await.is_err();
            }
        }
        for sandbox in observed.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            if let Err(error) = self.context.cri.stop_pod_sandbox(&sandbox.id).await {
                self.warn(pod, "FailedKillPod", format!("error killing pod: {}", error.message()));
                failed = true;
            }
        }
        if failed { Err(()) } else { Ok(()) }
    }
}
