//! The `kubernetes` plugin: answers for the cluster's own names, as the
//! Kubernetes DNS specification (1.1.0) wants them.
//!
//! A name exists or it does not, whatever the type asked for: an existing name
//! without such records gives an empty answer, a missing one NXDOMAIN, both
//! with the zone's SOA.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use skiff_api::ObjectKey;

use super::{
    index::ClusterIndex,
    message::{Answer, Query, Rcode, Record, RecordData, record_type},
    name::{Labels, Name},
    records::{EndpointRecord, PortRecord, ServiceKind, ServiceRecord},
};

/// The version of the specification, answered for `dns-version`.
const SPECIFICATION_VERSION: &[u8] = b"1.1.0";
/// More labels than any name of a cluster has in front of its zone.
const LABELS_MAX: usize = 6;
const WEIGHT_TOTAL: usize = 100;

/// Which names of pods are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    #[default]
    Disabled,
    /// Any address, if the namespace exists.
    Insecure,
    /// Addresses that a pod of the namespace has.
    Verified,
}

/// Settings of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// Zones answered for, the cluster's domain first, then reverse zones.
    pub zones: Vec<Name>,
    pub pods: PodMode,
    pub ttl: u32,
    /// Zones whose missing names go on to the next plugin.
    pub fallthrough: Vec<Name>,
    pub endpoint_pod_names: bool,
    pub namespaces: Vec<String>,
    pub labels: Option<String>,
    pub kubeconfig: Option<(String, Option<String>)>,
}

impl KubernetesConfig {
    /// The cluster's domain: the first zone that is no reverse zone.
    fn primary(&self) -> Option<&Name> {
        self.zones.iter().find(|zone| reverse_suffix(zone).is_none())
    }
}

/// The plugin.
pub struct Kubernetes {
    pub config: KubernetesConfig,
    pub index: Arc<ClusterIndex>,
}

/// What looking up a name gave.
enum Found {
    Records(Vec<Record>, Vec<Record>),
    Missing,
}

const NO_RECORDS: Found = Found::Records(Vec::new(), Vec::new());

impl Kubernetes {
    /// The answer, or `None` when another plugin should be asked.
    pub fn answer(&self, query: &Query) -> Option<Answer> {
        // The longest zone that holds the name.
        let zone =
            self.config.zones.iter().filter(|zone| query.name.is_within(zone)).max_by_key(|zone| zone.wire().len())?;
        let found = match reverse_suffix(zone) {
            Some(_) => self.reverse(query),
            None => self.forward(query, zone),
        };
        let mut answer = Answer { is_authoritative: true, ..Answer::default() };
        match found {
            Found::Records(answers, additional) => (answer.answers, answer.additional) = (answers, additional),
            Found::Missing => {
                if !self.index.is_synced() {
                    // Not knowing a name yet is not the same as knowing that it does not exist.
                    return Some(Answer::code(Rcode::SERVER_FAILURE));
                }
                if self.config.fallthrough.iter().any(|zone| query.name.is_within(zone)) {
                    return None;
                }
                answer.rcode = Rcode::NAME_ERROR;
            }
        }
        if answer.answers.is_empty() {
            answer.authority.push(self.soa(zone));
        }
        Some(answer)
    }

    fn soa(&self, zone: &Name) -> Record {
        let within = |labels: &[&[u8]]| zone.prepend(labels).unwrap_or_else(Name::root);
        let data = RecordData::Soa {
            primary: within(&[b"ns", b"dns"]),
            mailbox: within(&[b"hostmaster"]),
            serial: self.index.serial(),
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: self.config.ttl,
        };
        Record::new(zone.clone(), self.config.ttl, data)
    }

    fn forward(&self, query: &Query, zone: &Name) -> Found {
        let Some(offset) = query.name.offset_of(zone) else { return Found::Missing };
        let front = &query.name.wire()[..offset];
        let mut labels: [&[u8]; LABELS_MAX] = [&[]; LABELS_MAX];
        let mut count = 0;
        for label in Labels::of(front) {
            if count == LABELS_MAX {
                return Found::Missing;
            }
            labels[count] = label;
            count += 1;
        }
        match &labels[..count] {
            [] => self.apex(query, zone),
            [b"dns-version"] => match query.record_type {
                record_type::TXT => self.one(query, RecordData::Txt(vec![SPECIFICATION_VERSION.to_vec()])),
                _ => NO_RECORDS,
            },
            [b"dns"] | [b"svc"] | [b"pod"] => NO_RECORDS,
            [b"ns", b"dns"] => self.own_addresses(query),
            [namespace, b"svc" | b"pod"] if self.index.has_namespace(namespace) => NO_RECORDS,
            [pod, namespace, b"pod"] => self.pod(query, pod, namespace),
            [.., _, _, b"svc"] => self.service_name(query, zone, front, &labels[..count]),
            _ => Found::Missing,
        }
    }

