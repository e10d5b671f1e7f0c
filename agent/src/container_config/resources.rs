//! Requests and limits as the kernel takes them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use skiff_host::cgroup::{Limits, Version};

use crate::{cri::v1, pods::spec, quantity};

const CPU_PERIOD_US: i64 = 100_000;
const CPU_QUOTA_US_MIN: i64 = 1000;
const CPU_SHARES_MIN: i64 = 2;
const CPU_SHARES_MAX: i64 = 262_144;

/// Facts about the machine that limits depend on.
#[derive(Clone, Debug)]
pub struct MachineLimits {
    pub memory_bytes: u64,
    pub cgroup_version: Version,
    /// Page sizes that the machine has, in bytes.
    pub huge_page_sizes: Vec<u64>,
    pub pod_pids_max: i64,
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str, read: fn(&Quantity) -> Option<i64>) -> i64 {
    list.and_then(|list| list.get(name)).and_then(read).unwrap_or_default()
}

/// CPU shares of a request in thousandths.
pub fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 { CPU_SHARES_MIN } else { (milli * 1024 / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX) }
}

/// CPU quota of a limit in thousandths; zero means none.
pub fn cpu_quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * CPU_PERIOD_US / 1000).max(CPU_QUOTA_US_MIN) }
}

/// What the runtime sets for one container.
pub fn container_resources(pod: &Pod, container: &Container, machine: &MachineLimits) -> v1::LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let (requests, limits) = (resources.requests.as_ref(), resources.limits.as_ref());
    let cpu_limit = amount(limits, "cpu", quantity::milli);
    let has_cpu_request = requests.is_some_and(|requests| requests.contains_key("cpu"));
    let cpu_request = if has_cpu_request { amount(requests, "cpu", quantity::milli) } else { cpu_limit };
    let memory_limit = amount(limits, "memory", quantity::value);
    let mut unified = BTreeMap::new();
    if machine.cgroup_version == Version::V2 {
        // All processes of a container share its fate, as with version 1 they practically did.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: cpu_quota(cpu_limit),
        cpu_shares: cpu_shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score_adj(pod, container, machine.memory_bytes),
        hugepage_limits: huge_page_limits(limits, machine)
            .into_iter()
            .map(|(page_size, limit)| v1::HugepageLimit { page_size, limit })
            .collect(),
        unified: unified.into_iter().collect(),
        ..Default::default()
    }
}

/// Who dies first when memory runs out: the more a container asked for, the later.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_bytes: u64) -> i64 {
    if spec::spec(pod).priority.is_some_and(|priority| priority >= 2_000_000_000) {
        return -997;
    }
    match spec::qos_class(pod).as_str() {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let request = amount(requests, "memory", quantity::value);
            let capacity = i64::try_from(memory_bytes).unwrap_or(i64::MAX).max(1);
            let score = 1000 - i64::try_from(1000 * i128::from(request) / i128::from(capacity)).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// Every page size of the machine is limited, to zero unless the container asks for some.
fn huge_page_limits(limits: Option<&BTreeMap<String, Quantity>>, machine: &MachineLimits) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for size in &machine.huge_page_sizes {
        let wanted = limits.into_iter().flatten().find_map(|(name, quantity)| {
            let page: Quantity = Quantity(name.strip_prefix("hugepages-")?.to_owned());
            (quantity::value(&page) == i64::try_from(*size).ok()).then(|| quantity::value(quantity))?
        });
        all.insert(page_size_name(*size), wanted.and_then(|value| u64::try_from(value).ok()).unwrap_or_default());
    }
    all
}

/// The kernel's name of a page size: `2MB`.
pub fn page_size_name(bytes: u64) -> String {
    match bytes {
        size if size.is_multiple_of(1 << 30) => format!("{}GB", size >> 30),
        size if size.is_multiple_of(1 << 20) => format!("{}MB", size >> 20),
        size => format!("{}KB", size >> 10),
    }
}

/// Requests and limits of the whole pod: the containers' sum, or what the
/// largest init container needs beside the sidecars started before it, and the overhead.
pub fn pod_requirements(pod: &Pod) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let pod_spec = spec::spec(pod);
    let side = |pick: fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>| {
        let of = |container: &Container| milli_map(container.resources.as_ref().and_then(pick));
        let mut sum = BTreeMap::new();
        for container in &pod_spec.containers {
            add(&mut sum, &of(container));
        }
        let (mut sidecars, mut init_max): (BTreeMap<String, i64>, BTreeMap<String, i64>) = Default::default();
        for container in pod_spec.init_containers.iter().flatten() {
            let mut here = of(container);
            if spec::is_restartable_init(container) {
                add(&mut sidecars, &here);
                here = sidecars.clone();
            } else {
                add(&mut here, &sidecars);
            }
            for (name, value) in here {
                let entry = init_max.entry(name).or_default();
                *entry = (*entry).max(value);
            }
        }
        add(&mut sum, &sidecars);
        for (name, value) in init_max {
            let entry = sum.entry(name).or_default();
            *entry = (*entry).max(value);
        }
        if let Some(own) = pod_spec.resources.as_ref().and_then(pick) {
            sum.extend(milli_map(Some(own)));
        }
        add(&mut sum, &milli_map(pod_spec.overhead.as_ref()));
        sum
    };
    (side(|resources| resources.requests.as_ref()), side(|resources| resources.limits.as_ref()))
}

