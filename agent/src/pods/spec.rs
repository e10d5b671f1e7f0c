//! Questions about a pod's specification that several decisions ask.

use std::hash::Hasher;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use crate::labels;

/// Which list of a pod a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    Init,
    Regular,
    Ephemeral,
}

/// The uid of a pod; empty only for objects that never were in the API.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`: how pods are named in logs and messages.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The specification; an empty one when the object has none.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// All containers of all kinds, in the order in which they start.
pub fn all_containers(pod: &Pod) -> Vec<(ContainerKind, Container)> {
    let init = init_containers(pod).iter().map(|container| (ContainerKind::Init, container.clone()));
    let regular = containers(pod).iter().map(|container| (ContainerKind::Regular, container.clone()));
    let ephemeral =
        ephemeral_containers(pod).iter().map(|container| (ContainerKind::Ephemeral, as_container(container)));
    init.chain(regular).chain(ephemeral).collect()
}

/// The container of this name, of any kind.
pub fn find_container(pod: &Pod, name: &str) -> Option<(ContainerKind, Container)> {
    all_containers(pod).into_iter().find(|(_, container)| container.name == name)
}

/// A debug container in the form of the others.
pub fn as_container(container: &EphemeralContainer) -> Container {
    let from = container.clone();
    Container {
        name: from.name,
        image: from.image,
        command: from.command,
        args: from.args,
        working_dir: from.working_dir,
        env: from.env,
        env_from: from.env_from,
        image_pull_policy: from.image_pull_policy,
        resources: from.resources,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        volume_mounts: from.volume_mounts,
        volume_devices: from.volume_devices,
        restart_policy: Some("Never".to_owned()),
        ..Container::default()
    }
}

/// A sidecar: an init container that is kept running beside the others.
pub fn is_restartable_init(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// The pod comes from a file of this node; its object only mirrors it.
pub fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(labels::CONFIG_SOURCE)).is_some_and(|source| source != "api")
}

/// Deletion was asked for.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The phase that the API has.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The API says that the pod has ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Failed" | "Succeeded")
}

/// Seconds that containers get to end: the deletion's own, else the pod's.
pub fn grace_period_seconds(pod: &Pod) -> i64 {
    let deletion = pod.metadata.deletion_grace_period_seconds.filter(|_| is_deleting(pod));
    deletion.or(spec(pod).termination_grace_period_seconds).unwrap_or(30).max(0)
}

/// When the pod must have ended, by `activeDeadlineSeconds`.
pub fn active_deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = spec(pod).active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    start.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

/// Changes when a running container no longer is what the specification says.
/// Only the image of a container may change in place, so only that counts.
pub fn container_hash(container: &Container) -> String {
    let mut hasher = Fnv32(0x811c_9dc5);
    hasher.write(container.name.as_bytes());
    hasher.write(&[0]);
    hasher.write(container.image.as_deref().unwrap_or_default().as_bytes());
    format!("{:x}", hasher.0)
}

struct Fnv32(u32);

impl Hasher for Fnv32 {
    fn finish(&self) -> u64 {
        u64::from(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

/// Back-off key of a container.
pub fn backoff_key(pod: &Pod, container: &Container) -> String {
    format!("{}/{}/{}", uid(pod), container.name, container_hash(container))
}

/// Quality of service class, from the object or from the resources.
pub fn qos_class(pod: &Pod) -> String {
    if let Some(class) =
        pod.status.as_ref().and_then(|status| status.qos_class.clone()).filter(|class| !class.is_empty())
    {
        return class;
    }
    let all: Vec<&Container> = init_containers(pod).iter().chain(containers(pod)).collect();
    let mut any = false;
    let mut guaranteed = !all.is_empty();
    for container in all {
        let resources = container.resources.clone().unwrap_or_default();
        let (requests, limits) = (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default());
        for resource in ["cpu", "memory"] {
            let request = requests.get(resource).and_then(crate::quantity::milli).filter(|value| *value > 0);
            let limit = limits.get(resource).and_then(crate::quantity::milli).filter(|value| *value > 0);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    if !any {
        "BestEffort".to_owned()
    } else if guaranteed {
        "Guaranteed".to_owned()
    } else {
        "Burstable".to_owned()
    }
}
