//! Decides what to do about a pod: values in, plan out.
//!
//! The rules are upstream's. Init containers run one after another; sidecars
//! (restartable init containers) stay and let the next one start once they
//! have started; regular containers follow when all init work is done. A
//! sandbox that is gone or broken takes all containers with it.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    backoff::BackOff,
    spec::{self, ContainerKind},
};
use crate::{
    labels,
    observed::{ContainerState, ObservedContainer, ObservedPod},
};

/// What the probes say about one running container; absent probes are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
    pub startup: Option<bool>,
}

/// Everything a decision may depend on.
pub struct ActionInput<'a> {
    pub pod: &'a Pod,
    pub observed: &'a ObservedPod,
    /// By container id.
    pub probes: &'a HashMap<String, ProbeResults>,
    pub backoff: &'a BackOff,
    pub now: Timestamp,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    DefinitionChanged,
    LivenessProbe,
    StartupProbe,
    Unknown,
}

/// A container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub reason: KillReason,
    pub message: String,
}

/// A container to start, with the number of starts before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub kind: ContainerKind,
    pub name: String,
    pub restart_count: u32,
    /// End of the previous instance, for the back-off.
    pub previous_end: Option<Timestamp>,
}

/// A container that must wait before it is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub name: String,
    pub left: Duration,
    pub whole: Duration,
}

/// The plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Stop all containers and the sandbox.
    pub kill_pod: bool,
    pub create_sandbox: bool,
    /// Number of the sandbox to create.
    pub sandbox_attempt: u32,
    /// The sandbox to use when none is created.
    pub sandbox_id: Option<String>,
    pub kill: Vec<Kill>,
    pub start: Vec<Start>,
    pub waiting: Vec<Waiting>,
}

/// Decides for one pod that should run.
pub fn compute_pod_actions(input: &ActionInput<'_>) -> Actions {
    let mut actions = Actions::default();
    let (changed, attempt) = sandbox_changed(input.pod, input.observed);
    if changed {
        new_sandbox(input, attempt, &mut actions);
        return actions;
    }
    let Some(sandbox) = input.observed.sandbox() else { return actions };
    actions.sandbox_id = Some(sandbox.id.clone());
    for container in spec::ephemeral_containers(input.pod) {
        if input.observed.container(&container.name).is_none() {
            actions.start.push(Start {
                kind: ContainerKind::Ephemeral,
                name: container.name.clone(),
                restart_count: 0,
                previous_end: None,
            });
        }
    }
    match init_actions(input, &sandbox.id, &mut actions) {
        Initialization::Failed => {
            actions.kill_pod = true;
            actions.start.clear();
        }
        Initialization::Pending => {}
        Initialization::Done => regular_actions(input, &mut actions),
    }
    actions
}

/// Whether a new sandbox is needed, and its number.
fn sandbox_changed(pod: &Pod, observed: &ObservedPod) -> (bool, u32) {
    let Some(latest) = observed.sandbox() else { return (true, 0) };
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let no_address = !latest.host_network && latest.ips.is_empty();
    let changed = ready > 1 || !latest.ready || latest.host_network != spec::is_host_network(pod) || no_address;
    (changed, latest.attempt + u32::from(changed))
}

