//! Recorded rulesets: what services in typical states compile to, as text. A
//! change here is a change of packet rules on every node.

use std::fmt::Write;

use super::*;

fn service(ports: Vec<PortInput>) -> ServiceInput {
    ServiceInput {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec!["10.43.0.10".parse().unwrap()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports,
        affinity_seconds: None,
        is_internal_local: false,
        is_external_local: false,
    }
}

fn tcp(node_port: Option<u16>) -> PortInput {
    PortInput { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port }
}

fn endpoint(address: &str, node: &str) -> EndpointInput {
    EndpointInput {
        address: address.parse().unwrap(),
        is_ready: true,
        is_serving: true,
        is_terminating: false,
        node: Some(node.into()),
        zones: vec![],
    }
}

fn slice(endpoints: Vec<EndpointInput>) -> SliceInput {
    SliceInput { ports: vec![("http".into(), Protocol::Tcp, 8080)], endpoints }
}

fn node() -> NodeView {
    NodeView { name: "n1".into(), zone: None, cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()] }
}

fn record(service: &ServiceInput, slices: &[SliceInput], node: &NodeView) -> String {
    let fragment = compile(service, &slices.iter().collect::<Vec<_>>(), node);
    let mut text = String::new();
    for (set, declaration) in &fragment.sets {
        writeln!(text, "set {set}: {declaration}").unwrap();
    }
    for (chain, rules) in &fragment.chains {
        writeln!(text, "chain {chain}: {}", rules.join("; ")).unwrap();
    }
    for ((lookup, family, key), value) in &fragment.elements {
        match value {
            Some(value) => writeln!(text, "{}: {key} -> {value}", lookup.name(*family)).unwrap(),
            None => writeln!(text, "{}: {key}", lookup.name(*family)).unwrap(),
        }
    }
    text
}

#[test]
fn a_cluster_address_balances_over_all_ready_endpoints() {
    let mut unready = endpoint("10.42.0.9", "n1");
    (unready.is_ready, unready.is_serving) = (false, false);
    let slices = [slice(vec![endpoint("10.42.0.5", "n1"), endpoint("10.42.1.6", "n2"), unready])];
    assert_eq!(
        record(&service(vec![tcp(None)]), &slices, &node()),
        "chain svc4/default/web/tcp/80: meta l4proto tcp numgen random mod 2 0 dnat ip to 10.42.0.5:8080; \
         meta l4proto tcp dnat ip to 10.42.1.6:8080\n\
         services4: 10.43.0.10 . tcp . 80 -> goto svc4/default/web/tcp/80\n\
         cluster_ips4: 10.43.0.10\n\
         hairpin4: 10.42.0.5 . 10.42.0.5\n\
         hairpin4: 10.42.0.9 . 10.42.0.9\n"
    );
}

#[test]
fn external_traffic_is_masqueraded_or_kept_on_the_node() {
    let slices = [slice(vec![endpoint("10.42.0.5", "n1"), endpoint("10.42.1.6", "n2")])];
    let mut input = service(vec![tcp(Some(30080))]);
    let text = record(&input, &slices, &node());
    assert!(
        text.contains(
            "chain ext4/default/web/tcp/80: meta mark set meta mark or 0x4000; goto svc4/default/web/tcp/80\n"
        )
    );
    assert!(text.contains("node_ports4: tcp . 30080 -> goto ext4/default/web/tcp/80\n"));
    input.is_external_local = true;
    let text = record(&input, &slices, &node());
    assert!(text.contains(
        "chain ext4/default/web/tcp/80: ip saddr 10.42.0.0/16 goto svc4/default/web/tcp/80; \
         fib saddr type local meta mark set meta mark or 0x4000 goto svc4/default/web/tcp/80; \
         goto loc4/default/web/tcp/80\n"
    ));
    assert!(text.contains("chain loc4/default/web/tcp/80: meta l4proto tcp dnat ip to 10.42.0.5:8080\n"));
    assert!(!text.contains("no_endpoint"));
    let elsewhere = [slice(vec![endpoint("10.42.1.6", "n2")])];
    assert!(record(&input, &elsewhere, &node()).contains("no_endpoint_node_ports4: tcp . 30080 -> drop\n"));
}

#[test]
fn without_endpoints_packets_are_refused() {
    let mut input = service(vec![tcp(Some(30080))]);
    input.load_balancer_ips = vec!["198.51.100.1".parse().unwrap()];
    assert_eq!(
        record(&input, &[], &node()),
        "no_endpoints4: 198.51.100.1 . tcp . 80 -> goto reject_all\n\
         no_endpoint_node_ports4: tcp . 30080 -> goto reject_all\n\
         cluster_ips4: 10.43.0.10\n"
    );
}

