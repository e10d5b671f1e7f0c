//! What the runtime says about a pod: its sandboxes and containers.
//!
//! This is the only form in which runtime state reaches decisions. It is built
//! from CRI answers alone, so it is the same after a restart of the agent.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;

use crate::{cri::v1, labels};

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One container, dead or alive.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    /// How often this container was started before in the life of its pod.
    pub restart_count: u32,
    pub state: ContainerState,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_ref: String,
    pub log_path: String,
    /// User that the first process got, as far as the runtime tells.
    pub user: Option<(i64, i64, Vec<i64>)>,
    pub resources: Option<v1::LinuxContainerResources>,
    pub annotations: BTreeMap<String, String>,
    /// Host path of the termination message file.
    pub termination_message_file: Option<String>,
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedSandbox {
    pub id: String,
    pub ready: bool,
    pub attempt: u32,
    pub created_at: Timestamp,
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
}

/// Everything the runtime holds of one pod, newest first in both lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub sandboxes: Vec<ObservedSandbox>,
    pub containers: Vec<ObservedContainer>,
}

impl ObservedPod {
    /// A pod that the runtime knows nothing of.
    pub fn empty(uid: &str, namespace: &str, name: &str) -> ObservedPod {
        ObservedPod { uid: uid.into(), namespace: namespace.into(), name: name.into(), ..ObservedPod::default() }
    }

    /// Sorts both lists newest first; call after building.
    pub fn sorted(mut self) -> ObservedPod {
        self.sandboxes.sort_by_key(|sandbox| Reverse((sandbox.created_at, sandbox.attempt)));
        self.containers.sort_by_key(|container| Reverse((container.created_at, container.restart_count)));
        self
    }

    /// The newest container of this name.
    pub fn container<'a>(&'a self, name: &str) -> Option<&'a ObservedContainer> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// All containers of this name, newest first.
    pub fn containers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ObservedContainer> {
        self.containers.iter().filter(move |container| container.name == name)
    }

    /// The newest container of this name that belongs to a given sandbox.
    pub fn container_in<'a>(&'a self, name: &str, sandbox_id: &str) -> Option<&'a ObservedContainer> {
        self.containers.iter().find(|container| container.name == name && container.sandbox_id == sandbox_id)
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.first()
    }

    pub fn ready_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.iter().find(|sandbox| sandbox.ready)
    }

    /// Whether something is over now that was not known to be over before.
    pub fn has_ended_since(&self, before: &ObservedPod) -> bool {
        let was_over = |id: &str| before.containers.iter().any(|old| old.id == id && !old.is_live());
        let was_down = |id: &str| before.sandboxes.iter().any(|old| old.id == id && !old.ready);
        self.containers.iter().any(|container| !container.is_live() && !was_over(&container.id))
            || self.sandboxes.iter().any(|sandbox| !sandbox.ready && !was_down(&sandbox.id))
    }

    /// Whether anything of the pod can still run processes.
    pub fn has_running(&self) -> bool {
        self.containers.iter().any(ObservedContainer::is_live) || self.sandboxes.iter().any(|sandbox| sandbox.ready)
    }
}

impl ObservedContainer {
    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// May still have processes: everything but an exited container.
    pub fn is_live(&self) -> bool {
        self.state != ContainerState::Exited
    }
}

/// Nanoseconds since the epoch, zero meaning "not yet".
fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}

impl From<v1::ContainerStatus> for ObservedContainer {
    fn from(status: v1::ContainerStatus) -> Self {
        let metadata = status.metadata.unwrap_or_default();
        let state = match v1::ContainerState::try_from(status.state) {
            Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
            Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
            Ok(v1::ContainerState::ContainerExited) => ContainerState::Exited,
            _ => ContainerState::Unknown,
        };
        let message_path = status.annotations.get(labels::TERMINATION_MESSAGE_PATH);
        let termination_message_file = message_path.and_then(|path| {
            status.mounts.iter().find(|mount| mount.container_path == *path).map(|mount| mount.host_path.clone())
        });
        let user = status.user.and_then(|user| user.linux);
        ObservedContainer {
            id: status.id,
            name: metadata.name,
            sandbox_id: String::new(),
            restart_count: metadata.attempt,
            state,
            created_at: timestamp(status.created_at).unwrap_or_default(),
            started_at: timestamp(status.started_at),
            finished_at: timestamp(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            image: status.image.map(|image| image.image).unwrap_or_default(),
            image_ref: status.image_ref,
            log_path: status.log_path,
            user: user.map(|user| (user.uid, user.gid, user.supplemental_groups)),
            resources: status.resources.and_then(|resources| resources.linux),
            annotations: status.annotations.into_iter().collect(),
            termination_message_file,
        }
    }
}

impl From<v1::PodSandboxStatus> for ObservedSandbox {
    fn from(status: v1::PodSandboxStatus) -> Self {
        let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
        let network = status.network.unwrap_or_default();
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        ObservedSandbox {
            id: status.id,
            ready: status.state == v1::PodSandboxState::SandboxReady as i32,
            attempt: status.metadata.map(|metadata| metadata.attempt).unwrap_or_default(),
            created_at: timestamp(status.created_at).unwrap_or_default(),
            ips: all.filter_map(|ip| ip.parse().ok()).collect(),
            host_network: options.is_some_and(|options| options.network == v1::NamespaceMode::Node as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[(&str, v1::ContainerState)], sandbox: v1::PodSandboxState) -> ObservedPod {
        let container = |(id, state): &(&str, v1::ContainerState)| {
            let id = (*id).to_owned();
            ObservedContainer::from(v1::ContainerStatus { id, state: *state as i32, ..Default::default() })
        };
        let status = v1::PodSandboxStatus { id: "s".into(), state: sandbox as i32, ..Default::default() };
        let (containers, sandboxes) = (containers.iter().map(container).collect(), vec![status.into()]);
        ObservedPod { containers, sandboxes, ..ObservedPod::empty("u", "n", "p") }
    }

    #[test]
    fn an_end_counts_once_whether_the_life_before_it_was_seen_or_not() {
        use v1::{
            ContainerState::{ContainerExited as Exited, ContainerRunning as Running},
            PodSandboxState::{SandboxNotready as Down, SandboxReady as Up},
        };
        let before = pod(&[("old", Exited), ("a", Running)], Up);
        assert!(!pod(&[("old", Exited), ("a", Running), ("b", Running)], Up).has_ended_since(&before));
        assert!(pod(&[("old", Exited), ("a", Exited)], Up).has_ended_since(&before));
        assert!(pod(&[("b", Exited), ("a", Running)], Up).has_ended_since(&before), "began and ended in between");
        let down = pod(&[("a", Running)], Down);
        assert!(down.has_ended_since(&before) && !down.has_ended_since(&down));
        assert!(!pod(&[], Up).has_ended_since(&before), "what was removed had ended before");
    }
}
