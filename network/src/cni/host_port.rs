//! Published ports of pods, as elements of maps in an nftables table of their own.
//!
//! The table's rules never change: every script states them anew (idempotent,
//! atomic), and adds or deletes map elements. A mapping is thus one element,
//! looked up in constant time however many there are.

use std::{fmt::Write, net::IpAddr};

use super::config::PortMapping;

/// Before the service proxy's chains (-100 and 100): a published port of a pod
/// on this node wins over a node port of the same number.
const PRIORITY_DNAT: i32 = -110;
const PRIORITY_SNAT: i32 = 90;

/// Script that publishes `mappings` of a pod. `displaced` are mappings of pods
/// that are gone but were never taken down; they occupy the same ports.
pub fn publish(
    table: &str,
    mappings: &[PortMapping],
    displaced: &[(PortMapping, Vec<IpAddr>)],
    addresses: &[IpAddr],
) -> String {
    let mut script = frame(table);
    for (mapping, addresses) in displaced {
        remove_elements(&mut script, table, std::slice::from_ref(mapping), addresses);
    }
    for element in mappings.iter().flat_map(|mapping| elements(mapping, addresses)) {
        let _ = writeln!(script, "add element inet {table} {} {{ {} : {} }}", element.map, element.key, element.value);
    }
    for (set, pair) in addresses.iter().map(hairpin) {
        let _ = writeln!(script, "add element inet {table} {set} {{ {pair} }}");
    }
    script
}

/// Script that takes the mappings of a pod back, whether or not they are there.
pub fn withdraw(table: &str, mappings: &[PortMapping], addresses: &[IpAddr]) -> String {
    let mut script = frame(table);
    remove_elements(&mut script, table, mappings, addresses);
    for (set, pair) in addresses.iter().map(hairpin) {
        let _ = writeln!(script, "add element inet {table} {set} {{ {pair} }}");
        let _ = writeln!(script, "delete element inet {table} {set} {{ {pair} }}");
    }
    script
}

/// Whether two mappings want the same port of the host.
pub fn conflicts(a: &PortMapping, b: &PortMapping) -> bool {
    a.host_port == b.host_port && a.protocol.eq_ignore_ascii_case(&b.protocol) && a.host_ip == b.host_ip
}

/// Adding first makes deleting succeed even when the element is gone already.
fn remove_elements(script: &mut String, table: &str, mappings: &[PortMapping], addresses: &[IpAddr]) {
    for element in mappings.iter().flat_map(|mapping| elements(mapping, addresses)) {
        let _ = writeln!(script, "add element inet {table} {} {{ {} : {} }}", element.map, element.key, element.value);
        let _ = writeln!(script, "delete element inet {table} {} {{ {} }}", element.map, element.key);
    }
}

struct Element {
    map: &'static str,
    key: String,
    value: String,
}

/// The elements of a mapping: one per address of the pod, of the family of the host address if one is named.
fn elements<'a>(mapping: &'a PortMapping, addresses: &'a [IpAddr]) -> impl Iterator<Item = Element> + 'a {
    let protocol = mapping.protocol.to_ascii_lowercase();
    addresses.iter().filter_map(move |address| {
        let value = format!("{address} . {}", mapping.container_port);
        let port = mapping.host_port;
        let (map, key) = match (mapping.host_ip, address.is_ipv4()) {
            (None, true) => ("any4", format!("{protocol} . {port}")),
            (None, false) => ("any6", format!("{protocol} . {port}")),
            (Some(ip), true) if ip.is_ipv4() => ("host4", format!("{ip} . {protocol} . {port}")),
            (Some(ip), false) if ip.is_ipv6() => ("host6", format!("{ip} . {protocol} . {port}")),
            _ => return None,
        };
        Some(Element { map, key, value })
    })
}

fn hairpin(address: &IpAddr) -> (&'static str, String) {
    (if address.is_ipv4() { "hairpin4" } else { "hairpin6" }, format!("{address} . {address}"))
}

