//! The decision: one service and its endpoints become packet rules.
//!
//! Chains of a service port, by prefix: `svc` picks among all usable endpoints,
//! `loc` among those on this node, `ext` receives packets for external
//! addresses and node ports, `lb` checks source ranges before `ext`, and `ep`
//! leads to one endpoint (only when clients stick to endpoints). The rules on
//! traffic policies, readiness and termination are kube-proxy's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    fragment::{Family, Fragment, Frontend, Lookup},
    frame::{MASQUERADE_MARK, REJECT_CHAIN},
    input::{EndpointInput, NodeView, PortInput, Protocol, ServiceInput, SliceInput},
};

/// Clients remembered per endpoint.
const AFFINITY_CLIENTS_MAX: u32 = 65_535;
/// Up to this many endpoints are tried by rules, more by one lookup. An anonymous
/// lookup per service would make installing many services take quadratic time in
/// the kernel, while a few rules cost a new connection next to nothing.
const ENDPOINTS_BY_RULE_MAX: usize = 16;

/// Compiles a service. Pure: the same inputs give the same fragment.
pub fn compile(service: &ServiceInput, slices: &[&SliceInput], node: &NodeView) -> Fragment {
    let mut fragment = Fragment::default();
    let families: BTreeSet<Family> = service.cluster_ips.iter().copied().map(Family::of).collect();
    for ip in &service.cluster_ips {
        fragment.elements.insert((Lookup::ClusterIps, Family::of(*ip), ip.to_string()), None);
    }
    for family in families {
        for port in &service.ports {
            let backends = Backends::of(slices, family, port, node);
            PortCompiler { service, port, family, node, backends, fragment: &mut fragment }.run();
        }
    }
    fragment
}

/// The usable endpoints of a service port.
#[derive(Debug, Default)]
struct Backends {
    /// Used for traffic that may go anywhere.
    all: Vec<SocketAddr>,
    /// Used for traffic that must stay on this node.
    local: Vec<SocketAddr>,
    /// Everything on this node, for hairpin detection.
    on_this_node: BTreeSet<IpAddr>,
}

impl Backends {
    fn of(slices: &[&SliceInput], family: Family, port: &PortInput, node: &NodeView) -> Backends {
        let mut found: BTreeMap<SocketAddr, &EndpointInput> = BTreeMap::new();
        for slice in slices {
            let same =
                |(name, protocol, _): &&(String, Protocol, u16)| *name == port.name && *protocol == port.protocol;
            let Some((_, _, number)) = slice.ports.iter().find(same) else { continue };
            for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family) {
                let known = found.entry(SocketAddr::new(endpoint.address, *number)).or_insert(endpoint);
                // During updates an endpoint can be in two slices; the ready one counts.
                if endpoint.is_ready && !known.is_ready {
                    *known = endpoint;
                }
            }
        }
        let is_local = |endpoint: &EndpointInput| endpoint.node.as_ref() == Some(&node.name);
        let all: Vec<_> = found.iter().map(|(address, endpoint)| (*address, *endpoint)).collect();
        let local: Vec<_> = all.iter().filter(|(_, endpoint)| is_local(endpoint)).copied().collect();
        Backends {
            all: usable(&in_zone(&all, node)),
            on_this_node: local.iter().map(|(address, _)| address.ip()).collect(),
            local: usable(&local),
        }
    }
}

/// Ready endpoints; if there are none, those that still serve while they end.
fn usable(endpoints: &[(SocketAddr, &EndpointInput)]) -> Vec<SocketAddr> {
    let addresses = |accept: &dyn Fn(&EndpointInput) -> bool| -> Vec<SocketAddr> {
        endpoints.iter().filter(|(_, endpoint)| accept(endpoint)).map(|(address, _)| *address).collect()
    };
    let ready = addresses(&|endpoint| endpoint.is_ready);
    if ready.is_empty() { addresses(&|endpoint| endpoint.is_serving && endpoint.is_terminating) } else { ready }
}

/// Endpoints hinted for this node's zone, when every ready endpoint has a hint
/// and at least one is for this zone; otherwise all.
fn in_zone<'a>(endpoints: &[(SocketAddr, &'a EndpointInput)], node: &NodeView) -> Vec<(SocketAddr, &'a EndpointInput)> {
    let Some(zone) = &node.zone else { return endpoints.to_vec() };
    let mut ready = endpoints.iter().filter(|(_, endpoint)| endpoint.is_ready);
    let hinted: Vec<_> =
        endpoints.iter().filter(|(_, endpoint)| endpoint.is_ready && endpoint.zones.contains(zone)).copied().collect();
    let all_hinted = ready.all(|(_, endpoint)| !endpoint.zones.is_empty());
    if all_hinted && !hinted.is_empty() { hinted } else { endpoints.to_vec() }
}