    fn apex(&self, query: &Query, zone: &Name) -> Found {
        match query.record_type {
            record_type::SOA => Found::Records(vec![self.soa(zone)], Vec::new()),
            record_type::NS => match zone.prepend(&[b"ns", b"dns"]) {
                Some(name) => self.one(query, RecordData::Ns(name)),
                None => NO_RECORDS,
            },
            _ => NO_RECORDS,
        }
    }

    /// The addresses of this DNS service itself.
    fn own_addresses(&self, query: &Query) -> Found {
        match self.index.service(b"\x08kube-dns\x0bkube-system").as_deref() {
            Some(ServiceRecord { kind: ServiceKind::ClusterIp(addresses), .. }) => {
                Found::Records(self.addresses(&query.name, query.record_type, addresses.iter().copied()), Vec::new())
            }
            _ => NO_RECORDS,
        }
    }

    fn one(&self, query: &Query, data: RecordData) -> Found {
        Found::Records(vec![Record::new(query.name.clone(), self.config.ttl, data)], Vec::new())
    }

    fn pod(&self, query: &Query, label: &[u8], namespace: &[u8]) -> Found {
        let text = String::from_utf8_lossy(label);
        let v4 = text.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        let Ok(address) = v4.or_else(|_| text.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)) else {
            return Found::Missing;
        };
        let exists = match self.config.pods {
            PodMode::Disabled => false,
            PodMode::Insecure => self.index.has_namespace(namespace),
            PodMode::Verified => self.index.has_pod(address, namespace),
        };
        if exists {
            Found::Records(self.addresses(&query.name, query.record_type, [address].into_iter()), Vec::new())
        } else {
            Found::Missing
        }
    }

    /// `service.namespace.svc`, with an endpoint's name or port and protocol in front.
    fn service_name(&self, query: &Query, zone: &Name, front: &[u8], labels: &[&[u8]]) -> Found {
        let extra = labels.len() - 3;
        // Name and namespace as they stand in the question, between what is before them and "svc".
        let before: usize = labels[..extra].iter().map(|label| label.len() + 1).sum();
        let key = &front[before..front.len() - b"\x03svc".len()];
        let Some(service) = self.index.service(key) else { return Found::Missing };
        let Some(base) = zone.prepend(&labels[extra..]) else { return Found::Missing };
        match &labels[..extra] {
            [] => self.service(query, &service, &base, |_| true),
            [label] => self.endpoint(query, &service, label),
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix(b"_"), protocol.strip_prefix(b"_")) else {
                    return Found::Missing;
                };
                let is_wanted =
                    |have: &PortRecord| have.name.as_bytes() == port && have.protocol.as_bytes() == protocol;
                let is_known = match service.kind {
                    ServiceKind::Headless => {
                        service.endpoints.iter().any(|endpoint| endpoint.ports.iter().any(is_wanted))
                    }
                    _ => service.ports.iter().any(is_wanted),
                };
                if is_known { self.service(query, &service, &base, is_wanted) } else { Found::Missing }
            }
            _ => Found::Missing,
        }
    }

    fn service(
        &self,
        query: &Query,
        service: &ServiceRecord,
        base: &Name,
        is_wanted: impl Fn(&PortRecord) -> bool,
    ) -> Found {
        match &service.kind {
            ServiceKind::External(target) => match query.record_type {
                record_type::A | record_type::AAAA | record_type::CNAME => {
                    self.one(query, RecordData::Cname(target.clone()))
                }
                _ => NO_RECORDS,
            },
            ServiceKind::ClusterIp(addresses) if query.record_type == record_type::SRV => {
                let ports: Vec<u16> =
                    service.ports.iter().filter(|port| is_wanted(port)).map(|port| port.number).collect();
                let targets = ports.into_iter().map(|port| (base.clone(), port)).collect();
                let glue = |kind| self.addresses(base, kind, addresses.iter().copied());
                let additional = [glue(record_type::A), glue(record_type::AAAA)].concat();
                Found::Records(self.services(query, targets), additional)
            }
            ServiceKind::ClusterIp(addresses) => {
                Found::Records(self.addresses(&query.name, query.record_type, addresses.iter().copied()), Vec::new())
            }
            // Without a ready endpoint the name does not exist.
            ServiceKind::Headless if service.endpoints.is_empty() => Found::Missing,
            ServiceKind::Headless if query.record_type == record_type::SRV => {
                self.endpoint_services(query, &service.endpoints, base, is_wanted)
            }
            ServiceKind::Headless => {
                let has_port =
                    |endpoint: &&EndpointRecord| endpoint.ports.is_empty() || endpoint.ports.iter().any(&is_wanted);
                let addresses = service.endpoints.iter().filter(has_port).map(|endpoint| endpoint.address);
                Found::Records(self.addresses(&query.name, query.record_type, addresses), Vec::new())
            }
        }
    }

    fn endpoint_services(
        &self,
        query: &Query,
        endpoints: &[EndpointRecord],
        base: &Name,
        is_wanted: impl Fn(&PortRecord) -> bool,
    ) -> Found {
        let (mut targets, mut additional) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let Some(name) = base.prepend(&[endpoint.label.as_bytes()]) else { continue };
            let before = targets.len();
            let ports = endpoint.ports.iter().filter(|port| is_wanted(port));
            targets.extend(ports.map(|port| (name.clone(), port.number)));
            if targets.len() > before {
                additional.push(self.address(&name, endpoint.address));
            }
        }
        Found::Records(self.services(query, targets), additional)
    }

    fn endpoint(&self, query: &Query, service: &ServiceRecord, label: &[u8]) -> Found {
        let mut found = service.endpoints.iter().filter(|endpoint| endpoint.label.as_bytes() == label).peekable();
        if found.peek().is_none() {
            return Found::Missing;
        }
        if query.record_type == record_type::SRV {
            let endpoints: Vec<EndpointRecord> = found.cloned().collect();
            let targets = endpoints.iter().flat_map(|endpoint| endpoint.ports.iter());
            let targets = targets.map(|port| (query.name.clone(), port.number)).collect();
            let additional = endpoints.iter().map(|endpoint| self.address(&query.name, endpoint.address)).collect();
            return Found::Records(self.services(query, targets), additional);
        }
        let addresses = found.map(|endpoint| endpoint.address);
        Found::Records(self.addresses(&query.name, query.record_type, addresses), Vec::new())
    }

    fn services(&self, query: &Query, targets: Vec<(Name, u16)>) -> Vec<Record> {
        let weight = (WEIGHT_TOTAL / targets.len().max(1)).max(1) as u16;
        let record = |(target, port)| {
            let data = RecordData::Srv { priority: 0, weight, port, target };
            Record::new(query.name.clone(), self.config.ttl, data)
        };
        targets.into_iter().map(record).collect()
    }

    /// Address records of the type asked for; of any other type there are none.
    fn addresses(&self, name: &Name, kind: u16, addresses: impl Iterator<Item = IpAddr>) -> Vec<Record> {
        addresses
            .filter(|address| kind == if address.is_ipv4() { record_type::A } else { record_type::AAAA })
            .map(|address| self.address(name, address))
            .collect()
    }

    fn address(&self, name: &Name, address: IpAddr) -> Record {
        let data = match address {
            IpAddr::V4(address) => RecordData::A(address),
            IpAddr::V6(address) => RecordData::Aaaa(address),
        };
        Record::new(name.clone(), self.config.ttl, data)
    }

    fn reverse(&self, query: &Query) -> Found {
        let Some(address) = reverse_address(&query.name) else { return Found::Missing };
        let (Some(primary), names) = (self.config.primary(), self.index.names_of(address)) else {
            return Found::Missing;
        };
        // A service's own address has that one name; an endpoint's has one per service.
        let services: Vec<_> = names.iter().filter(|(_, label)| label.is_none()).collect();
        let names = if services.is_empty() { names.iter().collect() } else { services };
        if names.is_empty() {
            return Found::Missing;
        }
        if query.record_type != record_type::PTR {
            return NO_RECORDS;
        }
        let target = |(key, label): &(ObjectKey, Option<String>)| {
            let service: [&[u8]; 3] = [key.name.as_bytes(), key.namespace.as_bytes(), b"svc"];
            let base = primary.prepend(&service)?;
            let name = match label {
                Some(label) => base.prepend(&[label.as_bytes()])?,
                None => base,
            };
            Some(Record::new(query.name.clone(), self.config.ttl, RecordData::Ptr(name)))
        };
        Found::Records(names.into_iter().filter_map(target).collect(), Vec::new())
    }
}

