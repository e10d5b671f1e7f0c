//! Pod conditions that the node owns.

use k8s_openapi::{
    api::core::v1::{ContainerStatus, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::StatusInput;
use crate::pods::spec;

struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Verdict {
        Verdict { status: true, reason: "", message: String::new() }
    }

    fn completed() -> Verdict {
        Verdict { status: true, reason: "PodCompleted", message: String::new() }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Verdict {
        Verdict { status: false, reason, message: message.into() }
    }
}

/// All conditions the node writes, keeping the time of those that did not change.
pub(super) fn generate(
    input: &StatusInput<'_>,
    phase: &str,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
) -> Vec<PodCondition> {
    let containers_ready = containers_ready(input, phase, init, regular);
    let ready = pod_ready(input, phase, &containers_ready);
    let sandbox = input.observed.ready_sandbox();
    let has_sandbox = sandbox.is_some_and(|sandbox| sandbox.host_network || !sandbox.ips.is_empty());
    let mut all = vec![
        ("PodReadyToStartContainers", if has_sandbox { Verdict::yes() } else { Verdict::no("", "") }),
        ("Initialized", initialized(input, phase, init, regular)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    // The scheduler writes this one except for pods that it never sees.
    if !has_condition(input, "PodScheduled") {
        all.push(("PodScheduled", Verdict::yes()));
    }
    if let Some(verdict) = input.verdict.filter(|verdict| verdict.disruption) {
        let condition = Verdict { status: true, reason: "TerminationByKubelet", message: verdict.message.clone() };
        all.push(("DisruptionTarget", condition));
    }
    if let Some(resize) = input.resize {
        all.push((resize.kind, Verdict { status: true, reason: resize.reason, message: resize.message.clone() }));
    }
    all.into_iter().map(|(name, verdict)| condition(input, name, verdict)).collect()
}

fn has_condition(input: &StatusInput<'_>, name: &str) -> bool {
    let conditions = input.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == name)
}

fn condition(input: &StatusInput<'_>, name: &str, verdict: Verdict) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let conditions = input.old().and_then(|status| status.conditions.as_ref());
    let old = conditions.into_iter().flatten().find(|condition| condition.type_ == name && condition.status == status);
    let since = old.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(input.now));
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    PodCondition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: text(verdict.reason.to_owned()),
        message: text(verdict.message),
        last_transition_time: Some(since),
        observed_generation: input.pod.metadata.generation,
        last_probe_time: None,
    }
}

fn initialized(input: &StatusInput<'_>, phase: &str, init: &[ContainerStatus], regular: &[ContainerStatus]) -> Verdict {
    let incomplete: Vec<&str> = spec::init_containers(input.pod)
        .iter()
        .zip(init)
        .filter(
            |(container, status)| {
                if spec::is_restartable_init(container) { status.started != Some(true) } else { !status.ready }
            },
        )
        .map(|(container, _)| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return if phase == "Succeeded" { Verdict::completed() } else { Verdict::yes() };
    }
    if phase == "Succeeded" {
        return Verdict::completed();
    }
    // Regular containers have existed: initialization was done, whatever sidecars do now.
    if regular.iter().any(|status| status.container_id.is_some()) {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))
}

fn containers_ready(
    input: &StatusInput<'_>,
    phase: &str,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", ""),
        "Failed" => return Verdict::no("PodFailed", ""),
        _ => {}
    }
    let sidecars = spec::init_containers(input.pod)
        .iter()
        .zip(init)
        .filter(|(container, _)| spec::is_restartable_init(container))
        .map(|(_, status)| status);
    let unready: Vec<&str> =
        sidecars.chain(regular).filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn pod_ready(input: &StatusInput<'_>, phase: &str, containers_ready: &Verdict) -> Verdict {
    if !containers_ready.status {
        return Verdict::no(containers_ready.reason, containers_ready.message.clone());
    }
    if matches!(phase, "Succeeded" | "Failed") {
        return Verdict::no("PodCompleted", "");
    }
    let conditions = input.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let gates = spec::spec(input.pod).readiness_gates.iter().flatten();
    let missing: Vec<String> = gates
        .filter_map(|gate| {
            let gate = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *gate) {
                None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if missing.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", missing.join(", ")) }
}
