//! What a `proxy` request aims at: the path behind it, `[scheme:]name[:port]`, and the endpoints that serve it. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::Status;

/// Label of an endpoint slice that names its service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A request path, split behind the `proxy` segment. Both parts as sent, still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyPath<'a> {
    /// Up to and with `proxy`.
    pub prefix: &'a str,
    /// From the slash behind it; empty if there is none.
    pub rest: &'a str,
}

impl<'a> ProxyPath<'a> {
    /// Splits `/api/v1/namespaces/N/pods/P/proxy/...` or `/api/v1/nodes/N/proxy/...`.
    pub fn split(path: &'a str) -> Option<Self> {
        let segments_before = if path.starts_with("/api/v1/namespaces/") { 6 } else { 4 };
        let mut slashes = path.match_indices('/').map(|(at, _)| at);
        let start = slashes.nth(segments_before)? + 1;
        let behind = path[start..].find('/').map_or(path.len(), |at| start + at);
        (&path[start..behind] == "proxy").then(|| ProxyPath { prefix: &path[..behind], rest: &path[behind..] })
    }
}

/// `[scheme:]name[:port]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    pub is_https: bool,
    pub name: &'a str,
    /// Number or name; empty if none is given.
    pub port: &'a str,
}

impl<'a> Target<'a> {
    /// Parses the name part of a `proxy` URL.
    pub fn parse(resource: &str, text: &'a str) -> Result<Self, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme @ ("http" | "https" | ""), name, port] => (scheme, name, port),
            _ => ("", "", ""),
        };
        if name.is_empty() {
            let singular = resource.strip_suffix('s').unwrap_or(resource);
            return Err(Status::bad_request(format!("invalid {singular} request {text:?}")));
        }
        Ok(Target { is_https: scheme == "https", name, port })
    }
}

/// An address and the node that reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    pub node: Option<String>,
}

/// The address of a pod's port. Without a port: the first one its containers declare, else that of the scheme.
pub fn pod_endpoint(pod: &Pod, target: &Target<'_>) -> Result<Endpoint, Status> {
    let spec = pod.spec.as_ref();
    let mut declared = spec.iter().flat_map(|s| &s.containers).flat_map(|c| c.ports.iter().flatten());
    let scheme_port = if target.is_https { 443 } else { 80 };
    let port = if target.port.is_empty() {
        declared.next().and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(scheme_port)
    } else if let Ok(port) = target.port.parse() {
        port
    } else {
        declared
            .find(|port| port.name.as_deref() == Some(target.port))
            .and_then(|port| u16::try_from(port.container_port).ok())
            .ok_or_else(|| Status::bad_request(format!("pod {:?} has no port named {:?}", target.name, target.port)))?
    };
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    let ip = ip.filter(is_proxyable).ok_or_else(|| Status::bad_request("address not allowed"))?;
    let node = spec.and_then(|s| s.node_name.clone()).filter(|node| !node.is_empty());
    Ok(Endpoint { ip, port, node })
}

/// Whether an address may be a pod's: not one that means something else at the node that dials it.
fn is_proxyable(ip: &IpAddr) -> bool {
    let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| !is_proxyable(&IpAddr::V4(ip)))
        }
    };
    !special && !local
}

/// The ready endpoints behind a service's port; at least one.
pub fn service_endpoints(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    target: &Target<'_>,
) -> Result<Vec<Endpoint>, Status> {
    let spec = service.spec.as_ref();
    let ports: Vec<_> = spec.iter().flat_map(|s| s.ports.iter().flatten()).collect();
    let found = if target.port.is_empty() {
        // The only port, or one without a name; upstream looks for the unnamed one.
        ports.iter().find(|port| port.name.as_deref().unwrap_or_default().is_empty()).or(match &ports[..] {
            [only] => Some(only),
            _ => None,
        })
    } else {
        let number = target.port.parse::<i32>().ok();
        ports.iter().find(|port| port.name.as_deref() == Some(target.port) || Some(port.port) == number)
    };
    let port_name = found
        .ok_or_else(|| {
            Status::service_unavailable(format!(
                "no service port {:?} found for service {:?}",
                target.port, target.name
            ))
        })?
        .name
        .as_deref()
        .unwrap_or_default();
    let endpoints: Vec<Endpoint> = slices
        .iter()
        .filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)).is_some_and(|name| name == target.name)
        })
        .flat_map(|slice| slice_endpoints(slice, port_name))
        .collect();
    if endpoints.is_empty() {
        return Err(Status::service_unavailable(format!("no endpoints available for service {:?}", target.name)));
    }
    Ok(endpoints)
}

