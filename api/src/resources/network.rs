//! Networking, endpoint discovery and node runtimes.

use super::build::{Describe, row};
use crate::{
    printers::{cluster, network},
    resource::Resource,
};

pub(super) fn rows() -> Vec<Resource> {
    let networking = |kind, plural| row("networking.k8s.io", "v1", kind, plural);
    vec![
        row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").columns(network::endpoint_slices()),
        networking("IngressClass", "ingressclasses").columns(network::ingress_classes()).cluster(),
        networking("Ingress", "ingresses").columns(network::ingresses()).short(&["ing"]).status(),
        networking("IPAddress", "ipaddresses")
            .columns(network::ip_addresses())
            .cluster()
            .short(&["ip"])
            .select("spec.parentRef.group")
            .select("spec.parentRef.resource")
            .select("spec.parentRef.namespace")
            .select("spec.parentRef.name"),
        networking("NetworkPolicy", "networkpolicies").columns(network::network_policies()).short(&["netpol"]),
        networking("ServiceCIDR", "servicecidrs").columns(network::service_cidrs()).cluster().status(),
        row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
            .columns(cluster::runtime_classes())
            .cluster()
            .conditional_update(),
    ]
}
