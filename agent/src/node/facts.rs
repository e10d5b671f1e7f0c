//! The node's status as a function of what was found out about it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
        NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use skiff_host::{fs::FsUsage, process::MachineInfo};

use crate::{config::AgentConfig, cri::v1, limits, quantity};

/// What was found out.
pub struct NodeFactsInput<'a> {
    pub config: &'a AgentConfig,
    pub machine: &'a MachineInfo,
    pub disk: FsUsage,
    pub memory_available: u64,
    /// Name and version, once the runtime answered.
    pub runtime: Option<&'a v1::VersionResponse>,
    pub runtime_status: Option<&'a v1::StatusResponse>,
    pub pleg_healthy: bool,
    pub images: &'a [v1::Image],
    /// The status that the API has.
    pub old: &'a NodeStatus,
    pub now: Timestamp,
}

/// The whole status.
pub fn node_status(input: &NodeFactsInput<'_>) -> NodeStatus {
    let (capacity, allocatable) = resources(input);
    NodeStatus {
        addresses: Some(addresses(input.config)),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(input)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(input.config.kubelet_port) }),
        }),
        node_info: Some(system_info(input)),
        images: Some(images(input.images)),
        runtime_handlers: runtime_handlers(input.runtime_status),
        ..NodeStatus::default()
    }
}

fn addresses(config: &AgentConfig) -> Vec<NodeAddress> {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let mut all: Vec<NodeAddress> = config.node_ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    all.extend(config.external_ips.iter().map(|ip| address("ExternalIP", ip.to_string())));
    all.push(address("Hostname", config.hostname.clone()));
    all
}

type Resources = BTreeMap<String, Quantity>;

fn resources(input: &NodeFactsInput<'_>) -> (Resources, Resources) {
    let machine = input.machine;
    let mut capacity: Resources = [
        ("cpu".to_owned(), quantity::from_value(i64::from(machine.cpus))),
        ("memory".to_owned(), quantity::from_bytes(machine.memory_bytes)),
        ("pods".to_owned(), quantity::from_value(i64::from(input.config.max_pods))),
        ("ephemeral-storage".to_owned(), quantity::from_bytes(input.disk.capacity_bytes)),
    ]
    .into();
    for (size, pages) in &machine.huge_pages {
        let name = format!("hugepages-{}", binary_size(*size));
        let bytes = i64::try_from(size * pages).unwrap_or(i64::MAX);
        capacity.insert(name, quantity::from_value(bytes));
    }
    let mut allocatable = capacity.clone();
    // Pods get what is left above the thresholds at which they would be evicted.
    let memory = machine.memory_bytes.saturating_sub(input.config.eviction.memory_bytes(machine.memory_bytes));
    allocatable.insert("memory".to_owned(), quantity::from_bytes(memory / 1024 * 1024));
    let storage = input.disk.capacity_bytes.saturating_sub(input.config.eviction.disk_bytes(&input.disk));
    let storage = i64::try_from(storage).unwrap_or(i64::MAX);
    allocatable.insert("ephemeral-storage".to_owned(), quantity::from_value(storage));
    mirror_extended(input.old, &mut capacity, &mut allocatable);
    (capacity, allocatable)
}

/// Extended resources are written into the capacity by others; the node keeps
/// them and makes them allocatable.
fn mirror_extended(old: &NodeStatus, capacity: &mut Resources, allocatable: &mut Resources) {
    for (name, amount) in old.capacity.iter().flatten() {
        let extended = name.contains('/') && !name.starts_with("kubernetes.io/");
        if extended {
            capacity.insert(name.clone(), amount.clone());
            allocatable.insert(name.clone(), amount.clone());
        }
    }
}

fn binary_size(bytes: u64) -> String {
    match bytes {
        size if size.is_multiple_of(1 << 30) => format!("{}Gi", size >> 30),
        size if size.is_multiple_of(1 << 20) => format!("{}Mi", size >> 20),
        size => format!("{}Ki", size >> 10),
    }
}

fn system_info(input: &NodeFactsInput<'_>) -> NodeSystemInfo {
    let machine = input.machine;
    let runtime = input.runtime.map(|runtime| format!("{}://{}", runtime.runtime_name, runtime.runtime_version));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime.unwrap_or_default(),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: input.config.kubelet_version.clone(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        ..NodeSystemInfo::default()
    }
}

/// The architecture in the names that images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn images(list: &[v1::Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&v1::Image> = list.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let entry = |image: &v1::Image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    sorted.into_iter().take(limits::NODE_STATUS_IMAGES_MAX).map(entry).collect()
}

fn runtime_handlers(status: Option<&v1::StatusResponse>) -> Option<Vec<NodeRuntimeHandler>> {
    let handlers = &status?.runtime_handlers;
    let entry = |handler: &v1::RuntimeHandler| NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: handler.features.as_ref().map(|features| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    };
    (!handlers.is_empty()).then(|| handlers.iter().map(entry).collect())
}

/// Whether the runtime reports a condition as met.
pub fn runtime_condition<'a>(status: Option<&'a v1::StatusResponse>, name: &str) -> Option<&'a v1::RuntimeCondition> {
    status?.status.as_ref()?.conditions.iter().find(|condition| condition.r#type == name)
}

fn conditions(input: &NodeFactsInput<'_>) -> Vec<NodeCondition> {
    let pressure = |name: &str, under: bool, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if under { yes } else { no };
        condition(input, name, under, reason, message.to_owned())
    };
    let memory = input.config.eviction.is_memory_short(input.machine.memory_bytes, input.memory_available);
    let (not_ready_reason, problems) = problems(input);
    let ready = problems.is_empty();
    let message = if ready { "kubelet is posting ready status".to_owned() } else { problems.join(", ") };
    vec![
        pressure(
            "MemoryPressure",
            memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            input.config.eviction.is_disk_short(&input.disk),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            false,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        condition(input, "Ready", ready, if ready { "KubeletReady" } else { not_ready_reason }, message),
    ]
}

fn problems(input: &NodeFactsInput<'_>) -> (&'static str, Vec<String>) {
    let mut problems = Vec::new();
    let mut check = |name: &str, what: &str| match runtime_condition(input.runtime_status, name) {
        Some(condition) if condition.status => {}
        Some(condition) => problems.push(format!(
            "container runtime {what} not ready: {name}=false reason:{} message:{}",
            condition.reason, condition.message
        )),
        None => problems.push(format!("container runtime {what} not ready: {name} is not known yet")),
    };
    check("RuntimeReady", "is");
    check("NetworkReady", "network");
    if !input.pleg_healthy {
        problems.push("PLEG is not healthy: pleg has yet to be successful".to_owned());
    }
    ("KubeletNotReady", problems)
}

fn condition(input: &NodeFactsInput<'_>, name: &str, status: bool, reason: &str, message: String) -> NodeCondition {
    let status = if status { "True" } else { "False" };
    let old =
        input.old.conditions.iter().flatten().find(|condition| condition.type_ == name && condition.status == status);
    let since = old.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(input.now));
    NodeCondition {
        type_: name.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(input.now)),
        last_transition_time: Some(since),
    }
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
