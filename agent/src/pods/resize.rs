//! In-place resize: new requests and limits for running containers.
//!
//! What the node has granted (`allocated`) may lag behind what the
//! specification asks for: a resize that does not fit waits, and everything
//! else goes on with the granted amounts. Granted amounts are applied to the
//! pod's control group and, through the runtime, to each container.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::{
    actions::{Actions, Kill, KillReason},
    admission::Rejection,
    spec,
    worker::PodWorker,
};
use crate::{
    container_config::resources::container_resources,
    cri::v1,
    observed::{ObservedContainer, ObservedPod},
    status::ResizeCondition,
};

/// The amounts that a running container has; equal amounts need no update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    cpu_shares: i64,
    cpu_quota: i64,
    memory: i64,
}

impl From<&v1::LinuxContainerResources> for Applied {
    fn from(resources: &v1::LinuxContainerResources) -> Self {
        Applied {
            cpu_shares: resources.cpu_shares,
            cpu_quota: resources.cpu_quota,
            memory: resources.memory_limit_in_bytes,
        }
    }
}

/// Granted amounts by container name.
pub(super) type Allocated = HashMap<String, Option<ResourceRequirements>>;

/// What a pod that is seen for the first time has: what its status says, if it ran before, else what it asks for.
pub(super) fn initial(pod: &Pod, adopted: bool) -> Allocated {
    let statuses = pod.status.as_ref();
    let all = spec::init_containers(pod).iter().chain(spec::containers(pod));
    all.map(|container| {
        let lists = statuses.map(|status| [&status.container_statuses, &status.init_container_statuses]);
        let mut known = lists.into_iter().flatten().flatten().flatten();
        let known = known.find(|status| status.name == container.name).and_then(|status| status.resources.clone());
        let granted = if adopted { known.or_else(|| container.resources.clone()) } else { container.resources.clone() };
        (container.name.clone(), granted)
    })
    .collect()
}

fn amounts(resources: Option<&ResourceRequirements>) -> ResourceRequirements {
    let resources = resources.cloned().unwrap_or_default();
    let some = |list: Option<std::collections::BTreeMap<_, _>>| Some(list.unwrap_or_default());
    ResourceRequirements { claims: None, limits: some(resources.limits), requests: some(resources.requests) }
}

/// Whether the specification asks for something else than was granted.
pub(super) fn is_wanted(pod: &Pod, allocated: &Allocated) -> bool {
    let all = spec::init_containers(pod).iter().chain(spec::containers(pod));
    all.into_iter().any(|container| {
        let granted = allocated.get(&container.name).and_then(Option::as_ref);
        allocated.contains_key(&container.name) && amounts(granted) != amounts(container.resources.as_ref())
    })
}

/// The pod with the granted amounts instead of the wanted ones.
pub(super) fn effective(pod: &Arc<Pod>, allocated: &Allocated) -> Arc<Pod> {
    if !is_wanted(pod, allocated) {
        return Arc::clone(pod);
    }
    let mut pod = (**pod).clone();
    if let Some(pod_spec) = &mut pod.spec {
        let init = pod_spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut pod_spec.containers) {
            if let Some(granted) = allocated.get(&container.name) {
                container.resources = granted.clone();
            }
        }
    }
    Arc::new(pod)
}

/// Whether the container must be started anew to get other amounts.
fn needs_restart(container: &Container, from: &Applied, to: &Applied) -> bool {
    let restarts = |resource: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
    };
    let cpu = (from.cpu_shares, from.cpu_quota) != (to.cpu_shares, to.cpu_quota);
    cpu && restarts("cpu") || from.memory != to.memory && restarts("memory")
}

impl PodWorker {
    /// Grants a resize that fits and returns the pod with what is granted.
    pub(super) fn grant(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        if is_wanted(pod, &self.allocated) {
            match self.context.try_admit(&self.uid, pod) {
                Ok(()) => {
                    self.allocated = initial(pod, false);
                    self.resize = None;
                }
                Err(rejection) => self.resize = Some(pending(&rejection, self.context.fits_alone(pod))),
            }
        } else if self.resize.as_ref().is_some_and(|resize| resize.kind == ResizeCondition::PENDING) {
            self.resize = None;
        }
        effective(pod, &self.allocated)
    }

