//! Pools of service addresses and node ports.
//!
//! What is taken is derived from the stored services: the pools are filled
//! from the watch cache before the first allocation and follow its changes
//! afterwards (also those of other servers), so there is nothing to repair.
//! Every entry names the uid of its holder; releasing needs the same uid, so a
//! late deletion event cannot free an address that was taken again.
//!
//! As upstream (KEP-3070), the lower band of each range is left to those who
//! ask for a fixed value; automatic choices start in the upper band.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use futures_util::FutureExt;
use ipnet::IpNet;
use parking_lot::Mutex;
use rand::Rng;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Status};
use skiff_client::{Snapshot, StoreEvent, Subscription};

use super::service::{family, is_headless, needs_cluster_ip, needs_node_ports};
use crate::registry::{
    strategy::{Allocation, RequestContext},
    validation::{Errors, Path},
    value::{int, items, list, name, set, text, text_at},
};

/// Addresses of one range that can be handed out at most (65536, as upstream for IPv6).
const ADDRESSES_MAX: u128 = 1 << 16;

/// One range of addresses or ports, as numbers from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Band {
    size: u32,
    /// Automatic choices below this come last.
    reserved: u32,
}

impl Band {
    fn addresses(size: u32) -> Band {
        let reserved = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        Band { size, reserved }
    }

    fn ports(size: u32) -> Band {
        let reserved = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        Band { size, reserved }
    }

    /// A free number: a random start in the upper band, wrapping, then the lower band.
    fn pick(&self, taken: impl Fn(u32) -> bool, rng: &mut impl Rng) -> Option<u32> {
        let (low, high) = (self.reserved, self.size);
        if low < high {
            let start = rng.random_range(low..high);
            if let Some(found) = (start..high).chain(low..start).find(|offset| !taken(*offset)) {
                return Some(found);
            }
        }
        (0..low).find(|offset| !taken(*offset))
    }
}

/// The usable addresses of a service range.
#[derive(Clone, Copy, Debug)]
struct AddressRange {
    net: IpNet,
    /// The first address that may be given out (the one after the network address).
    first: u128,
    band: Band,
}

impl AddressRange {
    fn new(net: IpNet) -> AddressRange {
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let all = if bits >= 64 { ADDRESSES_MAX } else { 1u128 << bits };
        // The network address is never used, nor IPv4's broadcast address.
        let unusable = if net.addr().is_ipv4() { 2 } else { 1 };
        let size = all.saturating_sub(unusable).clamp(1, ADDRESSES_MAX - 1);
        AddressRange { net, first: number(net.network()) + 1, band: Band::addresses(size as u32) }
    }

    fn address(&self, offset: u32) -> IpAddr {
        let number = self.first + u128::from(offset);
        match self.net {
            // The range is inside an IPv4 network, so the number fits 32 bits.
            IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.net.contains(&ip) && (self.first..self.first + u128::from(self.band.size)).contains(&number(ip))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address reserved for `default/kubernetes`: the first of the range.
pub fn kubernetes_address(net: &IpNet) -> IpAddr {
    AddressRange::new(*net).address(0)
}

/// The customary address of cluster DNS: the tenth.
pub fn dns_address(net: &IpNet) -> IpAddr {
    AddressRange::new(*net).address(9)
}

#[derive(Default)]
struct State {
    loaded: bool,
    changes: Option<Subscription>,
    /// Holder's uid by address and by port.
    addresses: HashMap<IpAddr, String>,
    ports: HashMap<u16, String>,
}

/// What one service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Held {
    fn of(object: &Value) -> Held {
        let spec = &object["spec"];
        let mut addresses: Vec<IpAddr> =
            list(spec, "clusterIPs").iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        if addresses.is_empty()
            && let Ok(ip) = text(spec, "clusterIP").parse()
        {
            addresses.push(ip);
        }
        let numbers = list(spec, "ports").iter().filter_map(|port| int(port, "nodePort"));
        let numbers = numbers.chain(int(spec, "healthCheckNodePort"));
        let mut ports: Vec<u16> =
            numbers.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0).collect();
        ports.sort_unstable();
        ports.dedup();
        Held { addresses, ports }
    }

    fn without(&self, other: &Held) -> Held {
        Held {
            addresses: self.addresses.iter().filter(|ip| !other.addresses.contains(ip)).copied().collect(),
            ports: self.ports.iter().filter(|port| !other.ports.contains(port)).copied().collect(),
        }
    }
}

impl State {
    fn take(&mut self, held: &Held, uid: &str) {
        for ip in &held.addresses {
            self.addresses.insert(*ip, uid.to_owned());
        }
        for port in &held.ports {
            self.ports.insert(*port, uid.to_owned());
        }
    }