fn new_sandbox(input: &ActionInput<'_>, attempt: u32, actions: &mut Actions) {
    let pod = input.pod;
    actions.kill_pod = !input.observed.sandboxes.is_empty();
    // A pod whose containers ended and must not be restarted needs no new sandbox.
    let wanted: Vec<&Container> = spec::containers(pod)
        .iter()
        .filter(|container| should_restart(pod, container, input.observed.container(&container.name)))
        .collect();
    if wanted.is_empty() {
        actions.kill_pod = true;
        return;
    }
    actions.create_sandbox = true;
    actions.sandbox_attempt = attempt;
    // Init containers run again in a new sandbox, so only the first can start now.
    if let Some(first) = spec::init_containers(pod).first() {
        request_start(input, ContainerKind::Init, first, actions);
        return;
    }
    for container in wanted {
        request_start(input, ContainerKind::Regular, container, actions);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Initialization {
    Pending,
    Done,
    /// An init container failed and may not be restarted.
    Failed,
}

fn init_actions(input: &ActionInput<'_>, sandbox_id: &str, actions: &mut Actions) -> Initialization {
    let pod = input.pod;
    // Once a regular container was created in this sandbox, finished init containers never run again.
    let initialized = spec::containers(pod)
        .iter()
        .any(|container| input.observed.container_in(&container.name, sandbox_id).is_some());
    let mut gate_open = true;
    for container in spec::init_containers(pod) {
        let status = input.observed.container_in(&container.name, sandbox_id);
        let done = if spec::is_restartable_init(container) {
            sidecar_actions(input, container, status, initialized || gate_open, actions)
        } else if initialized {
            true
        } else {
            match plain_init_actions(input, container, status, gate_open, actions) {
                Initialization::Done => true,
                Initialization::Pending => false,
                Initialization::Failed => return Initialization::Failed,
            }
        };
        gate_open &= done;
    }
    if initialized || gate_open { Initialization::Done } else { Initialization::Pending }
}

fn plain_init_actions(
    input: &ActionInput<'_>,
    container: &Container,
    status: Option<&ObservedContainer>,
    gate_open: bool,
    actions: &mut Actions,
) -> Initialization {
    match status {
        None if gate_open => request_start(input, ContainerKind::Init, container, actions),
        None => {}
        Some(status) => match status.state {
            ContainerState::Exited if status.exit_code == 0 => return Initialization::Done,
            ContainerState::Exited if !may_restart_init(input.pod, container, status) => return Initialization::Failed,
            ContainerState::Exited | ContainerState::Created if gate_open => {
                request_start(input, ContainerKind::Init, container, actions);
            }
            ContainerState::Unknown => {
                kill(status, KillReason::Unknown, "state is unknown", actions);
                request_start(input, ContainerKind::Init, container, actions);
            }
            _ => {}
        },
    }
    Initialization::Pending
}

/// Returns whether the sidecar has started, so that what follows it may start.
fn sidecar_actions(
    input: &ActionInput<'_>,
    container: &Container,
    status: Option<&ObservedContainer>,
    may_start: bool,
    actions: &mut Actions,
) -> bool {
    let Some(status) = status else {
        if may_start {
            request_start(input, ContainerKind::Init, container, actions);
        }
        return false;
    };
    if !status.is_running() {
        if status.state == ContainerState::Unknown {
            kill(status, KillReason::Unknown, "state is unknown", actions);
        }
        request_start(input, ContainerKind::Init, container, actions);
        return false;
    }
    if kill_if_unfit(input, container, status, actions) {
        request_start(input, ContainerKind::Init, container, actions);
        return false;
    }
    let probes = input.probes.get(&status.id).copied().unwrap_or_default();
    container.startup_probe.is_none() || probes.startup == Some(true)
}

fn regular_actions(input: &ActionInput<'_>, actions: &mut Actions) {
    let mut keep = 0;
    let mut wanted = 0;
    for container in spec::containers(input.pod) {
        let status = input.observed.container(&container.name);
        match status.filter(|status| status.is_running()) {
            None => {
                if should_restart(input.pod, container, status) {
                    wanted += 1;
                    if let Some(status) = status.filter(|status| status.state == ContainerState::Unknown) {
                        kill(status, KillReason::Unknown, "state is unknown", actions);
                    }
                    request_start(input, ContainerKind::Regular, container, actions);
                }
            }
            Some(running) => {
                if !kill_if_unfit(input, container, running, actions) {
                    keep += 1;
                } else if policy(input.pod, container) != "Never" || changed(container, running) {
                    wanted += 1;
                    request_start(input, ContainerKind::Regular, container, actions);
                }
            }
        }
    }
    if keep == 0 && wanted == 0 {
        actions.kill_pod = true;
        actions.start.clear();
        actions.waiting.clear();
    }
}

/// Plans the end of a running container that changed or fails its probes.
fn kill_if_unfit(
    input: &ActionInput<'_>,
    container: &Container,
    running: &ObservedContainer,
    actions: &mut Actions,
) -> bool {
    let probes = input.probes.get(&running.id).copied().unwrap_or_default();
    let (reason, why) = if changed(container, running) {
        (KillReason::DefinitionChanged, "definition changed")
    } else if probes.liveness == Some(false) {
        (KillReason::LivenessProbe, "failed liveness probe")
    } else if probes.startup == Some(false) {
        (KillReason::StartupProbe, "failed startup probe")
    } else {
        return false;
    };
    kill(running, reason, why, actions);
    true
}

fn changed(container: &Container, running: &ObservedContainer) -> bool {
    running.annotations.get(labels::CONTAINER_HASH).is_some_and(|hash| *hash != spec::container_hash(container))
}

fn kill(status: &ObservedContainer, reason: KillReason, why: &str, actions: &mut Actions) {
    let message = match reason {
        KillReason::DefinitionChanged | KillReason::LivenessProbe | KillReason::StartupProbe => {
            format!("Container {} {why}, will be restarted", status.name)
        }
        KillReason::Unknown => format!("Container {} {why}", status.name),
    };
    actions.kill.push(Kill { id: status.id.clone(), name: status.name.clone(), reason, message });
}

/// Starts a container now, or notes how long it still has to wait.
fn request_start(input: &ActionInput<'_>, kind: ContainerKind, container: &Container, actions: &mut Actions) {
    let previous = input.observed.container(&container.name);
    let previous_end = previous.filter(|status| status.state == ContainerState::Exited).map(end_of);
    let key = spec::backoff_key(input.pod, container);
    if let Some(end) = previous_end
        && let Some((left, whole)) = input.backoff.remaining(&key, end, input.now)
    {
        actions.waiting.push(Waiting { name: container.name.clone(), left, whole });
        return;
    }
    let restart_count = previous.map_or(0, |status| status.restart_count + 1);
    actions.start.push(Start { kind, name: container.name.clone(), restart_count, previous_end });
}

fn end_of(status: &ObservedContainer) -> Timestamp {
    status.finished_at.or(status.started_at).unwrap_or(status.created_at)
}

/// The restart policy that holds for a container: its own, else the pod's.
pub fn policy<'a>(pod: &'a Pod, container: &'a Container) -> &'a str {
    container.restart_policy.as_deref().unwrap_or_else(|| spec::restart_policy(pod))
}

/// Whether a regular container that does not run should be started.
pub fn should_restart(pod: &Pod, container: &Container, status: Option<&ObservedContainer>) -> bool {
    if spec::is_deleting(pod) {
        return false;
    }
    let Some(status) = status else { return true };
    match status.state {
        ContainerState::Running => false,
        ContainerState::Unknown | ContainerState::Created => true,
        ContainerState::Exited => {
            restart_rule(container, status.exit_code).unwrap_or_else(|| match policy(pod, container) {
                "Never" => false,
                "OnFailure" => status.exit_code != 0,
                _ => true,
            })
        }
    }
}

/// A failed init container is tried again unless its policy says never.
fn may_restart_init(pod: &Pod, container: &Container, status: &ObservedContainer) -> bool {
    restart_rule(container, status.exit_code).unwrap_or_else(|| policy(pod, container) != "Never")
}

/// What the container's own rules say about this exit code, if any of them matches.
fn restart_rule(container: &Container, exit_code: i32) -> Option<bool> {
    container.restart_policy_rules.iter().flatten().find_map(|rule| {
        let codes = rule.exit_codes.as_ref()?;
        let listed = codes.values.iter().flatten().any(|value| *value == exit_code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        matches.then_some(rule.action == "Restart" || rule.action == "RestartAllContainers")
    })
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
