//! What DNS knows of a service: pure compilation of Services and EndpointSlices.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

use super::name::Name;

/// A port with its labels, without underscores and in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRecord {
    /// Empty for unnamed ports.
    pub name: String,
    pub protocol: String,
    pub number: u16,
}

/// An endpoint under its service's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRecord {
    pub label: String,
    pub address: IpAddr,
    pub ports: Arc<[PortRecord]>,
}

/// How a service's own name resolves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    ClusterIp(Vec<IpAddr>),
    Headless,
    External(Name),
}

/// A service as DNS answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    pub kind: ServiceKind,
    pub ports: Vec<PortRecord>,
    /// Ready ones only (or all, if the service publishes them unready).
    pub endpoints: Vec<EndpointRecord>,
}

impl ServiceRecord {
    /// Compiles a service; `None` when it has no name in DNS. `pod_names`: endpoints without a
    /// hostname are called after their pod instead of their address.
    pub fn compile<'a>(
        service: &Service,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        pod_names: bool,
    ) -> Option<ServiceRecord> {
        let spec = service.spec.as_ref()?;
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| port_record(port.name.as_deref(), port.protocol.as_deref(), port.port));
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            ServiceKind::External(spec.external_name.as_deref()?.parse().ok()?)
        } else {
            let texts = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in texts.filter_map(|text| text.parse().ok()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() { ServiceKind::Headless } else { ServiceKind::ClusterIp(addresses) }
        };
        let mut endpoints = BTreeMap::new();
        for slice in slices {
            let slice_ports: Arc<[PortRecord]> = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|port| port_record(port.name.as_deref(), port.protocol.as_deref(), port.port?))
                .collect();
            for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
                for address in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                    let label = endpoint_label(endpoint, address, pod_names);
                    let record = EndpointRecord { label: label.clone(), address, ports: Arc::clone(&slice_ports) };
                    endpoints.insert((label, address), record);
                }
            }
        }
        Some(ServiceRecord { kind, ports: ports.collect(), endpoints: endpoints.into_values().collect() })
    }

    /// Every address that leads back to a name: of the service, or of an endpoint by its label.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Option<&str>)> {
        let own = match &self.kind {
            ServiceKind::ClusterIp(addresses) => addresses.as_slice(),
            ServiceKind::Headless | ServiceKind::External(_) => &[],
        };
        let endpoints = self.endpoints.iter().map(|endpoint| (endpoint.address, Some(endpoint.label.as_str())));
        own.iter().map(|address| (*address, None)).chain(endpoints)
    }
}

fn port_record(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<PortRecord> {
    Some(PortRecord {
        name: name.unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number).ok()?,
    })
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// The endpoint's hostname, its pod's name if wanted, or its address with dashes.
fn endpoint_label(endpoint: &Endpoint, address: IpAddr, pod_names: bool) -> String {
    let hostname = endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty());
    let pod = || endpoint.target_ref.as_ref().filter(|_| pod_names).and_then(|target| target.name.as_deref());
    match hostname.or_else(pod) {
        Some(name) => name.to_ascii_lowercase(),
        None => address.to_string().replace(['.', ':'], "-"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn compile(spec: Value, endpoints: Value, pod_names: bool) -> ServiceRecord {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({"metadata": {"name": "s-1"}, "addressType": "IPv4",
            "ports": [{"name": "HTTP", "port": 8080}], "endpoints": endpoints}))
        .unwrap();
        ServiceRecord::compile(&service, [&slice].into_iter(), pod_names).unwrap()
    }

    #[test]
    fn endpoints_are_called_by_hostname_pod_or_address() {
        let endpoints = json!([
            {"addresses": ["10.0.0.1"], "hostname": "Web-0"},
            {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "pod-b"}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
        ]);
        let labels = |pod_names: bool| -> Vec<String> {
            let record = compile(json!({"clusterIP": "None"}), endpoints.clone(), pod_names);
            record.endpoints.into_iter().map(|endpoint| endpoint.label).collect()
        };
        assert_eq!(labels(false), ["10-0-0-2", "web-0"]);
        assert_eq!(labels(true), ["pod-b", "web-0"]);
    }

    #[test]
    fn kinds_follow_type_and_cluster_addresses() {
        let kind = |spec: Value| compile(spec, json!([]), false).kind;
        assert_eq!(kind(json!({"clusterIP": "None", "clusterIPs": ["None"]})), ServiceKind::Headless);
        assert_eq!(
            kind(json!({"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1", "fd00::1"]})),
            ServiceKind::ClusterIp(vec!["10.43.0.1".parse().unwrap(), "fd00::1".parse().unwrap()])
        );
        assert_eq!(
            kind(json!({"type": "ExternalName", "externalName": "Example.org"})),
            ServiceKind::External("example.org".parse().unwrap())
        );
    }
}
