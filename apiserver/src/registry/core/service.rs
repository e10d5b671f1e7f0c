//! Services: defaults, what depends on the type, and validation. Addresses
//! and node ports come from the pools in [`super::service_ip`].

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::{Cause, Status};

use super::{
    endpoints::endpoint_ip,
    pod::containers::{int_or_name_port, port_number},
    service_ip::ServicePools,
};
use crate::registry::{
    names,
    strategy::{Allocation, Operation, RequestContext, Strategy},
    validation::{Errors, Path, Shown, formats, meta},
    value::{child, copy_field, default, default_text, field, int, items, list, remove, same, set, text},
};

const SUPPORTED_TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const HEADLESS: &str = "None";
/// Default seconds of client IP affinity: three hours.
const AFFINITY_SECONDS: i64 = 10800;
const AFFINITY_SECONDS_MAX: i64 = 86400;

pub struct ServiceStrategy {
    pools: Arc<ServicePools>,
}

impl ServiceStrategy {
    pub fn new(pools: Arc<ServicePools>) -> ServiceStrategy {
        ServiceStrategy { pools }
    }
}

/// Whether the type has a virtual address.
pub fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, "type"), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether the type has ports on every node.
pub fn needs_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => field(spec, "allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true),
        _ => false,
    }
}

pub fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == HEADLESS
}

fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn is_external(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty()
}

