//! Builds the status of a pod from its specification, what the runtime has,
//! what the probes say and what the pod worker knows.

use std::{collections::HashMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{conditions, containers};
use crate::{
    observed::ObservedPod,
    pods::{actions::ProbeResults, spec},
};

/// Why a container does not run, as the last attempt to start it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitReason {
    pub reason: String,
    pub message: String,
}

/// The node's verdict on a whole pod (evicted, rejected, deadline exceeded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub reason: String,
    pub message: String,
    /// A `DisruptionTarget` condition goes with evictions.
    pub disruption: bool,
}

/// A resize that is not done, as a condition of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizeCondition {
    /// [`ResizeCondition::PENDING`] or [`ResizeCondition::IN_PROGRESS`].
    pub kind: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl ResizeCondition {
    pub const PENDING: &'static str = "PodResizePending";
    pub const IN_PROGRESS: &'static str = "PodResizeInProgress";
}

/// Everything the status may depend on.
pub struct StatusInput<'a> {
    pub pod: &'a Pod,
    /// What was generated last; fresher than what the API has.
    pub previous: Option<&'a PodStatus>,
    pub observed: &'a ObservedPod,
    /// By container id.
    pub probes: &'a HashMap<String, ProbeResults>,
    /// By container name.
    pub waiting: &'a HashMap<String, WaitReason>,
    /// Termination messages by container id.
    pub messages: &'a HashMap<String, String>,
    pub verdict: Option<&'a Override>,
    pub resize: Option<&'a ResizeCondition>,
    /// All containers have ended and none will be started again.
    pub ended: bool,
    pub host_ips: &'a [IpAddr],
    /// When the agent first saw the pod.
    pub first_seen: Timestamp,
    pub now: Timestamp,
}

impl StatusInput<'_> {
    /// The status before this one.
    pub(super) fn old(&self) -> Option<&PodStatus> {
        self.previous.or(self.pod.status.as_ref())
    }

    fn old_phase(&self) -> &str {
        self.old().and_then(|old| old.phase.as_deref()).unwrap_or_default()
    }

    fn was_terminal(&self) -> bool {
        spec::is_terminal(self.pod) || matches!(self.old_phase(), "Failed" | "Succeeded")
    }
}

/// Generates the whole status. Fields of other writers are not touched by the
/// patch that is made of it.
pub fn generate_pod_status(input: &StatusInput<'_>) -> PodStatus {
    let pod = input.pod;
    let old = input.old().cloned().unwrap_or_default();
    let has_init = !spec::init_containers(pod).is_empty();
    let init = containers::statuses(input, spec::init_containers(pod), &old.init_container_statuses, has_init);
    let regular = containers::statuses(input, spec::containers(pod), &old.container_statuses, has_init);
    let debug: Vec<_> = spec::ephemeral_containers(pod).iter().map(spec::as_container).collect();
    let debug = containers::statuses(input, &debug, &old.ephemeral_container_statuses, false);

    let mut phase = if input.verdict.is_some() { "Failed".to_owned() } else { phase(input, &init, &regular) };
    // An ended pod never comes back, and one with running containers has not ended.
    let running = init.iter().chain(&regular).any(is_running);
    if input.was_terminal() {
        phase = if spec::is_terminal(pod) { spec::phase(pod) } else { input.old_phase() }.to_owned();
    } else if running && matches!(phase.as_str(), "Failed" | "Succeeded") {
        phase = match input.old_phase() {
            "" => "Running".to_owned(),
            before => before.to_owned(),
        };
    }

    let addresses = addresses(input);
    let conditions = conditions::generate(input, &phase, &init, &regular);
    let host_ips: Vec<String> = input.host_ips.iter().map(IpAddr::to_string).collect();
    PodStatus {
        phase: Some(phase),
        reason: input.verdict.map(|verdict| verdict.reason.clone()).or(old.reason.filter(|_| input.was_terminal())),
        message: input.verdict.map(|verdict| verdict.message.clone()).or(old.message.filter(|_| input.was_terminal())),
        start_time: old.start_time.or(Some(Time(input.first_seen))),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: addresses.first().cloned(),
        pod_ips: (!addresses.is_empty()).then(|| addresses.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(spec::qos_class(pod)),
        observed_generation: pod.metadata.generation,
        conditions: Some(conditions),
        init_container_statuses: some_if_any(init),
        container_statuses: some_if_any(regular),
        ephemeral_container_statuses: some_if_any(debug),
        ..PodStatus::default()
    }
}

fn some_if_any<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn addresses(input: &StatusInput<'_>) -> Vec<String> {
    if spec::is_host_network(input.pod) {
        // Only once it has a sandbox: before that nothing of it is on the network.
        return match input.observed.sandboxes.is_empty() {
            true => Vec::new(),
            false => input.host_ips.iter().map(IpAddr::to_string).collect(),
        };
    }
    let Some(sandbox) = input.observed.ready_sandbox() else {
        // Addresses stay visible while the pod ends.
        let old = input.old().and_then(|status| status.pod_ips.clone()).unwrap_or_default();
        return old.into_iter().map(|address| address.ip).collect();
    };
    sandbox.ips.iter().map(IpAddr::to_string).collect()
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// What the containers add up to.
fn phase(input: &StatusInput<'_>, init: &[ContainerStatus], regular: &[ContainerStatus]) -> String {
    let pod = input.pod;
    let policy = spec::restart_policy(pod);
    let mut init_pending = 0;
    let mut init_failed = 0;
    for (container, status) in spec::init_containers(pod).iter().zip(init) {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.clone().unwrap_or_default();
        if spec::is_restartable_init(container) {
            let started = status.started == Some(true) || state.terminated.is_some() || last.terminated.is_some();
            init_pending += i32::from(!started);
        } else if let Some(terminated) = state.terminated {
            init_failed += i32::from(terminated.exit_code != 0);
        } else if let Some(terminated) = last.terminated.filter(|_| state.waiting.is_some()) {
            init_failed += i32::from(terminated.exit_code != 0);
            init_pending += i32::from(terminated.exit_code == 0);
        } else {
            init_pending += 1;
        }
    }

    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in regular {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(terminated) = state.terminated {
            stopped += 1;
            succeeded += i32::from(terminated.exit_code == 0);
        } else if last.terminated.is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }

    let phase = if init_failed > 0 && policy == "Never" {
        "Failed"
    } else if init_failed > 0 || init_pending > 0 && running + stopped == 0 || waiting > 0 {
        if input.ended { "Failed" } else { "Pending" }
    } else if running > 0 {
        "Running"
    } else if stopped > 0 {
        let all_succeeded = stopped == succeeded;
        match (input.ended, policy) {
            (true, _) if all_succeeded => "Succeeded",
            (true, _) => "Failed",
            (false, "Always") => "Running",
            (false, _) if all_succeeded => "Succeeded",
            (false, "Never") => "Failed",
            (false, _) => "Running",
        }
    } else {
        "Pending"
    };
    phase.to_owned()
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