    /// Gives running containers the granted amounts. A container that must be started anew for it joins the plan.
    pub(super) async fn apply_resources(&mut self, pod: &Pod, observed: &ObservedPod, actions: &mut Actions) {
        let mut due: Vec<(Container, &ObservedContainer, v1::LinuxContainerResources)> = Vec::new();
        for container in spec::init_containers(pod).iter().chain(spec::containers(pod)) {
            let running = observed.container(&container.name).filter(|observed| observed.is_running());
            let Some(running) = running else { continue };
            let wanted = container_resources(pod, container, &self.context.machine);
            let to = Applied::from(&wanted);
            let from = match self.applied.get(&running.id) {
                Some(from) => from.clone(),
                None => {
                    // Adopted: it has what was granted before, unless the agent was away when that changed.
                    self.applied.insert(running.id.clone(), to.clone());
                    continue;
                }
            };
            if from == to || actions.kill.iter().any(|kill| kill.id == running.id) {
                continue;
            }
            if needs_restart(container, &from, &to) {
                let message = format!("Container {} resize requires restart", container.name);
                let (id, name) = (running.id.clone(), container.name.clone());
                actions.kill.push(Kill { id, name, reason: KillReason::DefinitionChanged, message });
                continue;
            }
            due.push((container.clone(), running, wanted));
        }
        self.applied.retain(|id, _| observed.containers.iter().any(|container| container.id == *id));
        if due.is_empty() {
            return;
        }
        // The pod's own group must be wide enough before and tight enough after. Narrowing it first
        // may be refused; that is no failure, because it is done again at the end.
        let _ = self.context.cgroups.create(pod, &self.context.machine);
        for (container, running, wanted) in due {
            match self.context.cri.update_container_resources(&running.id, wanted.clone()).await {
                Ok(()) => {
                    self.applied.insert(running.id.clone(), Applied::from(&wanted));
                    self.resize = None;
                }
                Err(error) => {
                    let message = format!("resize container {}: {}", container.name, error.message());
                    tracing::warn!(component = "pod", pod = spec::full_name(pod), message, "resize");
                    self.resize =
                        Some(ResizeCondition { kind: ResizeCondition::IN_PROGRESS, reason: "Error", message });
                }
            }
        }
        if let Err(error) = self.context.cgroups.create(pod, &self.context.machine) {
            tracing::warn!(component = "pod", pod = spec::full_name(pod), %error, "resize pod control group");
        }
    }
}

fn pending(rejection: &Rejection, fits_alone: bool) -> ResizeCondition {
    let reason = if fits_alone { "Deferred" } else { "Infeasible" };
    ResizeCondition { kind: ResizeCondition::PENDING, reason, message: rejection.message.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str) -> Arc<Pod> {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_resize_is_noticed_and_the_granted_amounts_stay_in_force() {
        let allocated = initial(&pod("1"), false);
        assert!(!is_wanted(&pod("1"), &allocated));
        let resized = pod("2");
        assert!(is_wanted(&resized, &allocated));
        let effective = effective(&resized, &allocated);
        assert_eq!(spec::containers(&effective)[0].resources, spec::containers(&pod("1"))[0].resources);
    }

    #[test]
    fn an_adopted_pod_has_what_its_status_says() {
        let mut pod = (*pod("2")).clone();
        pod.status = serde_json::from_value(json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "resources": {"requests": {"cpu": "1"}}}]}))
        .unwrap();
        assert!(is_wanted(&pod, &initial(&pod, true)));
        assert!(!is_wanted(&pod, &initial(&pod, false)));
    }

    #[test]
    fn the_resize_policy_decides_about_a_restart() {
        let container: Container = serde_json::from_value(json!({"name": "c", "resizePolicy": [
            {"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}))
        .unwrap();
        let applied = |cpu_shares, memory| Applied { cpu_shares, cpu_quota: 0, memory };
        assert!(!needs_restart(&container, &applied(2, 1), &applied(3, 1)));
        assert!(needs_restart(&container, &applied(2, 1), &applied(2, 2)));
    }
}