struct PortCompiler<'a> {
    service: &'a ServiceInput,
    port: &'a PortInput,
    family: Family,
    node: &'a NodeView,
    backends: Backends,
    fragment: &'a mut Fragment,
}

impl PortCompiler<'_> {
    fn run(mut self) {
        for address in std::mem::take(&mut self.backends.on_this_node) {
            self.fragment.elements.insert((Lookup::Hairpin, self.family, format!("{address} . {address}")), None);
        }
        if !self.backends.all.is_empty() {
            let endpoints = self.backends.all.clone();
            self.balance("svc", &endpoints);
        }
        let is_local = self.service.is_internal_local || self.service.is_external_local;
        if is_local && !self.backends.local.is_empty() {
            let endpoints = self.backends.local.clone();
            self.balance("loc", &endpoints);
        }
        self.internal();
        self.external();
    }

    /// `svc4/namespace/name/tcp/80`.
    fn chain(&self, prefix: &str) -> String {
        let PortInput { protocol, port, .. } = self.port;
        let ServiceInput { namespace, name, .. } = self.service;
        format!("{prefix}{}/{namespace}/{name}/{}/{port}", self.family.digit(), protocol.name())
    }

    /// A chain that sends each new connection to one of the endpoints.
    fn balance(&mut self, prefix: &str, endpoints: &[SocketAddr]) {
        let name = self.chain(prefix);
        let rules = match self.service.affinity_seconds {
            Some(seconds) => self.sticky_rules(endpoints, seconds),
            None => self.translate(endpoints),
        };
        self.fragment.chains.insert(name, rules);
    }

    /// Rewrites the destination to one of the endpoints, at random.
    fn translate(&self, endpoints: &[SocketAddr]) -> Vec<String> {
        let (protocol, family) = (self.port.protocol.name(), self.family.keyword());
        let condition = format!("meta l4proto {protocol} ");
        if endpoints.len() <= ENDPOINTS_BY_RULE_MAX {
            let verdicts = endpoints.iter().map(|endpoint| format!("dnat {family} to {endpoint}"));
            return one_of(&condition, verdicts.collect());
        }
        let choices: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| format!("{index} : {} . {}", endpoint.ip(), endpoint.port()))
            .collect();
        let (count, choices) = (endpoints.len(), choices.join(", "));
        vec![format!("{condition}dnat {family} to numgen random mod {count} map {{ {choices} }}")]
    }

    /// Known clients first to their endpoint, then all others to any, remembering them.
    fn sticky_rules(&mut self, endpoints: &[SocketAddr], seconds: u32) -> Vec<String> {
        let family = self.family.keyword();
        let mut rules = Vec::with_capacity(endpoints.len() + 1);
        let mut choices = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            // Colons are not allowed in names.
            let suffix = format!("{}/{}", endpoint.ip().to_string().replace(':', "_"), endpoint.port());
            let (chain, set) = (format!("{}/{suffix}", self.chain("ep")), format!("{}/{suffix}", self.chain("aff")));
            let declaration = format!(
                "type {}; size {AFFINITY_CLIENTS_MAX}; flags dynamic,timeout; timeout {seconds}s;",
                self.family.address_type()
            );
            rules.push(format!("{family} saddr @{set} goto {chain}"));
            choices.push(format!("goto {chain}"));
            let remember = format!("update @{set} {{ {family} saddr }}");
            let mut own = vec![remember];
            own.extend(self.translate(&[*endpoint]));
            self.fragment.chains.insert(chain, own);
            self.fragment.sets.insert(set, declaration);
        }
        rules.extend(one_of("", choices));
        rules
    }

    /// Packets for the cluster address.
    fn internal(&mut self) {
        let is_local = self.service.is_internal_local;
        let (prefix, endpoints) = if is_local { ("loc", &self.backends.local) } else { ("svc", &self.backends.all) };
        let usable = endpoints.clone();
        for ip in self.addresses(&self.service.cluster_ips) {
            if !usable.is_empty() {
                self.element(Lookup::Services, Some(ip), self.port.port, format!("goto {}", self.chain(prefix)));
            } else if !self.backends.all.is_empty() {
                // Endpoints elsewhere do not count, but the service is not broken: silence.
                self.element(Lookup::NoEndpoints, Some(ip), self.port.port, "drop".to_owned());
            }
            // Without any endpoint, the rule on unanswered cluster addresses refuses.
            self.frontend(Frontend::Address(SocketAddr::new(ip, self.port.port)), &usable);
        }
    }

    /// Packets for external addresses, balancer addresses and node ports.
    fn external(&mut self) {
        let external = self.addresses(&self.service.external_ips);
        let balancers = self.addresses(&self.service.load_balancer_ips);
        if external.is_empty() && balancers.is_empty() && self.port.node_port.is_none() {
            return;
        }
        let is_local = self.service.is_external_local;
        let is_reachable = !self.backends.all.is_empty();
        let unanswered = match (is_reachable, is_local && self.backends.local.is_empty()) {
            (false, _) => Some(format!("goto {REJECT_CHAIN}")),
            (true, true) => Some("drop".to_owned()),
            (true, false) => None,
        };
        let ext = self.chain("ext");
        let mut balancer_chain = ext.clone();
        if is_reachable {
            let rules = self.external_rules();
            self.fragment.chains.insert(ext.clone(), rules);
            if !balancers.is_empty() && !self.service.source_ranges.is_empty() {
                balancer_chain = self.chain("lb");
                let rules = self.source_range_rules(&ext);
                self.fragment.chains.insert(balancer_chain.clone(), rules);
            }
        }
        let reachable: Vec<SocketAddr> = self
            .backends
            .all
            .iter()
            .chain(&self.backends.local)
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let addresses = external.iter().map(|ip| (*ip, &ext)).chain(balancers.iter().map(|ip| (*ip, &balancer_chain)));
        for (ip, chain) in addresses {
            if is_reachable {
                self.element(Lookup::Services, Some(ip), self.port.port, format!("goto {chain}"));
            }
            if let Some(verdict) = &unanswered {
                self.element(Lookup::NoEndpoints, Some(ip), self.port.port, verdict.clone());
            }
            self.frontend(Frontend::Address(SocketAddr::new(ip, self.port.port)), &reachable);
        }
        if let Some(port) = self.port.node_port {
            if is_reachable {
                self.element(Lookup::NodePorts, None, port, format!("goto {ext}"));
            }
            if let Some(verdict) = unanswered {
                self.element(Lookup::NoEndpointNodePorts, None, port, verdict);
            }
            self.frontend(Frontend::NodePort(self.family, port), &reachable);
        }
    }

    fn external_rules(&self) -> Vec<String> {
        let (svc, family) = (self.chain("svc"), self.family.keyword());
        let masquerade = format!("meta mark set meta mark or {MASQUERADE_MARK:#x}");
        if !self.service.is_external_local {
            return vec![masquerade, format!("goto {svc}")];
        }
        // Packets from inside the cluster need no source address kept for them, so any endpoint will do.
        let of_family = self.node.cluster_cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == self.family);
        let mut rules: Vec<String> = of_family.map(|cidr| format!("{family} saddr {cidr} goto {svc}")).collect();
        rules.push(format!("fib saddr type local {masquerade} goto {svc}"));
        if !self.backends.local.is_empty() {
            rules.push(format!("goto {}", self.chain("loc")));
        }
        rules
    }

    fn source_range_rules(&self, next: &str) -> Vec<String> {
        let ranges = self.service.source_ranges.iter().filter(|range| Family::of(range.addr()) == self.family);
        let ranges: BTreeSet<String> =
            ipnet::IpNet::aggregate(&ranges.copied().collect::<Vec<_>>()).iter().map(ToString::to_string).collect();
        let ranges: Vec<String> = ranges.into_iter().collect();
        if ranges.is_empty() {
            return vec!["drop".to_owned()];
        }
        let family = self.family.keyword();
        vec![format!("{family} saddr != {{ {} }} drop", ranges.join(", ")), format!("goto {next}")]
    }

    fn addresses(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        addresses.iter().copied().filter(|address| Family::of(*address) == self.family).collect()
    }

    fn element(&mut self, lookup: Lookup, address: Option<IpAddr>, port: u16, verdict: String) {
        let protocol = self.port.protocol.name();
        let key = match address {
            Some(address) => format!("{address} . {protocol} . {port}"),
            None => format!("{protocol} . {port}"),
        };
        self.fragment.elements.insert((lookup, self.family, key), Some(verdict));
    }

    fn frontend(&mut self, frontend: Frontend, endpoints: &[SocketAddr]) {
        if self.port.protocol == Protocol::Udp {
            self.fragment.udp.entry(frontend).or_default().extend(endpoints);
        }
    }
}

/// Rules of which exactly one applies, each as likely as the others: the first
/// of `n` is taken once in `n` times, the first of the rest once in `n - 1`, and so on.
fn one_of(condition: &str, verdicts: Vec<String>) -> Vec<String> {
    let count = verdicts.len();
    let rule = |(index, verdict): (usize, String)| match count - index {
        1 => format!("{condition}{verdict}"),
        left => format!("{condition}numgen random mod {left} 0 {verdict}"),
    };
    verdicts.into_iter().enumerate().map(rule).collect()
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