#[async_trait]
impl Strategy for ServiceStrategy {
    fn default(&self, op: Operation<'_>, object: &mut Value) {
        defaults(object);
        if op.is_create() {
            let status = child(object, "status");
            default(status, "loadBalancer", json!({}));
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        match op {
            Operation::Create => {
                set(object, "status", json!({"loadBalancer": {}}));
                sync_cluster_ips(child(object, "spec"), None);
            }
            Operation::Update { old } => {
                let spec = child(object, "spec");
                sync_cluster_ips(spec, Some(&old["spec"]));
                keep_allocated(spec, &old["spec"]);
                drop_type_dependent(spec, &old["spec"]);
            }
            _ => {}
        }
        if matches!(op, Operation::Create | Operation::Update { .. }) {
            families(child(object, "spec"), self.pools.families());
        }
    }

    async fn allocate(
        &self,
        context: &RequestContext<'_>,
        op: Operation<'_>,
        object: &mut Value,
    ) -> Result<Option<Box<dyn Allocation>>, Status> {
        match op {
            Operation::Create => self.pools.allocate(context, None, object).await,
            Operation::Update { old } => self.pools.allocate(context, Some(old), object).await,
            _ => Ok(None),
        }
    }

    fn released(&self, object: &Value) {
        self.pools.release(object);
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        match op {
            Operation::Create => validate(&mut errors, object),
            Operation::Update { old } => {
                validate(&mut errors, object);
                validate_update(&mut errors, &object["spec"], &old["spec"]);
            }
            Operation::Status { .. } => load_balancer_status(&mut errors, object),
            _ => {}
        }
        errors.into_causes()
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1035_label(name, prefix)
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

fn defaults(object: &mut Value) {
    let spec = child(object, "spec");
    default_text(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => drop(remove(spec, "sessionAffinityConfig")),
        "ClientIP" => {
            default(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", AFFINITY_SECONDS)
        }
        _ => {}
    }
    default_text(spec, "type", "ClusterIP");
    for port in items(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let unset = match &port["targetPort"] {
            Value::String(name) => name.is_empty(),
            other => other.as_i64().unwrap_or(0) == 0,
        };
        if unset {
            copy_port(port);
        }
    }
    if is_external(spec) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if needs_cluster_ip(spec) {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn copy_port(port: &mut Value) {
    let number = port["port"].clone();
    set(port, "targetPort", number);
}

/// `clusterIP` is the first of `clusterIPs`; whichever the client changed wins.
fn sync_cluster_ips(spec: &mut Value, old: Option<&Value>) {
    let one = text(spec, "clusterIP").to_owned();
    let many = !list(spec, "clusterIPs").is_empty();
    let unchanged = old.is_some_and(|old| same(spec, old, "clusterIPs"));
    if one.is_empty() {
        match (many, unchanged) {
            (true, true) => drop(remove(spec, "clusterIPs")),
            (true, false) => {
                let first = spec["clusterIPs"][0].clone();
                set(spec, "clusterIP", first);
            }
            _ => {}
        }
    } else if !many || (unchanged && old.is_some_and(|old| text(old, "clusterIP") != one)) {
        set(spec, "clusterIPs", json!([one]));
    }
}

/// Clients that replace a service without its allocated values keep them.
fn keep_allocated(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(spec) && needs_cluster_ip(old) {
        if text(spec, "clusterIP").is_empty() {
            copy_field(spec, old, "clusterIP");
        }
        if list(spec, "clusterIPs").is_empty() && text(spec, "clusterIP") == text(old, "clusterIP") {
            copy_field(spec, old, "clusterIPs");
        }
    }
    if needs_node_ports(spec) && needs_node_ports(old) {
        keep_node_ports(spec, old);
    }
    if needs_health_check(spec) && needs_health_check(old) && int(spec, "healthCheckNodePort").unwrap_or(0) == 0 {
        copy_field(spec, old, "healthCheckNodePort");
    }
}

fn keep_node_ports(spec: &mut Value, old: &Value) {
    let number = |port: &Value| int(port, "nodePort").unwrap_or(0);
    let old_ports = list(old, "ports");
    let mut used: Vec<i64> = list(spec, "ports")
        .iter()
        .map(number)
        .filter(|n| *n != 0 && old_ports.iter().any(|old| number(old) == *n))
        .collect();
    for port in items(spec, "ports") {
        if number(port) != 0 {
            continue;
        }
        let before = old_ports.iter().find(|old| text(old, "name") == text(port, "name")).map_or(0, number);
        if before != 0 && !used.contains(&before) {
            set(port, "nodePort", before);
            used.push(before);
        }
    }
}

/// A change of type takes away what only the old type has, unless the client changed it too.
fn drop_type_dependent(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        if same(spec, old, "clusterIP") && same(spec, old, "clusterIPs") {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        for name in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if same(spec, old, name) {
                remove(spec, name);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(spec) {
        let numbers = |spec: &Value| {
            list(spec, "ports").iter().map(|port| int(port, "nodePort").unwrap_or(0)).collect::<Vec<_>>()
        };
        if numbers(spec).iter().all(|number| *number == 0 || numbers(old).contains(number)) {
            for port in items(spec, "ports") {
                remove(port, "nodePort");
            }
        }
    }
    let drop_if = |gone: bool, spec: &mut Value, name: &str| {
        if gone && same(spec, old, name) {
            remove(spec, name);
        }
    };
    let was_balancer = text(old, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer";
    drop_if(was_balancer, spec, "allocateLoadBalancerNodePorts");
    drop_if(was_balancer, spec, "loadBalancerClass");
    let no_longer_external = is_external(old) && !is_external(spec);
    drop_if(no_longer_external, spec, "externalTrafficPolicy");
    let no_health_check = needs_health_check(old) && !needs_health_check(spec);
    drop_if(no_health_check, spec, "healthCheckNodePort");
}

/// Fills `ipFamilyPolicy` and `ipFamilies` from what the cluster has (primary first).
fn families(spec: &mut Value, cluster: &[&'static str]) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let Some(primary) = cluster.first() else { return };
    let bare = is_headless(spec) && spec["selector"].as_object().is_none_or(|selector| selector.is_empty());
    if bare {
        default_text(spec, "ipFamilyPolicy", "RequireDualStack");
    }
    let from_ips: Vec<Value> = list(spec, "clusterIPs")
        .iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .map(family)
        .map(Value::from)
        .collect();
    let several = from_ips.len() > 1 || list(spec, "ipFamilies").len() > 1;
    default_text(spec, "ipFamilyPolicy", if several { "RequireDualStack" } else { "SingleStack" });
    if list(spec, "ipFamilies").is_empty() {
        set(spec, "ipFamilies", if from_ips.is_empty() { json!([primary]) } else { Value::Array(from_ips) });
    }
    let dual = text(spec, "ipFamilyPolicy") != "SingleStack" && (cluster.len() > 1 || bare);
    if dual && list(spec, "ipFamilies").len() == 1 {
        let other = if spec["ipFamilies"][0] == "IPv4" { "IPv6" } else { "IPv4" };
        set(spec, "ipFamilies", json!([spec["ipFamilies"][0], other]));
    }
}

/// The name of an address family.
pub fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn validate(errors: &mut Errors, object: &Value) {
    let path = Path::new("spec");
    let spec = &object["spec"];
    let kind = text(spec, "type");
    if list(spec, "ports").is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    errors.one_of(&path.child("type"), kind, &SUPPORTED_TYPES);
    by_type(errors, &path, spec);
    ports(errors, &path.child("ports"), spec);
    meta::labels(errors, &path.child("selector"), &spec["selector"]);
    affinity(errors, &path, spec);
    cluster_ips(errors, &path, spec);
    let external = path.child("externalIPs");
    for (i, ip) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        endpoint_ip(errors, &external.index(i), ip);
    }
    let ranges = path.child("loadBalancerSourceRanges");
    if !list(spec, "loadBalancerSourceRanges").is_empty() && kind != "LoadBalancer" {
        errors.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
    }
    for (i, range) in list(spec, "loadBalancerSourceRanges").iter().filter_map(Value::as_str).enumerate() {
        errors.invalid_all(&ranges.index(i), range, formats::cidr(range.trim()));
    }
    policies(errors, &path, spec);
}

fn by_type(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    match text(spec, "type") {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let kind = text(spec, "type");
            errors.invalid(
                &path.child("clusterIPs").index(0),
                HEADLESS,
                format!("may not be set to 'None' for {kind} services"),
            );
        }
        "ExternalName" => {
            if !list(spec, "clusterIPs").is_empty() {
                errors.forbidden(&path.child("clusterIPs"), "may not be set for ExternalName services");
            }
            match text(spec, "externalName") {
                "" => errors.required(&path.child("externalName"), ""),
                name => errors.invalid_all(
                    &path.child("externalName"),
                    name,
                    formats::dns_subdomain(name.trim_end_matches('.')),
                ),
            }
        }
        _ => {}
    }
    if text(spec, "type") != "LoadBalancer" {
        for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if field(spec, name).is_some() {
                errors.forbidden(&path.child(name), "may only be used when `type` is 'LoadBalancer'");
            }
        }
    }
}

fn ports(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let ports = list(spec, "ports");
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&path.child("name"), "");
            }
        } else {
            errors.invalid_all(&path.child("name"), name, formats::dns_label(name));
            if ports[..i].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        port_number(errors, &path.child("port"), int(port, "port").unwrap_or(0));
        errors.one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        int_or_name_port(errors, &path.child("targetPort"), &port["targetPort"]);
        if let Some(protocol) = field(port, "appProtocol").and_then(Value::as_str) {
            errors.invalid_all(&path.child("appProtocol"), protocol, formats::qualified_name(protocol));
        }
        let same = |other: &Value| same(other, port, "port") && same(other, port, "protocol");
        if ports[..i].iter().any(same) {
            let (empty, zero, null) = (json!(""), json!(0), Value::Null);
            let (protocol, number) = (&port["protocol"], &port["port"]);
            let key = [("Name", &empty), ("Protocol", protocol), ("AppProtocol", &null)];
            let key = [&key[..], &[("Port", number), ("TargetPort", &zero), ("NodePort", &zero)]].concat();
            errors.duplicate(&path, Shown::Structure(&key));
        }
        node_port(errors, &path, spec, port, &ports[..i]);
    }
}

fn node_port(errors: &mut Errors, path: &Path<'_>, spec: &Value, port: &Value, before: &[Value]) {
    let number = int(port, "nodePort").unwrap_or(0);
    if number == 0 {
        return;
    }
    match text(spec, "type") {
        "ClusterIP" => errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'"),
        "ExternalName" => errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ExternalName'"),
        _ => {}
    }
    if before.iter().any(|other| same(other, port, "nodePort") && same(other, port, "protocol")) {
        errors.duplicate(&path.child("nodePort"), number);
    }
}

fn affinity(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    errors.one_of(&path.child("sessionAffinity"), text(spec, "sessionAffinity"), &["ClientIP", "None"]);
    let config = &spec["sessionAffinityConfig"];
    let config_path = path.child("sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let seconds = int(&config["clientIP"], "timeoutSeconds").unwrap_or(0);
            if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
                errors.invalid(
                    &config_path.child("clientIP").child("timeoutSeconds"),
                    seconds,
                    format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
                );
            }
        }
        "None" if !config.is_null() => {
            errors.forbidden(&config_path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn cluster_ips(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let ips = list(spec, "clusterIPs");
    let ips_path = path.child("clusterIPs");
    if ips.len() > 2 {
        errors.too_many(&ips_path, ips.len(), 2);
    }
    for (i, ip) in ips.iter().filter_map(Value::as_str).enumerate() {
        if ip == HEADLESS {
            if ips.len() > 1 {
                errors.invalid(&ips_path.index(i), ip, "'None' must be the first and only value");
            }
            continue;
        }
        errors.invalid_all(&ips_path.index(i), ip, formats::ip_address(ip));
    }
    if let Some(first) = ips.first().and_then(Value::as_str)
        && first != text(spec, "clusterIP")
    {
        errors.invalid(&path.child("clusterIP"), text(spec, "clusterIP"), "must match spec.clusterIPs[0]");
    }
}

fn policies(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let external = text(spec, "externalTrafficPolicy");
    if is_external(spec) {
        errors.one_of(&path.child("externalTrafficPolicy"), external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        errors.invalid(
            &path.child("externalTrafficPolicy"),
            external,
            "may only be set for externally-accessible services",
        );
    }
    if let Some(internal) = field(spec, "internalTrafficPolicy").and_then(Value::as_str)
        && !["Cluster", "Local"].contains(&internal)
    {
        errors.not_supported(&path.child("internalTrafficPolicy"), internal, &["Cluster", "Local"]);
    }
    let health_port = int(spec, "healthCheckNodePort").unwrap_or(0);
    if health_port != 0 && !needs_health_check(spec) {
        errors.invalid(
            &path.child("healthCheckNodePort"),
            health_port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
}

fn validate_update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let primary = |spec: &Value| list(spec, "clusterIPs").first().cloned().unwrap_or(Value::Null);
    if needs_cluster_ip(new) && needs_cluster_ip(old) && !primary(old).is_null() && primary(new) != primary(old) {
        errors.invalid(&path.child("clusterIPs").index(0), &new["clusterIPs"], "may not change once set");
    }
    let balancers = text(new, "type") == "LoadBalancer" && text(old, "type") == "LoadBalancer";
    if balancers && !same(new, old, "loadBalancerClass") {
        errors.invalid(&path.child("loadBalancerClass"), &new["loadBalancerClass"], "may not change once set");
    }
    if needs_health_check(new) && needs_health_check(old) && !same(new, old, "healthCheckNodePort") {
        errors.invalid(&path.child("healthCheckNodePort"), &new["healthCheckNodePort"], "field is immutable");
    }
}

fn load_balancer_status(errors: &mut Errors, object: &Value) {
    let status = Path::new("status");
    let balancer = status.child("loadBalancer");
    let ingress = balancer.child("ingress");
    for (i, point) in list(&object["status"]["loadBalancer"], "ingress").iter().enumerate() {
        let path = ingress.index(i);
        let (ip, hostname) = (text(point, "ip"), text(point, "hostname"));
        if !ip.is_empty() {
            errors.invalid_all(&path.child("ip"), ip, formats::ip_address(ip));
        }
        if !hostname.is_empty() {
            errors.invalid_all(&path.child("hostname"), hostname, formats::dns_subdomain(hostname));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    fn service(spec: Value) -> Value {
        let mut object = json!({"spec": spec});
        defaults(&mut object);
        object
    }

    fn check(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&mut errors, &service(spec));
        lines(errors.into_causes())
    }

    #[test]
    fn a_plain_service_gets_upstreams_defaults() {
        let object = service(json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP"}));
        assert_eq!(
            object["spec"],
            json!({"type": "ClusterIP", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
        let mut spec = object["spec"].clone();
        families(&mut spec, &["IPv4"]);
        assert_eq!(
            (spec["ipFamilyPolicy"].clone(), spec["ipFamilies"].clone()),
            (json!("SingleStack"), json!(["IPv4"]))
        );
    }

    #[test]
    fn wrong_services_get_upstreams_errors() {
        assert_eq!(check(json!({})), ["spec.ports: Required value"]);
        assert_eq!(check(json!({"clusterIP": "None", "clusterIPs": ["None"]})), Vec::<String>::new());
        assert_eq!(
            check(json!({"ports": [{"port": 80}, {"port": 81, "name": "a"}]})),
            ["spec.ports[0].name: Required value"]
        );
        assert_eq!(
            check(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
        );
        assert_eq!(check(json!({"type": "ExternalName"})), ["spec.externalName: Required value"]);
        assert_eq!(
            check(json!({"type": "X", "ports": [{"port": 1}]})),
            [
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
            ]
        );
    }

    #[test]
    fn a_replaced_service_keeps_what_was_allocated() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}]}))["spec"]
            .clone();
        let mut new = service(json!({"type": "NodePort", "ports": [{"name": "a", "port": 81}]}))["spec"].clone();
        sync_cluster_ips(&mut new, Some(&old));
        keep_allocated(&mut new, &old);
        assert_eq!(new["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(new["ports"][0]["nodePort"], 30001);
        set(&mut new, "type", "ExternalName");
        drop_type_dependent(&mut new, &old);
        assert!(new.get("clusterIP").is_none() && new["ports"][0].get("nodePort").is_none());
    }

    #[test]
    fn the_primary_address_stays() {
        let mut errors = Errors::new();
        let spec = |ip: &str| json!({"type": "ClusterIP", "clusterIPs": [ip]});
        validate_update(&mut errors, &spec("10.0.0.2"), &spec("10.0.0.1"));
        assert_eq!(
            lines(errors.into_causes()),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
    }
}
