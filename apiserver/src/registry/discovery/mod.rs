//! Group `discovery.k8s.io`: EndpointSlices.

use serde_json::Value;
use skiff_api::Cause;

use super::{
    core::endpoints::endpoint_ip,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{default, items, list, same, text},
};

const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20000;
const ADDRESSES_MAX: usize = 100;

pub struct EndpointSliceStrategy;

impl Strategy for EndpointSliceStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        for port in items(object, "ports") {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let kind = text(object, "addressType");
        errors.one_of(&Path::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
        if let Operation::Update { old } = op
            && !same(object, old, "addressType")
        {
            errors.immutable(&Path::new("addressType"), &object["addressType"], &old["addressType"]);
        }
        endpoints(&mut errors, object, kind);
        ports(&mut errors, object);
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        true
    }
}

fn endpoints(errors: &mut Errors, object: &Value, kind: &str) {
    let path = Path::new("endpoints");
    let endpoints = list(object, "endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.too_many(&path, endpoints.len(), ENDPOINTS_MAX);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i);
        let addresses_path = path.child("addresses");
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() {
            errors.required(&addresses_path, "must contain at least 1 address");
        } else if addresses.len() > ADDRESSES_MAX {
            errors.too_many(&addresses_path, addresses.len(), ADDRESSES_MAX);
        }
        for (j, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            let path = addresses_path.index(j);
            match (kind, address.parse::<std::net::IpAddr>()) {
                ("IPv4", Ok(ip)) if ip.is_ipv4() => endpoint_ip(errors, &path, address),
                ("IPv6", Ok(ip)) if ip.is_ipv6() => endpoint_ip(errors, &path, address),
                ("IPv4", _) => errors.invalid(&path, address, "must be a valid IPv4 address"),
                ("IPv6", _) => errors.invalid(&path, address, "must be a valid IPv6 address"),
                _ => errors.invalid_all(&path, address, formats::dns_subdomain(address.trim_end_matches('.'))),
            }
        }
        let hostname = text(endpoint, "hostname");
        if !hostname.is_empty() {
            errors.invalid_all(&path.child("hostname"), hostname, formats::dns_label(hostname));
        }
    }
}

fn ports(errors: &mut Errors, object: &Value) {
    let path = Path::new("ports");
    let ports = list(object, "ports");
    if ports.len() > PORTS_MAX {
        errors.too_many(&path, ports.len(), PORTS_MAX);
        return;
    }
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            errors.invalid_all(&path.child("name"), name, formats::dns_label(name));
        }
        if ports[..i].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(&path.child("name"), name);
        }
        errors.one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn addresses_match_the_type() {
        let mut errors = Errors::new();
        let slice = json!({"endpoints": [{"addresses": ["10.0.0.1", "fd00::1"]}, {}]});
        endpoints(&mut errors, &slice, "IPv4");
        assert_eq!(
            lines(errors.into_causes()),
            [
                "endpoints[0].addresses[1]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address"
            ]
        );
    }
}