#[test]
fn source_ranges_guard_balancer_addresses_only() {
    let mut input = service(vec![tcp(None)]);
    input.load_balancer_ips = vec!["198.51.100.1".parse().unwrap()];
    input.external_ips = vec!["198.51.100.2".parse().unwrap()];
    input.source_ranges = vec!["192.0.2.0/25".parse().unwrap(), "192.0.2.128/25".parse().unwrap()];
    let text = record(&input, &[slice(vec![endpoint("10.42.1.6", "n2")])], &node());
    assert!(
        text.contains(
            "chain lb4/default/web/tcp/80: ip saddr != { 192.0.2.0/24 } drop; goto ext4/default/web/tcp/80\n"
        )
    );
    assert!(text.contains("services4: 198.51.100.1 . tcp . 80 -> goto lb4/default/web/tcp/80\n"));
    assert!(text.contains("services4: 198.51.100.2 . tcp . 80 -> goto ext4/default/web/tcp/80\n"));
}

#[test]
fn terminating_endpoints_serve_only_while_no_other_is_ready() {
    let mut ending = endpoint("10.42.0.5", "n1");
    (ending.is_ready, ending.is_terminating) = (false, true);
    let alone = record(&service(vec![tcp(None)]), &[slice(vec![ending.clone()])], &node());
    assert!(alone.contains("dnat ip to 10.42.0.5:8080"));
    let with_other = record(&service(vec![tcp(None)]), &[slice(vec![ending, endpoint("10.42.1.6", "n2")])], &node());
    assert!(with_other.contains("dnat ip to 10.42.1.6:8080"));
}

#[test]
fn zone_hints_count_when_all_endpoints_have_them() {
    let mut here = endpoint("10.42.0.5", "n2");
    here.zones = vec!["z1".into()];
    let mut there = endpoint("10.42.1.6", "n3");
    there.zones = vec!["z2".into()];
    let node = NodeView { zone: Some("z1".into()), ..node() };
    let hinted = record(&service(vec![tcp(None)]), &[slice(vec![here.clone(), there.clone()])], &node);
    assert!(hinted.contains("dnat ip to 10.42.0.5:8080"));
    there.zones.clear();
    assert!(record(&service(vec![tcp(None)]), &[slice(vec![here, there])], &node).contains("mod 2"));
}

#[test]
fn ports_of_slices_are_matched_by_name_and_protocol() {
    let other = SliceInput {
        ports: vec![("metrics".into(), Protocol::Tcp, 9090)],
        endpoints: vec![endpoint("10.42.0.7", "n1")],
    };
    let text = record(&service(vec![tcp(None)]), &[slice(vec![endpoint("10.42.0.5", "n1")]), other], &node());
    assert!(text.contains("dnat ip to 10.42.0.5:8080") && !text.contains("10.42.0.7"));
}

#[test]
fn both_families_have_chains_of_their_own_and_sticky_clients_sets() {
    let mut input = service(vec![tcp(None)]);
    input.cluster_ips.push("fd00:43::10".parse().unwrap());
    input.affinity_seconds = Some(60);
    let slices = [slice(vec![endpoint("10.42.0.5", "n2")]), slice(vec![endpoint("fd00::5", "n2")])];
    let text = record(&input, &slices, &node());
    assert!(text.contains(
        "set aff6/default/web/tcp/80/fd00__5/8080: type ipv6_addr; size 65535; flags dynamic,timeout; timeout 60s;\n"
    ));
    assert!(text.contains(
        "chain ep6/default/web/tcp/80/fd00__5/8080: update @aff6/default/web/tcp/80/fd00__5/8080 { ip6 saddr }; \
         meta l4proto tcp dnat ip6 to [fd00::5]:8080\n"
    ));
    assert!(text.contains("services6: fd00:43::10 . tcp . 80 -> goto svc6/default/web/tcp/80\n"));
}

#[test]
fn many_endpoints_are_chosen_by_one_lookup() {
    let endpoints = (1..=17).map(|number| endpoint(&format!("10.42.1.{number}"), "n2")).collect();
    let text = record(&service(vec![tcp(None)]), &[slice(endpoints)], &node());
    assert!(text.contains("dnat ip to numgen random mod 17 map { 0 : 10.42.1.1 . 8080, "));
}

#[test]
fn each_of_several_rules_is_equally_likely() {
    let rules = one_of("c ", ["a", "b", "d"].map(str::to_owned).to_vec());
    assert_eq!(rules, ["c numgen random mod 3 0 a", "c numgen random mod 2 0 b", "c d"]);
}