/// `in-addr.arpa` or `ip6.arpa`, if the zone is within one of them.
pub fn reverse_suffix(zone: &Name) -> Option<&'static str> {
    let labels: Vec<&[u8]> = zone.labels().collect();
    match labels.as_slice() {
        [.., b"in-addr", b"arpa"] => Some("in-addr.arpa"),
        [.., b"ip6", b"arpa"] => Some("ip6.arpa"),
        _ => None,
    }
}

/// The address a reverse name stands for.
pub fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.labels().collect();
    match labels.as_slice() {
        [d, c, b, a, b"in-addr", b"arpa"] => {
            let octet = |label: &[u8]| std::str::from_utf8(label).ok()?.parse::<u8>().ok();
            Some(IpAddr::from([octet(a)?, octet(b)?, octet(c)?, octet(d)?]))
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let mut number = 0u128;
            for label in nibbles.iter().rev() {
                let digit = std::str::from_utf8(label).ok().filter(|text| text.len() == 1)?;
                number = (number << 4) | u128::from(u8::from_str_radix(digit, 16).ok()?);
            }
            Some(IpAddr::V6(number.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
    use serde_json::{Value, json};

    use super::*;

    fn add(index: &ClusterIndex, name: &str, spec: Value, endpoints: Value) {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({"metadata": {"name": "s"}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": endpoints}))
        .unwrap();
        let record = ServiceRecord::compile(&service, [&slice].into_iter(), false);
        index.set_service(&ObjectKey::new("default", name), record);
    }

    fn plugin() -> Kubernetes {
        let index = ClusterIndex::default();
        index.set_namespaces(["default", "empty"].into_iter());
        let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
        let endpoints = json!([{"addresses": ["10.42.0.5"]}, {"addresses": ["10.42.0.6"], "hostname": "web-1"}]);
        add(
            &index,
            "web",
            json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9", "fd00::9"], "ports": ports}),
            json!([]),
        );
        add(&index, "set", json!({"clusterIP": "None"}), endpoints);
        add(&index, "none", json!({"clusterIP": "None"}), json!([]));
        add(&index, "ext", json!({"type": "ExternalName", "externalName": "example.org"}), json!([]));
        let zones = ["cluster.local", "in-addr.arpa", "ip6.arpa"].map(|zone| zone.parse().unwrap()).to_vec();
        let config = KubernetesConfig {
            fallthrough: zones[1..].to_vec(),
            zones,
            pods: PodMode::Insecure,
            ttl: 5,
            endpoint_pod_names: false,
            namespaces: vec![],
            labels: None,
            kubeconfig: None,
        };
        index.set_synced_for_tests();
        Kubernetes { config, index: Arc::new(index) }
    }

    fn ask(plugin: &Kubernetes, name: &str, kind: u16) -> Option<Answer> {
        plugin.answer(&Query::new(1, name.parse().unwrap(), kind, true))
    }

    /// Data of all answers, in short; or the response code.
    fn data(name: &str, kind: u16) -> String {
        let answer = ask(&plugin(), name, kind).unwrap();
        if answer.rcode != Rcode::NO_ERROR {
            assert!(matches!(answer.authority[0].data, RecordData::Soa { .. }));
            return "NXDOMAIN".to_owned();
        }
        if answer.answers.is_empty() {
            assert!(matches!(answer.authority[0].data, RecordData::Soa { .. }));
            return "NODATA".to_owned();
        }
        let text = |record: &Record| match &record.data {
            RecordData::A(address) => address.to_string(),
            RecordData::Aaaa(address) => address.to_string(),
            RecordData::Srv { weight, port, target, .. } => format!("{weight} {port} {target}"),
            RecordData::Cname(name) | RecordData::Ptr(name) | RecordData::Ns(name) => name.to_string(),
            RecordData::Txt(texts) => String::from_utf8_lossy(&texts.concat()).into_owned(),
            other => format!("{other:?}"),
        };
        answer.answers.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn services_answer_by_name_and_port() {
        use record_type::{A, AAAA, CNAME, MX, SRV};
        assert_eq!(data("web.default.svc.cluster.local", A), "10.43.0.9");
        assert_eq!(data("WEB.default.svc.cluster.local", AAAA), "fd00::9");
        assert_eq!(data("web.default.svc.cluster.local", MX), "NODATA");
        assert_eq!(data("_http._tcp.web.default.svc.cluster.local", SRV), "100 80 web.default.svc.cluster.local.");
        assert_eq!(data("_http._udp.web.default.svc.cluster.local", SRV), "NXDOMAIN");
        assert_eq!(data("_tcp.web.default.svc.cluster.local", SRV), "NXDOMAIN");
        assert_eq!(data("ext.default.svc.cluster.local", A), "example.org.");
        assert_eq!(data("ext.default.svc.cluster.local", CNAME), "example.org.");
        let answer = ask(&plugin(), "_http._tcp.web.default.svc.cluster.local", SRV).unwrap();
        assert_eq!(answer.additional.len(), 2, "addresses of both families");
    }

    #[test]
    fn headless_services_answer_by_their_ready_endpoints() {
        use record_type::{A, AAAA, SRV};
        assert_eq!(data("set.default.svc.cluster.local", A), "10.42.0.5, 10.42.0.6");
        assert_eq!(data("set.default.svc.cluster.local", AAAA), "NODATA");
        assert_eq!(data("web-1.set.default.svc.cluster.local", A), "10.42.0.6");
        assert_eq!(data("10-42-0-5.set.default.svc.cluster.local", A), "10.42.0.5");
        assert_eq!(data("web-2.set.default.svc.cluster.local", A), "NXDOMAIN");
        assert_eq!(data("none.default.svc.cluster.local", A), "NXDOMAIN");
        assert_eq!(
            data("_dns._udp.set.default.svc.cluster.local", SRV),
            "50 53 10-42-0-5.set.default.svc.cluster.local., 50 53 web-1.set.default.svc.cluster.local."
        );
    }

    #[test]
    fn names_in_between_exist_without_records() {
        use record_type::{A, NS, TXT};
        for name in ["cluster.local", "svc.cluster.local", "default.svc.cluster.local", "empty.pod.cluster.local"] {
            assert_eq!(data(name, A), "NODATA", "{name}");
        }
        for name in [
            "nope.svc.cluster.local",
            "nope.default.svc.cluster.local",
            "a.b.c.d.e.f.g.cluster.local",
            "x.cluster.local",
        ] {
            assert_eq!(data(name, A), "NXDOMAIN", "{name}");
        }
        assert_eq!(data("dns-version.cluster.local", TXT), "1.1.0");
        assert_eq!(data("cluster.local", NS), "ns.dns.cluster.local.");
    }

    #[test]
    fn pods_and_addresses_have_names() {
        use record_type::{A, AAAA, PTR};
        assert_eq!(data("1-2-3-4.default.pod.cluster.local", A), "1.2.3.4");
        assert_eq!(data("fd00--5.default.pod.cluster.local", AAAA), "fd00::5");
        assert_eq!(data("1-2-3-4.nope.pod.cluster.local", A), "NXDOMAIN");
        assert_eq!(data("9.0.43.10.in-addr.arpa", PTR), "web.default.svc.cluster.local.");
        assert_eq!(data("6.0.42.10.in-addr.arpa", PTR), "web-1.set.default.svc.cluster.local.");
        let nibbles = "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(data(nibbles, PTR), "web.default.svc.cluster.local.");
        assert!(ask(&plugin(), "1.1.1.1.in-addr.arpa", PTR).is_none(), "falls through");
        assert!(ask(&plugin(), "example.org", A).is_none(), "another's zone");
    }

    #[test]
    fn before_the_first_sync_missing_names_are_failures() {
        let index = Arc::new(ClusterIndex::default());
        let plugin = Kubernetes { index, ..plugin() };
        assert_eq!(ask(&plugin, "web.default.svc.cluster.local", 1).unwrap().rcode, Rcode::SERVER_FAILURE);
    }
}
