//! The configuration of a sandbox.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::{
    dns::{DnsSettings, dns_config},
    hosts, security,
};
use crate::{cri::v1, labels, pods::spec};

/// Directory of a pod's container logs below the log root.
pub fn log_directory(root: &Path, pod: &Pod) -> PathBuf {
    root.join(format!("{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod)))
}

/// What the runtime needs to make the sandbox number `attempt` of a pod.
pub fn sandbox_config(
    pod: &Pod,
    attempt: u32,
    cgroup_parent: &str,
    log_root: &Path,
    dns: &DnsSettings,
    target: Option<&str>,
) -> v1::PodSandboxConfig {
    let mut pod_labels = pod.metadata.labels.clone().unwrap_or_default();
    pod_labels.insert(labels::POD_NAME.to_owned(), spec::name(pod).to_owned());
    pod_labels.insert(labels::POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned());
    pod_labels.insert(labels::POD_UID.to_owned(), spec::uid(pod).to_owned());
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let context = spec::spec(pod).security_context.clone().unwrap_or_default();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            attempt,
        }),
        hostname: hosts::sandbox_hostname(pod, &dns.cluster_domain),
        log_directory: log_directory(log_root, pod).display().to_string(),
        dns_config: Some(dns_config(pod, dns)),
        port_mappings: port_mappings(pod),
        labels: pod_labels.into_iter().collect(),
        annotations: annotations.into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(security::sandbox_context(pod, target)),
            sysctls: context
                .sysctls
                .into_iter()
                .flatten()
                .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value))
                .collect(),
            overhead: None,
            resources: None,
        }),
    }
}

/// Ports of the host that lead into the pod. A pod on the host's network has them anyway.
fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    if spec::is_host_network(pod) {
        return Vec::new();
    }
    let all = spec::all_containers(pod);
    let ports = all.iter().flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            };
            Some(v1::PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sandbox_carries_identity_ports_and_sysctls() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u",
            "labels": {"app": "x"}}, "spec": {"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
            "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "UDP"},
            {"containerPort": 81}]}]}}))
        .unwrap();
        let made = sandbox_config(&pod, 2, "/k/pod", Path::new("/logs"), &DnsSettings::default(), None);
        assert_eq!(made.log_directory, "/logs/n_p_u");
        assert_eq!(made.labels[labels::POD_UID], "u");
        assert_eq!(made.labels["app"], "x");
        assert_eq!(made.port_mappings.len(), 1);
        assert_eq!(made.port_mappings[0].protocol, v1::Protocol::Udp as i32);
        assert_eq!(made.linux.unwrap().sysctls["kernel.shm_rmid_forced"], "1");
        assert_eq!(made.metadata.unwrap().attempt, 2);
    }
}
