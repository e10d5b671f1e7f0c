//! Endpoints: addresses and ports behind a service, in the old form.

use std::net::IpAddr;

use serde_json::Value;
use skiff_api::Cause;

use super::pod::containers::port_number;
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{default_text, int, items, list, text},
};

pub struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        for subset in items(object, "subsets") {
            for port in items(subset, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let subsets = Path::new("subsets");
        for (i, subset) in list(object, "subsets").iter().enumerate() {
            self::subset(&mut errors, &subsets.index(i), subset);
        }
        errors.into_causes()
    }
}

fn subset(errors: &mut Errors, path: &Path<'_>, subset: &Value) {
    if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for field in ["addresses", "notReadyAddresses"] {
        let addresses = path.child(field);
        for (i, address) in list(subset, field).iter().enumerate() {
            let path = addresses.index(i);
            endpoint_ip(errors, &path.child("ip"), text(address, "ip"));
            let hostname = text(address, "hostname");
            if !hostname.is_empty() {
                errors.invalid_all(&path.child("hostname"), hostname, formats::dns_label(hostname));
            }
        }
    }
    let ports = list(subset, "ports");
    let ports_path = path.child("ports");
    for (i, port) in ports.iter().enumerate() {
        let path = ports_path.index(i);
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&path.child("name"), "");
            }
        } else {
            errors.invalid_all(&path.child("name"), name, formats::dns_label(name));
        }
        port_number(errors, &path.child("port"), int(port, "port").unwrap_or(0));
        errors.one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// An address traffic can be sent to: no unspecified, loopback, link-local one.
pub fn endpoint_ip(errors: &mut Errors, path: &Path<'_>, text: &str) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        errors.invalid_all(path, text, formats::ip_address(text));
        return;
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (unicast, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if unicast {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn loopback_and_empty_subsets_are_refused() {
        let mut errors = Errors::new();
        subset(&mut errors, &Path::new("s"), &json!({}));
        subset(&mut errors, &Path::new("s"), &json!({"addresses": [{"ip": "127.0.0.1"}]}));
        assert_eq!(
            lines(errors.into_causes()),
            [
                "s: Required value: must specify `addresses` or `notReadyAddresses`",
                "s.addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
            ]
        );
    }
}