fn milli_map(list: Option<&BTreeMap<String, Quantity>>) -> BTreeMap<String, i64> {
    list.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), quantity::milli(value)?))).collect()
}

fn add(sum: &mut BTreeMap<String, i64>, more: &BTreeMap<String, i64>) {
    for (name, value) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*value);
    }
}

/// Limits of the pod's own control group. CPU and memory are bounded only when
/// every container has a bound, because one without makes the sum meaningless.
pub fn pod_limits(pod: &Pod, machine: &MachineLimits) -> Limits {
    let (requests, limits) = pod_requirements(pod);
    let all = spec::init_containers(pod).iter().chain(spec::containers(pod));
    let pod_level = spec::spec(pod).resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let bounded = |name: &str| {
        pod_level.is_some_and(|limits| limits.contains_key(name))
            || all.clone().all(|container| {
                let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
                limits.is_some_and(|limits| limits.contains_key(name))
            })
    };
    let get = |list: &BTreeMap<String, i64>, name: &str| list.get(name).copied().unwrap_or_default();
    let cpu_request = get(&requests, "cpu").max(if requests.contains_key("cpu") { 0 } else { get(&limits, "cpu") });
    let quota = cpu_quota(get(&limits, "cpu"));
    let huge = machine.huge_page_sizes.iter().map(|size| {
        let wanted = limits.iter().find_map(|(name, milli)| {
            let page = Quantity(name.strip_prefix("hugepages-")?.to_owned());
            (quantity::value(&page) == i64::try_from(*size).ok()).then_some(milli / 1000)
        });
        (page_size_name(*size), wanted.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default())
    });
    Limits {
        cpu_shares: u64::try_from(cpu_shares(cpu_request)).ok(),
        cpu_period_us: Some(100_000),
        cpu_quota_us: (bounded("cpu") && quota > 0).then_some(quota),
        memory_bytes: Some(get(&limits, "memory") / 1000).filter(|bytes| bounded("memory") && *bytes > 0),
        pids: (machine.pod_pids_max > 0).then_some(machine.pod_pids_max),
        huge_pages: huge.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine() -> MachineLimits {
        MachineLimits {
            memory_bytes: 8 << 30,
            cgroup_version: Version::V2,
            huge_page_sizes: vec![2 << 20],
            pod_pids_max: -1,
        }
    }

    fn pod(containers: serde_json::Value, init: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "initContainers": init}})).unwrap()
    }

    #[test]
    fn requests_and_limits_become_shares_quota_and_bytes() {
        let pod = pod(
            json!([{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"},
                "limits": {"cpu": "2", "memory": "2Gi", "hugepages-2Mi": "4Mi"}}}]),
            json!([]),
        );
        let made = container_resources(&pod, &spec::containers(&pod)[0], &machine());
        assert_eq!((made.cpu_shares, made.cpu_quota, made.memory_limit_in_bytes), (512, 200_000, 2 << 30));
        assert_eq!(made.hugepage_limits[0], v1::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 });
        assert_eq!(made.oom_score_adj, 875);
        assert_eq!(made.unified["memory.oom.group"], "1");
    }

    #[test]
    fn classes_decide_who_dies_first() {
        let best_effort = pod(json!([{"name": "c"}]), json!([]));
        assert_eq!(oom_score_adj(&best_effort, &spec::containers(&best_effort)[0], 1 << 30), 1000);
        let same = json!({"cpu": "1", "memory": "1Gi"});
        let guaranteed = pod(json!([{"name": "c", "resources": {"requests": same, "limits": same}}]), json!([]));
        assert_eq!(oom_score_adj(&guaranteed, &spec::containers(&guaranteed)[0], 1 << 30), -997);
    }

    #[test]
    fn a_pod_needs_the_larger_of_running_and_starting() {
        let cpu = |value: &str| json!({"requests": {"cpu": value}});
        let pod = pod(
            json!([{"name": "a", "resources": cpu("1")}, {"name": "b", "resources": cpu("1")}]),
            json!([{"name": "s", "restartPolicy": "Always", "resources": cpu("500m")}, {"name": "i", "resources": cpu("3")}]),
        );
        assert_eq!(pod_requirements(&pod).0["cpu"], 3500);
    }

    #[test]
    fn one_container_without_limit_leaves_the_pod_unbounded() {
        let bounded = json!({"limits": {"memory": "1Gi"}});
        let both = pod(json!([{"name": "a", "resources": bounded}, {"name": "b", "resources": bounded}]), json!([]));
        assert_eq!(pod_limits(&both, &machine()).memory_bytes, Some(2 << 30));
        let one = pod(json!([{"name": "a", "resources": bounded}, {"name": "b"}]), json!([]));
        assert_eq!(pod_limits(&one, &machine()).memory_bytes, None);
    }
}