/// The table with its maps, chains and rules.
fn frame(table: &str) -> String {
    format!(
        r#"add table inet {table}
add map inet {table} any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service ; }}
add map inet {table} any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service ; }}
add map inet {table} host4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; }}
add map inet {table} host6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service ; }}
add set inet {table} hairpin4 {{ type ipv4_addr . ipv4_addr ; }}
add set inet {table} hairpin6 {{ type ipv6_addr . ipv6_addr ; }}
add chain inet {table} hostports
add chain inet {table} prerouting {{ type nat hook prerouting priority {PRIORITY_DNAT} ; }}
add chain inet {table} output {{ type nat hook output priority {PRIORITY_DNAT} ; }}
add chain inet {table} postrouting {{ type nat hook postrouting priority {PRIORITY_SNAT} ; }}
add chain inet {table} protect_loopback {{ type filter hook prerouting priority raw ; }}
flush chain inet {table} protect_loopback
flush chain inet {table} hostports
flush chain inet {table} prerouting
flush chain inet {table} output
flush chain inet {table} postrouting
add rule inet {table} hostports dnat ip to ip daddr . meta l4proto . th dport map @host4
add rule inet {table} hostports dnat ip to meta l4proto . th dport map @any4
add rule inet {table} hostports dnat ip6 to ip6 daddr . meta l4proto . th dport map @host6
add rule inet {table} hostports dnat ip6 to meta l4proto . th dport map @any6
add rule inet {table} protect_loopback iifname != "lo" ip daddr 127.0.0.0/8 drop
add rule inet {table} prerouting fib daddr type local jump hostports
add rule inet {table} output fib daddr type local jump hostports
add rule inet {table} postrouting ct status dnat ip saddr . ip daddr @hairpin4 masquerade
add rule inet {table} postrouting ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade
add rule inet {table} postrouting ct status dnat ip saddr 127.0.0.0/8 oifname != "lo" masquerade
"#
    )
}

#[cfg(test)]
mod tests {
    use skiff_host::{netns::Netns, nftables::Nft};

    use super::*;

    fn mapping(host_ip: Option<&str>, host_port: u16, protocol: &str) -> PortMapping {
        PortMapping {
            host_port,
            container_port: 8080,
            protocol: protocol.to_owned(),
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    #[test]
    fn a_mapping_is_one_element_per_fitting_family() {
        let addresses = ["10.42.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let keys = |mapping: &PortMapping| -> Vec<String> {
            elements(mapping, &addresses).map(|element| format!("{} {}", element.map, element.key)).collect()
        };
        assert_eq!(keys(&mapping(None, 80, "TCP")), ["any4 tcp . 80", "any6 tcp . 80"]);
        assert_eq!(keys(&mapping(Some("192.0.2.1"), 53, "udp")), ["host4 192.0.2.1 . udp . 53"]);
    }

    #[test]
    fn scripts_are_accepted_in_any_order_and_leave_nothing() {
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                let nft = Nft::default();
                let addresses = ["10.42.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
                let mappings = [mapping(None, 80, "tcp"), mapping(Some("192.0.2.1"), 80, "udp")];
                nft.apply(&withdraw("t", &mappings, &addresses)).unwrap();
                nft.apply(&publish("t", &mappings, &[], &addresses)).unwrap();
                nft.apply(&publish("t", &mappings, &[], &addresses)).unwrap();
                let newer = ["10.42.0.6".parse().unwrap()];
                let displaced = [(mappings[0].clone(), addresses.to_vec())];
                nft.apply(&publish("t", &mappings[..1], &displaced, &newer)).unwrap();
                assert!(nft.output(&["list", "map", "inet", "t", "any4"]).unwrap().contains("10.42.0.6 . 8080"));
                nft.apply(&withdraw("t", &mappings[..1], &newer)).unwrap();
                nft.apply(&withdraw("t", &mappings[1..], &addresses)).unwrap();
                assert!(!nft.output(&["list", "table", "inet", "t"]).unwrap().contains("elements"));
            })
            .unwrap();
    }
}
