//! Container statuses: state, last state, counts and identities.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, ContainerUser, LinuxContainerUser, ResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::StatusInput;
use crate::{
    observed::{ContainerState as Observed, ObservedContainer},
    pods::spec,
};

/// The status of each container of one list, in the order of the specification.
pub(super) fn statuses(
    input: &StatusInput<'_>,
    list: &[Container],
    old: &Option<Vec<ContainerStatus>>,
    has_init: bool,
) -> Vec<ContainerStatus> {
    list.iter()
        .map(|container| {
            let old = old.iter().flatten().find(|status| status.name == container.name);
            status(input, container, old, has_init)
        })
        .collect()
}

fn status(
    input: &StatusInput<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    has_init: bool,
) -> ContainerStatus {
    let mut seen = input.observed.containers_named(&container.name);
    let Some(latest) = seen.next() else { return unseen(input, container, old, has_init) };
    let previous = seen.next();
    let mut state = state_of(input, latest);
    // The object remembers the previous end after the runtime forgot that container.
    let mut last_state = previous.map(|previous| state_of(input, previous)).or_else(|| {
        let old = old?;
        let ended_before = old.state.as_ref().is_some_and(|state| state.terminated.is_some())
            && old.container_id.as_deref() != Some(&container_id(&latest.id));
        if ended_before { old.state.clone() } else { old.last_state.clone() }
    });
    if let (Some(wait), false) = (input.waiting.get(&container.name), latest.is_running()) {
        // The failed attempt belongs to the next instance: this one is already the last.
        last_state = Some(state).filter(|state| state.terminated.is_some()).or(last_state);
        state = waiting(&wait.reason, Some(&wait.message));
    }
    let running = state.running.is_some();
    let probes = input.probes.get(&latest.id).copied().unwrap_or_default();
    let started = running && (container.startup_probe.is_none() || probes.startup == Some(true));
    let ready = if spec::init_containers(input.pod).iter().any(|init| init.name == container.name)
        && !spec::is_restartable_init(container)
    {
        state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0)
    } else {
        let passes = container.readiness_probe.is_none() || probes.readiness == Some(true);
        running && started && passes && !is_debug(input, container)
    };
    ContainerStatus {
        name: container.name.clone(),
        image: if latest.image.is_empty() { container.image.clone().unwrap_or_default() } else { latest.image.clone() },
        image_id: latest.image_ref.clone(),
        container_id: Some(container_id(&latest.id)),
        restart_count: i32::try_from(latest.restart_count).unwrap_or(i32::MAX),
        started: Some(started),
        ready,
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources: container.resources.clone().map(|resources| ResourceRequirements { claims: None, ..resources }),
        user: latest.user.clone().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser { uid, gid, supplemental_groups: Some(groups) }),
        }),
        ..ContainerStatus::default()
    }
}

/// A container that the runtime does not have: not yet, or no longer.
fn unseen(
    input: &StatusInput<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    has_init: bool,
) -> ContainerStatus {
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let (reason, message) = match input.waiting.get(&container.name) {
        Some(wait) => (wait.reason.as_str(), Some(wait.message.as_str())),
        None => (default_reason, None),
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, message)),
        last_state: Some(ContainerState::default()),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    if old_state.terminated.is_some() {
        // It ran before; its record in the runtime is gone, the end is known.
        status = ContainerStatus { ready: false, started: Some(false), ..old.clone() };
        let is_init = spec::init_containers(input.pod).iter().any(|init| init.name == container.name);
        status.ready = is_init && old_state.terminated.is_some_and(|terminated| terminated.exit_code == 0);
    } else if old_state.running.is_some() && (input.ended || spec::is_deleting(input.pod)) {
        status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                container_id: old.container_id.clone(),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
        status.container_id = old.container_id.clone();
    }
    status
}

fn is_debug(input: &StatusInput<'_>, container: &Container) -> bool {
    spec::ephemeral_containers(input.pod).iter().any(|debug| debug.name == container.name)
}

/// Containers are named with their runtime in the API.
pub fn container_id(id: &str) -> String {
    format!("containerd://{id}")
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let message = message.filter(|message| !message.is_empty()).map(str::to_owned);
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    }
}

fn time(at: Option<Timestamp>) -> Option<Time> {
    at.map(Time)
}

fn state_of(input: &StatusInput<'_>, container: &ObservedContainer) -> ContainerState {
    match container.state {
        Observed::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: time(container.started_at) }),
            ..ContainerState::default()
        },
        Observed::Created => waiting("ContainerCreating", None),
        Observed::Exited => terminated(input, container, None),
        Observed::Unknown => terminated(input, container, Some("ContainerStatusUnknown")),
    }
}

fn terminated(input: &StatusInput<'_>, container: &ObservedContainer, reason: Option<&str>) -> ContainerState {
    let reason = match reason {
        Some(reason) => reason.to_owned(),
        None if !container.reason.is_empty() => container.reason.clone(),
        None if container.exit_code == 0 => "Completed".to_owned(),
        None => "Error".to_owned(),
    };
    let message = input.messages.get(&container.id).cloned().filter(|message| !message.is_empty());
    let message = message.or_else(|| Some(container.message.clone()).filter(|message| !message.is_empty()));
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: if container.state == Observed::Unknown { 137 } else { container.exit_code },
            reason: Some(reason),
            message,
            started_at: time(container.started_at),
            finished_at: time(container.finished_at),
            container_id: Some(container_id(&container.id)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}