    fn give_back(&mut self, held: &Held, uid: &str) {
        for ip in &held.addresses {
            if self.addresses.get(ip).is_some_and(|holder| holder == uid) {
                self.addresses.remove(ip);
            }
        }
        for port in &held.ports {
            if self.ports.get(port).is_some_and(|holder| holder == uid) {
                self.ports.remove(port);
            }
        }
    }

    /// Brings the pools up to date with the watch cache without waiting.
    fn catch_up(&mut self, snapshot: &Snapshot) {
        let Some(store) = snapshot.store(&GroupResource::new("", "services")) else { return };
        if !self.loaded {
            self.changes = Some(store.subscribe());
            self.reload(&store.list(None));
            self.loaded = true;
        }
        let Some(mut changes) = self.changes.take() else { return };
        while let Some(Some(event)) = changes.next().now_or_never() {
            match event {
                StoreEvent::Applied { new, old } => {
                    let now = held(&new);
                    if let Some(old) = old {
                        self.give_back(&held(&old).without(&now), old.meta.uid.as_str());
                    }
                    self.take_if_free(&now, new.meta.uid.as_str());
                }
                StoreEvent::Deleted(last) => self.give_back(&held(&last), last.meta.uid.as_str()),
                StoreEvent::Resync => self.reload(&store.list(None)),
            }
        }
        self.changes = Some(changes);
    }

    /// Marks what a stored service holds; a value that was meanwhile taken by a newer one stays with it.
    fn take_if_free(&mut self, held: &Held, uid: &str) {
        for ip in &held.addresses {
            self.addresses.entry(*ip).or_insert_with(|| uid.to_owned());
        }
        for port in &held.ports {
            self.ports.entry(*port).or_insert_with(|| uid.to_owned());
        }
    }

    fn reload(&mut self, services: &[Arc<Object>]) {
        for service in services {
            self.take_if_free(&held(service), service.meta.uid.as_str());
        }
    }
}

fn held(object: &Object) -> Held {
    object.value().map(|value| Held::of(&value)).unwrap_or_default()
}

/// The pools of a server.
pub struct ServicePools {
    ranges: Vec<AddressRange>,
    families: Vec<&'static str>,
    ports: RangeInclusive<u16>,
    state: Arc<Mutex<State>>,
}

impl ServicePools {
    /// `cidrs` has the primary family first.
    pub fn new(cidrs: &[IpNet], ports: RangeInclusive<u16>) -> ServicePools {
        let families = cidrs.iter().map(|net| family(net.addr())).collect();
        let ranges = cidrs.iter().map(|net| AddressRange::new(*net)).collect();
        ServicePools { ranges, families, ports, state: Arc::default() }
    }

    /// `IPv4` and `IPv6` as the cluster has them, primary first.
    pub fn families(&self) -> &[&'static str] {
        &self.families
    }

    /// Fills the missing addresses and ports of a service about to be written, and claims those it names.
    pub async fn allocate(
        &self,
        context: &RequestContext<'_>,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<Option<Box<dyn Allocation>>, Status> {
        if let Some(store) = context.snapshot.store(&GroupResource::new("", "services")) {
            store.wait_synced().await;
        }
        let uid = text_at(object, &["metadata", "uid"]).to_owned();
        let before = old.map(Held::of).unwrap_or_default();
        let mut state = self.state.lock();
        state.catch_up(context.snapshot);
        self.choose_addresses(&state, &before, object)?;
        self.choose_ports(&state, &before, object)?;
        let after = Held::of(object);
        let taken = after.without(&before);
        let replaced = before.without(&after);
        if context.dry_run || (taken == Held::default() && replaced == Held::default()) {
            return Ok(None);
        }
        state.take(&taken, &uid);
        Ok(Some(Box::new(Taken { state: Arc::clone(&self.state), uid, taken, replaced })))
    }

