//! Networking, endpoint discovery and node runtimes.

use super::build::{Describe, row};
use crate::resource::Resource;

pub(super) fn rows() -> Vec<Resource> {
    let networking = |kind, plural| row("networking.k8s.io", "v1", kind, plural);
    vec![
        row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        networking("IngressClass", "ingressclasses").cluster(),
        networking("Ingress", "ingresses").short(&["ing"]).status(),
        networking("IPAddress", "ipaddresses")
            .cluster()
            .short(&["ip"])
            .select("spec.parentRef.group")
            .select("spec.parentRef.resource")
            .select("spec.parentRef.namespace")
            .select("spec.parentRef.name"),
        networking("NetworkPolicy", "networkpolicies").short(&["netpol"]),
        networking("ServiceCIDR", "servicecidrs").cluster().status(),
        row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster().conditional_update(),
    ]
}
