//! The fixed part of the table: hooks, lookups and the rules that use them.
//!
//! ```text
//! prerouting, output (nat)     jump services: cluster address, external address, node port -> endpoint
//! postrouting (nat)            marked packets and packets from an endpoint to itself get the node's address
//! input, forward, output       what no endpoint answers is refused or dropped; NetworkPolicy (forward)
//! prerouting (raw)             nothing from outside reaches 127.0.0.0/8
//! ```

use std::fmt::Write;

use ipnet::IpNet;

use super::fragment::{Family, Lookup};

/// Set on packets whose source address must be replaced; kube-proxy's value.
pub const MASQUERADE_MARK: u32 = 0x4000;

/// Refuses a packet, so that clients need not wait.
pub const REJECT_CHAIN: &str = "reject_all";

/// Before the NAT chains of others at the standard priority decide.
const PRIORITY_NAT: &str = "-100";
/// After destinations have been translated.
const PRIORITY_FILTER_OUTPUT: &str = "-90";

/// Name of the table.
pub fn table_name(suffix: &str) -> String {
    format!("skiff{suffix}")
}

/// The commands that make the table, without any service, in place of an existing
/// one. `localhost`: node ports answer on 127.0.0.0/8 too.
pub fn script(table: &str, cluster_cidrs: &[IpNet], localhost: bool) -> String {
    let mut text = format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    for family in Family::ALL {
        for lookup in Lookup::ALL {
            let _ = writeln!(text, "  {}", declaration(lookup, family));
        }
    }
    text.push_str(&format!("  chain {REJECT_CHAIN} {{\n    reject\n  }}\n"));
    // Place of NetworkPolicy: chains per pod will be dispatched to from here.
    text.push_str("  chain network_policies {\n  }\n");
    text.push_str(&services_chain(cluster_cidrs, localhost));
    text.push_str(&unanswered_chain());
    let _ = write!(
        text,
        r#"  chain prerouting {{
    type nat hook prerouting priority {PRIORITY_NAT}; policy accept;
    jump services
  }}
  chain output {{
    type nat hook output priority {PRIORITY_NAT}; policy accept;
    jump services
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {MASQUERADE_MARK:#x} != 0 meta mark set meta mark xor {MASQUERADE_MARK:#x} masquerade fully-random
    ct status dnat ip saddr . ip daddr @hairpin4 masquerade fully-random
    ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade fully-random
  }}
  chain filter_input {{
    type filter hook input priority filter; policy accept;
    ct state new jump unanswered
  }}
  chain filter_forward {{
    type filter hook forward priority filter; policy accept;
    ct state new jump unanswered
    jump network_policies
  }}
  chain filter_output {{
    type filter hook output priority {PRIORITY_FILTER_OUTPUT}; policy accept;
    ct state new jump unanswered
  }}
  chain protect_loopback {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
}}
"#
    );
    text
}

fn declaration(lookup: Lookup, family: Family) -> String {
    let (name, address) = (lookup.name(family), family.address_type());
    match lookup {
        Lookup::Services | Lookup::NoEndpoints => {
            format!("map {name} {{ type {address} . inet_proto . inet_service : verdict; }}")
        }
        Lookup::NodePorts | Lookup::NoEndpointNodePorts => {
            format!("map {name} {{ type inet_proto . inet_service : verdict; }}")
        }
        Lookup::ClusterIps => format!("set {name} {{ type {address}; }}"),
        Lookup::Hairpin => format!("set {name} {{ type {address} . {address}; }}"),
    }
}

/// Finds the service a packet is for.
fn services_chain(cluster_cidrs: &[IpNet], localhost: bool) -> String {
    let mut text = String::from("  chain services {\n");
    // Answers to sources outside the pod networks must come back through this node.
    for cidr in cluster_cidrs {
        let family = Family::of(cidr.addr());
        let (keyword, cluster_ips) = (family.keyword(), Lookup::ClusterIps.name(family));
        let _ = writeln!(
            text,
            "    {keyword} daddr @{cluster_ips} {keyword} saddr != {cidr} meta mark set meta mark or {MASQUERADE_MARK:#x}"
        );
    }
    for family in Family::ALL {
        let _ = writeln!(
            text,
            "    {} daddr . meta l4proto . th dport vmap @{}",
            family.keyword(),
            Lookup::Services.name(family)
        );
    }
    let not_loopback = if localhost { "" } else { "ip daddr != 127.0.0.0/8 " };
    for (family, condition) in [(Family::V4, not_loopback), (Family::V6, "")] {
        let protocol = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let _ = writeln!(
            text,
            "    meta nfproto {protocol} {condition}fib daddr type local meta l4proto . th dport vmap @{}",
            Lookup::NodePorts.name(family)
        );
    }
    text.push_str("  }\n");
    text
}

/// Ends packets for services that no endpoint answers. Whatever still carries a
/// cluster address here was not translated, so no service port matched it.
fn unanswered_chain() -> String {
    let mut text = String::from("  chain unanswered {\n");
    for (family, protocol) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
        let keyword = family.keyword();
        let _ = writeln!(
            text,
            "    {keyword} daddr . meta l4proto . th dport vmap @{}\n    {keyword} daddr @{} goto {REJECT_CHAIN}\n    \
             meta nfproto {protocol} fib daddr type local meta l4proto . th dport vmap @{}",
            Lookup::NoEndpoints.name(family),
            Lookup::ClusterIps.name(family),
            Lookup::NoEndpointNodePorts.name(family),
        );
    }
    text.push_str("  }\n");
    text
}