    /// Frees what a deleted service held.
    pub fn release(&self, object: &Value) {
        self.state.lock().give_back(&Held::of(object), text_at(object, &["metadata", "uid"]));
    }

    fn choose_addresses(&self, state: &State, before: &Held, object: &mut Value) -> Result<(), Status> {
        let service = name(object).to_owned();
        let Some(spec) = object.get_mut("spec") else { return Ok(()) };
        if !needs_cluster_ip(spec) || is_headless(spec) {
            return Ok(());
        }
        let mut chosen: Vec<IpAddr> =
            list(spec, "clusterIPs").iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        for ip in chosen.iter().filter(|ip| !before.addresses.contains(ip)) {
            self.claim_address(state, &service, spec, *ip)?;
        }
        let wanted: Vec<&str> = list(spec, "ipFamilies").iter().filter_map(Value::as_str).collect();
        if text(spec, "ipFamilyPolicy") == "RequireDualStack" && self.families.len() < 2 {
            let mut errors = Errors::new();
            let path = Path::new("spec");
            errors.invalid(
                &path.child("ipFamilyPolicy"),
                "RequireDualStack",
                "this cluster is not configured for dual-stack services",
            );
            return Err(invalid(&service, errors));
        }
        for wanted in wanted {
            if chosen.iter().any(|ip| family(*ip) == wanted) {
                continue;
            }
            let Some(range) = self.ranges.iter().find(|range| family(range.net.addr()) == wanted) else {
                let mut errors = Errors::new();
                let path = Path::new("spec");
                errors.invalid(
                    &path.child("ipFamilies"),
                    &spec["ipFamilies"],
                    format!("not configured on this cluster: {wanted}"),
                );
                return Err(invalid(&service, errors));
            };
            let taken = |offset| state.addresses.contains_key(&range.address(offset)) || offset == 0;
            let offset = range.band.pick(taken, &mut rand::rng());
            let offset = offset.ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
            chosen.push(range.address(offset));
        }
        let texts: Vec<String> = chosen.iter().map(IpAddr::to_string).collect();
        if let Some(first) = texts.first() {
            set(spec, "clusterIP", first.as_str());
            set(spec, "clusterIPs", json!(texts));
        }
        Ok(())
    }

    fn claim_address(&self, state: &State, service: &str, spec: &Value, ip: IpAddr) -> Result<(), Status> {
        let why = match self.ranges.iter().find(|range| family(range.net.addr()) == family(ip)) {
            Some(range) if !range.contains(ip) => {
                format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}", range.net)
            }
            None => {
                format!("the provided IP ({ip}) is not in the valid range. The cluster has no {} range", family(ip))
            }
            Some(_) if state.addresses.contains_key(&ip) => "provided IP is already allocated".to_owned(),
            Some(_) => return Ok(()),
        };
        let mut errors = Errors::new();
        let path = Path::new("spec");
        errors.invalid(&path.child("clusterIPs"), &spec["clusterIPs"], format!("failed to allocate IP {ip}: {why}"));
        Err(invalid(service, errors))
    }

