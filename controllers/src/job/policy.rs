//! Pod failure policies and success policies: what a pod's end means for its job.

use k8s_openapi::api::{
    batch::v1::{JobSpec, PodFailurePolicyRule},
    core::v1::{ContainerStatus, Pod},
};

use super::Indexes;
use crate::{pod, seen::Seen};

/// The action that the first matching rule takes for a failed pod.
fn action<'a>(spec: &'a JobSpec, pod: &Seen<Pod>) -> Option<(&'a str, String)> {
    let rules = spec.pod_failure_policy.as_ref()?.rules.iter().enumerate();
    if pod::phase(&pod.typed) != "Failed" {
        return None;
    }
    for (number, rule) in rules {
        if let Some(why) = matched(rule, pod) {
            let message = format!("{why} matching {} rule at index {number}", rule.action);
            return Some((rule.action.as_str(), message));
        }
    }
    None
}

fn matched(rule: &PodFailurePolicyRule, pod: &Seen<Pod>) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        let status = pod.typed.status.as_ref();
        let mut containers = status
            .into_iter()
            .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
        let found = containers.find_map(|container| {
            let named = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
            let code = exit_code(container).filter(|code| named && *code != 0)?;
            let listed = codes.values.contains(&code);
            (if codes.operator == "NotIn" { !listed } else { listed }).then_some((&container.name, code))
        });
        return found.map(|(container, code)| {
            format!("Container {container} for pod {}/{} failed with exit code {code}", pod.namespace(), pod.name())
        });
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    for pattern in patterns {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        if pod::condition(&pod.typed, &pattern.type_).is_some_and(|condition| condition.status == wanted) {
            return Some(format!("Pod {}/{} has condition {}", pod.namespace(), pod.name(), pattern.type_));
        }
    }
    None
}

fn exit_code(container: &ContainerStatus) -> Option<i32> {
    container.state.as_ref()?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

/// Whether a failure does not count.
pub fn is_ignored(spec: &JobSpec, pod: &Seen<Pod>) -> bool {
    action(spec, pod).is_some_and(|(action, _)| action == "Ignore")
}

/// Whether a failure fails the pod's index for good.
pub fn fails_index(spec: &JobSpec, pod: &Seen<Pod>) -> bool {
    action(spec, pod).is_some_and(|(action, _)| action == "FailIndex")
}

/// The message of a failed pod that fails the whole job.
pub fn failing_pod(spec: &JobSpec, pods: &[Seen<Pod>]) -> Option<String> {
    pods.iter().find_map(|pod| action(spec, pod).filter(|(action, _)| *action == "FailJob").map(|(_, why)| why))
}

/// The message when enough indexes have succeeded.
pub fn success(spec: &JobSpec, completed: &Indexes) -> Option<String> {
    let rules = spec.success_policy.as_ref()?.rules.iter().enumerate();
    for (number, rule) in rules {
        let met = match (&rule.succeeded_indexes, rule.succeeded_count) {
            (Some(text), count) => {
                let wanted: Indexes = text.parse().ok()?;
                let done = wanted.count_in(completed);
                done as i32 >= count.unwrap_or(wanted.len() as i32)
            }
            (None, Some(count)) => completed.len() as i32 >= count,
            (None, None) => false,
        };
        if met {
            return Some(format!("Matched rules at index {number}"));
        }
    }
    None
}

/// Reasons live as constants; a reason of a stored condition is one of them.
pub fn known_reason(reason: &str) -> &'static str {
    const REASONS: [&str; 7] = [
        "PodFailurePolicy",
        "SuccessPolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
        "CompletionsReached",
    ];
    REASONS.into_iter().find(|known| *known == reason).unwrap_or("CompletionsReached")
}