fn slice_endpoints(slice: &EndpointSlice, port_name: &str) -> Vec<Endpoint> {
    let port = slice
        .ports
        .iter()
        .flatten()
        .find(|port| port.name.as_deref().unwrap_or_default() == port_name)
        .and_then(|port| u16::try_from(port.port?).ok());
    let Some(port) = port else { return vec![] };
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
        .filter_map(|endpoint| {
            let ip = endpoint.addresses.first()?.parse().ok()?;
            Some(Endpoint { ip, port, node: endpoint.node_name.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_that_mean_the_node_are_no_pods() {
        for ip in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_proxyable(&ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.42.0.9", "192.168.1.1", "fd00::9", "2001:db8::1"] {
            assert!(is_proxyable(&ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn paths_are_split_behind_the_proxy_segment_and_stay_encoded() {
        let split = |path| ProxyPath::split(path).map(|p| (p.prefix, p.rest));
        let prefix = "/api/v1/namespaces/n/pods/p:80/proxy";
        assert_eq!(split("/api/v1/namespaces/n/pods/p:80/proxy"), Some((prefix, "")));
        assert_eq!(split("/api/v1/namespaces/n/pods/p:80/proxy/"), Some((prefix, "/")));
        assert_eq!(split("/api/v1/namespaces/n/pods/p:80/proxy/a%2Fb//c/"), Some((prefix, "/a%2Fb//c/")));
        assert_eq!(split("/api/v1/nodes/n1/proxy/metrics"), Some(("/api/v1/nodes/n1/proxy", "/metrics")));
        assert_eq!(split("/api/v1/namespaces/proxy/pods/proxy/proxy/x").map(|s| s.1), Some("/x"));
        assert_eq!(split("/api/v1/namespaces/n/pods/p"), None);
    }

    #[test]
    fn scheme_name_and_port_are_told_apart() {
        let parse = |text| Target::parse("pods", text).map(|t| (t.is_https, t.name, t.port));
        assert_eq!(parse("web"), Ok((false, "web", "")));
        assert_eq!(parse("web:80"), Ok((false, "web", "80")));
        assert_eq!(parse("https:web:443"), Ok((true, "web", "443")));
        assert_eq!(parse("https:web:"), Ok((true, "web", "")));
        assert_eq!(parse("ftp:web:1").expect_err("unknown").message, r#"invalid pod request "ftp:web:1""#);
        assert!(parse(":80").is_err() && parse("a:b:c:d").is_err());
    }

    fn service() -> (Service, Vec<Arc<EndpointSlice>>) {
        let ports = json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81}]);
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": ports}});
        let slice = |ready: bool, ip: &str| {
            let slice = json!({
                "addressType": "IPv4",
                "metadata": {"labels": {SERVICE_NAME_LABEL: "web"}},
                "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
                "endpoints": [{"addresses": [ip], "conditions": {"ready": ready}, "nodeName": "n1"}],
            });
            Arc::new(serde_json::from_value(slice).expect("a slice"))
        };
        let service = serde_json::from_value(service).expect("a service");
        (service, vec![slice(false, "10.0.0.1"), slice(true, "10.0.0.2")])
    }

    #[test]
    fn a_service_port_leads_to_ready_endpoints_only() {
        let (service, slices) = service();
        for port in ["admin", "81"] {
            let target = Target { is_https: false, name: "web", port };
            let endpoints = service_endpoints(&service, &slices, &target).expect("one is ready");
            let ip = "10.0.0.2".parse().expect("a literal address");
            assert_eq!(endpoints, [Endpoint { ip, port: 9090, node: Some("n1".into()) }]);
        }
    }

    #[test]
    fn a_service_without_the_port_or_ready_endpoints_is_unavailable() {
        let (service, slices) = service();
        let message = |slices: &[Arc<EndpointSlice>], port| {
            let target = Target { is_https: false, name: "web", port };
            service_endpoints(&service, slices, &target).expect_err("unavailable").message
        };
        assert_eq!(message(&slices, "x"), r#"no service port "x" found for service "web""#);
        assert_eq!(message(&slices[..1], "80"), r#"no endpoints available for service "web""#);
    }

    #[test]
    fn pod_ports_are_found_by_number_name_or_declaration() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 8080, "name": "http"}]}]},
            "status": {"podIP": "10.1.2.3"},
        }))
        .expect("a pod");
        let port = |port| pod_endpoint(&pod, &Target { is_https: false, name: "p", port }).map(|e| e.port);
        assert_eq!((port(""), port("http"), port("9")), (Ok(8080), Ok(8080), Ok(9)));
        assert!(port("nope").is_err());
    }
}