    fn choose_ports(&self, state: &State, before: &Held, object: &mut Value) -> Result<(), Status> {
        let service = name(object).to_owned();
        let Some(spec) = object.get_mut("spec") else { return Ok(()) };
        let health_check = text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
        if !needs_node_ports(spec) && !health_check {
            return Ok(());
        }
        let mut mine: Vec<u16> = Held::of(&json!({"spec": spec})).ports;
        self.claim_ports(state, before, &service, spec)?;
        if needs_node_ports(spec) {
            // Ports of one number and different protocols share their node port.
            let mut by_port: Vec<(i64, i64)> = list(spec, "ports")
                .iter()
                .filter_map(|port| Some((int(port, "port")?, int(port, "nodePort").filter(|number| *number != 0)?)))
                .collect();
            for port in items(spec, "ports") {
                if int(port, "nodePort").unwrap_or(0) != 0 {
                    continue;
                }
                let number = int(port, "port").unwrap_or(0);
                let shared = by_port.iter().find(|(port, _)| *port == number).map(|(_, node_port)| *node_port);
                let chosen = match shared {
                    Some(chosen) => chosen,
                    None => i64::from(self.pick_port(state, &mine)?),
                };
                set(port, "nodePort", chosen);
                by_port.push((number, chosen));
                mine.extend(u16::try_from(chosen));
            }
        }
        if health_check && int(spec, "healthCheckNodePort").unwrap_or(0) == 0 {
            let chosen = self.pick_port(state, &mine)?;
            set(spec, "healthCheckNodePort", chosen);
        }
        Ok(())
    }

    fn pick_port(&self, state: &State, mine: &[u16]) -> Result<u16, Status> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let band = Band::ports(u32::from(last - first) + 1);
        let port = |offset: u32| first + offset as u16;
        let taken = |offset| state.ports.contains_key(&port(offset)) || mine.contains(&port(offset));
        let offset = band.pick(taken, &mut rand::rng());
        offset.map(port).ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }

    fn claim_ports(&self, state: &State, before: &Held, service: &str, spec: &Value) -> Result<(), Status> {
        let path = Path::new("spec");
        let ports = path.child("ports");
        let mut errors = Errors::new();
        for (i, port) in list(spec, "ports").iter().enumerate() {
            let number = int(port, "nodePort").unwrap_or(0);
            let Ok(wanted) = u16::try_from(number) else { continue };
            if wanted == 0 || before.ports.contains(&wanted) {
                continue;
            }
            if !self.ports.contains(&wanted) {
                let (first, last) = (self.ports.start(), self.ports.end());
                let why =
                    format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
                errors.invalid(&ports.index(i).child("nodePort"), number, why);
            } else if state.ports.contains_key(&wanted) {
                errors.invalid(&ports.index(i).child("nodePort"), number, "provided port is already allocated");
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(invalid(service, errors)) }
    }
}

fn invalid(service: &str, errors: Errors) -> Status {
    Status::invalid("", "Service", service, errors.into_causes())
}

/// Values taken for a write that is not yet stored.
struct Taken {
    state: Arc<Mutex<State>>,
    uid: String,
    taken: Held,
    replaced: Held,
}

impl Allocation for Taken {
    fn commit(mut self: Box<Self>) {
        self.taken = std::mem::take(&mut self.replaced);
    }
}

