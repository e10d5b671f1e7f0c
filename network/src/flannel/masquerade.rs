//! Address translation for pod traffic that leaves the cluster.
//!
//! A pod's address means nothing outside, so packets from pods to elsewhere get
//! the node's address. Packets between pods keep theirs. Packets that come from
//! outside for a pod of another node get this node's address, so that the
//! answer comes back the same way.

use std::fmt::Write;

use ipnet::IpNet;

/// The nftables table.
pub fn table_name(suffix: &str) -> String {
    format!("skiff-masquerade{suffix}")
}

/// The whole table, as one transaction that replaces what was there.
pub fn script(suffix: &str, networks: &[IpNet], own_subnets: &[IpNet]) -> String {
    let table = table_name(suffix);
    let mut rules = String::new();
    for network in networks {
        let (family, multicast) = if network.addr().is_ipv4() { ("ip", "224.0.0.0/4") } else { ("ip6", "ff00::/8") };
        let _ = writeln!(rules, "    {family} saddr {network} {family} daddr {network} return");
        let _ = writeln!(rules, "    {family} saddr {network} {family} daddr != {multicast} masquerade fully-random");
        for own in own_subnets.iter().filter(|own| own.addr().is_ipv4() == network.addr().is_ipv4()) {
            let _ = writeln!(rules, "    {family} daddr {} return", own.trunc());
        }
        let _ = writeln!(rules, "    {family} daddr {network} masquerade fully-random");
    }
    format!(
        "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority srcnat; policy accept;\n{rules}  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use skiff_host::{netns::Netns, nftables::Nft};

    use super::*;

    #[test]
    fn the_table_is_replaced_whole_and_accepted_by_the_kernel() {
        let networks = ["10.42.0.0/16".parse().unwrap(), "fd00:42::/56".parse().unwrap()];
        let own = ["10.42.1.0/24".parse().unwrap(), "fd00:42:0:1::/64".parse().unwrap()];
        let script = script("", &networks, &own);
        assert_eq!(
            script.lines().filter(|line| line.contains("ip ")).map(str::trim).collect::<Vec<_>>(),
            [
                "ip saddr 10.42.0.0/16 ip daddr 10.42.0.0/16 return",
                "ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
                "ip daddr 10.42.1.0/24 return",
                "ip daddr 10.42.0.0/16 masquerade fully-random",
            ]
        );
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                let nft = Nft::default();
                nft.apply(&script).unwrap();
                nft.apply(&script).unwrap();
                assert_eq!(nft.output(&["list", "ruleset"]).unwrap().matches("return").count(), 4);
            })
            .unwrap();
    }
}