impl Drop for Taken {
    /// Gives back what was taken; after a commit that is what was replaced.
    fn drop(&mut self) {
        self.state.lock().give_back(&self.taken, &self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn pools() -> ServicePools {
        ServicePools::new(&["10.43.0.0/16".parse().unwrap()], 30000..=32767)
    }

    fn allocate(pools: &ServicePools, old: Option<&Value>, object: &mut Value) -> Result<Held, Status> {
        let mut state = pools.state.lock();
        let before = old.map(Held::of).unwrap_or_default();
        pools.choose_addresses(&state, &before, object)?;
        pools.choose_ports(&state, &before, object)?;
        let held = Held::of(object);
        state.take(&held, text_at(object, &["metadata", "uid"]));
        Ok(held)
    }

    fn service(uid: &str, spec: Value) -> Value {
        json!({"metadata": {"name": "s", "uid": uid}, "spec": spec})
    }

    #[test]
    fn automatic_choices_avoid_the_lower_band() {
        let band = Band::addresses(65534);
        assert_eq!(band.reserved, 256);
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..100 {
            assert!(band.pick(|_| false, &mut rng).unwrap() >= 256);
        }
        let small = Band::addresses(20);
        assert_eq!(small.pick(|offset| offset >= 16, &mut rng), Some(0), "the lower band comes last");
        assert_eq!(small.pick(|_| true, &mut rng), None);
    }

    #[test]
    fn well_known_addresses() {
        let net = "10.43.0.0/16".parse().unwrap();
        assert_eq!(kubernetes_address(&net).to_string(), "10.43.0.1");
        assert_eq!(dns_address(&net).to_string(), "10.43.0.10");
        let net = "fd00::/108".parse().unwrap();
        assert_eq!(kubernetes_address(&net).to_string(), "fd00::1");
    }

    #[test]
    fn fixed_values_conflict_with_upstreams_words() {
        let pools = pools();
        let spec = json!({"type": "ClusterIP", "clusterIPs": ["10.43.0.10"], "clusterIP": "10.43.0.10", "ipFamilies": ["IPv4"]});
        allocate(&pools, None, &mut service("a", spec.clone())).unwrap();
        let error = allocate(&pools, None, &mut service("b", spec)).unwrap_err();
        assert_eq!(
            error.message,
            "Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.10\"]: failed to allocate IP 10.43.0.10: provided IP is already allocated"
        );
        let outside = json!({"clusterIPs": ["1.2.3.4"], "ipFamilies": ["IPv4"]});
        let error = allocate(&pools, None, &mut service("b", outside)).unwrap_err();
        assert!(error.message.ends_with("The range of valid IPs is 10.43.0.0/16"), "{}", error.message);
        let port = json!({"type": "NodePort", "ipFamilies": ["IPv4"], "ports": [{"port": 1, "nodePort": 80}]});
        let error = allocate(&pools, None, &mut service("b", port)).unwrap_err();
        assert!(
            error
                .message
                .contains("spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range.")
        );
    }

    #[test]
    fn node_ports_are_shared_across_protocols() {
        let pools = pools();
        let mut object = service(
            "a",
            json!({"type": "NodePort", "ipFamilies": ["IPv4"], "ports": [
            {"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "x", "port": 54}]}),
        );
        allocate(&pools, None, &mut object).unwrap();
        let ports: Vec<i64> =
            list(&object["spec"], "ports").iter().map(|port| port["nodePort"].as_i64().unwrap()).collect();
        assert_eq!(ports[0], ports[1]);
        assert_ne!(ports[0], ports[2]);
        let claim = json!({"type": "NodePort", "ipFamilies": ["IPv4"], "ports": [{"port": 1, "nodePort": ports[0]}]});
        let error = allocate(&pools, None, &mut service("b", claim)).unwrap_err();
        assert!(error.message.contains("provided port is already allocated"));
    }

    #[test]
    fn a_late_deletion_does_not_free_a_value_taken_again() {
        let pools = pools();
        let spec = json!({"clusterIPs": ["10.43.0.10"], "clusterIP": "10.43.0.10", "ipFamilies": ["IPv4"]});
        let first = service("a", spec.clone());
        allocate(&pools, None, &mut first.clone()).unwrap();
        pools.release(&first);
        allocate(&pools, None, &mut service("b", spec.clone())).unwrap();
        pools.release(&first);
        assert!(allocate(&pools, None, &mut service("c", spec)).is_err());
    }

    #[test]
    fn dropping_returns_what_was_taken_and_commit_what_was_replaced() {
        let pools = pools();
        let ip: IpAddr = "10.43.1.1".parse().unwrap();
        let held = Held { addresses: vec![ip], ports: vec![30001] };
        pools.state.lock().take(&held, "a");
        let taken = |taken: Held, replaced: Held| {
            Box::new(Taken { state: Arc::clone(&pools.state), uid: "a".into(), taken, replaced })
        };
        taken(held.clone(), Held::default()).commit();
        assert!(pools.state.lock().addresses.contains_key(&ip));
        drop(taken(held.clone(), Held::default()));
        assert!(pools.state.lock().addresses.is_empty() && pools.state.lock().ports.is_empty());
        pools.state.lock().take(&held, "a");
        taken(Held::default(), held).commit();
        assert!(pools.state.lock().addresses.is_empty());
    }
}
