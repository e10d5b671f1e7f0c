//! Tables of services, endpoints, ingresses and their kin.

use serde_json::Value;

use super::{Refine, age, computed, items, labels, name, selector, shortened, str_at, text};
use crate::resource::Column;

/// Addresses shown before the rest is counted.
const SHOWN_MAX: usize = 3;

pub(crate) fn services() -> Vec<Column> {
    vec![
        name(),
        text("Type", "/spec/type"),
        computed("Cluster-IP", |service, _| {
            let first = str_at(service, "/spec/clusterIPs/0");
            if first.is_empty() { str_at(service, "/spec/clusterIP").into() } else { first.into() }
        })
        .or("<none>"),
        computed("External-IP", |service, _| external_ip(service).into()),
        computed("Port(s)", |service, _| service_ports(service).into()).or("<none>"),
        age(),
        computed("Selector", |service, _| labels(service.pointer("/spec/selector")).into()).wide(),
    ]
}

fn external_ip(service: &Value) -> String {
    let external: Vec<&str> = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match str_at(service, "/spec/type") {
        "ExternalName" => str_at(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let mut addresses = ingress_addresses(service);
            addresses.extend(external.into_iter().map(str::to_owned));
            if addresses.is_empty() { "<pending>".to_owned() } else { addresses.join(",") }
        }
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external.join(","),
    }
}

/// Addresses or names of `status.loadBalancer`, sorted, without repetition.
fn ingress_addresses(object: &Value) -> Vec<String> {
    let entries = items(object, "/status/loadBalancer/ingress").iter();
    let mut addresses: Vec<String> = entries
        .map(|entry| match str_at(entry, "/ip") {
            "" => str_at(entry, "/hostname").to_owned(),
            ip => ip.to_owned(),
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn service_ports(service: &Value) -> String {
    let ports = items(service, "/spec/ports").iter().map(|port| {
        let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
        let protocol = str_at(port, "/protocol");
        match port.get("nodePort").and_then(Value::as_i64).unwrap_or_default() {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    });
    ports.collect::<Vec<_>>().join(",")
}

pub(crate) fn endpoints() -> Vec<Column> {
    vec![name(), computed("Endpoints", |endpoints, _| endpoint_list(endpoints).into()), age()]
}

fn endpoint_list(endpoints: &Value) -> String {
    let mut texts = Vec::new();
    for subset in items(endpoints, "/subsets") {
        let addresses = items(subset, "/addresses").iter().map(|address| str_at(address, "/ip"));
        let ports = items(subset, "/ports");
        for ip in addresses {
            if ports.is_empty() {
                texts.push(ip.to_owned());
            }
            for port in ports {
                texts.push(host_port(ip, port.get("port").and_then(Value::as_i64).unwrap_or_default()));
            }
        }
    }
    shortened(&texts, SHOWN_MAX, "<none>")
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(crate) fn endpoint_slices() -> Vec<Column> {
    vec![
        name(),
        text("AddressType", "/addressType"),
        computed("Ports", |slice, _| {
            let number = |port: &Value| port.get("port").map_or("*".to_owned(), ToString::to_string);
            let ports: Vec<String> = items(slice, "/ports").iter().map(number).collect();
            shortened(&ports, SHOWN_MAX, "<unset>").into()
        }),
        computed("Endpoints", |slice, _| {
            let addresses = items(slice, "/endpoints").iter().flat_map(|endpoint| items(endpoint, "/addresses"));
            let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
            shortened(&addresses, SHOWN_MAX, "<unset>").into()
        }),
        age(),
    ]
}

pub(crate) fn ingresses() -> Vec<Column> {
    vec![
        name(),
        text("Class", "/spec/ingressClassName").or("<none>"),
        computed("Hosts", |ingress, _| {
            let hosts = items(ingress, "/spec/rules").iter().map(|rule| str_at(rule, "/host").to_owned());
            let hosts: Vec<String> = hosts.filter(|host| !host.is_empty()).collect();
            shortened(&hosts, SHOWN_MAX, "*").into()
        }),
        computed("Address", |ingress, _| ingress_addresses(ingress).join(",").into()),
        computed("Ports", |ingress, _| {
            let plain = items(ingress, "/spec/tls").is_empty();
            if plain { "80" } else { "80, 443" }.into()
        }),
        age(),
    ]
}

pub(crate) fn ingress_classes() -> Vec<Column> {
    vec![
        name(),
        text("Controller", "/spec/controller"),
        computed("Parameters", |class, _| {
            let Some(parameters) = class.pointer("/spec/parameters") else { return Value::Null };
            let kind = str_at(parameters, "/kind");
            match str_at(parameters, "/apiGroup") {
                "" => format!("{kind}/{}", str_at(parameters, "/name")).into(),
                group => format!("{kind}.{group}/{}", str_at(parameters, "/name")).into(),
            }
        })
        .or("<none>"),
        age(),
    ]
}

pub(crate) fn network_policies() -> Vec<Column> {
    vec![name(), computed("Pod-Selector", |policy, _| selector(policy.pointer("/spec/podSelector")).into()), age()]
}

pub(crate) fn ip_addresses() -> Vec<Column> {
    vec![
        name(),
        computed("ParentRef", |address, _| {
            let Some(parent) = address.pointer("/spec/parentRef").filter(|parent| parent.is_object()) else {
                return Value::Null;
            };
            let resource = str_at(parent, "/resource").to_lowercase();
            let resource = match str_at(parent, "/group") {
                "" => resource,
                group => format!("{resource}.{}", group.to_lowercase()),
            };
            match str_at(parent, "/namespace") {
                "" => format!("{resource}/{}", str_at(parent, "/name")).into(),
                namespace => format!("{resource}/{namespace}/{}", str_at(parent, "/name")).into(),
            }
        })
        .or("<none>"),
    ]
}

pub(crate) fn service_cidrs() -> Vec<Column> {
    vec![
        name(),
        computed("CIDRs", |cidr, _| {
            items(cidr, "/spec/cidrs").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",").into()
        }),
        age(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{meta, row};
    use serde_json::json;

    #[test]
    fn services_show_addresses_by_type() {
        let service = |kind: &str, more: serde_json::Value| {
            let mut object = json!({"metadata": meta("s"), "spec": {"type": kind, "clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"],
                "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}});
            object["status"] = more;
            row("", "v1", "services", object)
        };
        assert_eq!(
            service("ClusterIP", json!({})),
            ["s", "ClusterIP", "10.43.0.1", "<none>", "80:30080/TCP,53/UDP", "60s", "<none>"]
        );
        assert_eq!(service("LoadBalancer", json!({}))[3], "<pending>");
        assert_eq!(
            service("LoadBalancer", json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "h"}]}}))[3],
            "1.2.3.4,h"
        );
        let headless = json!({"metadata": meta("s"), "spec": {"type": "ExternalName", "externalName": "a.b"}});
        assert_eq!(row("", "v1", "services", headless)[1..5], ["ExternalName", "<none>", "a.b", "<none>"]);
    }

    #[test]
    fn long_address_lists_are_counted() {
        let addresses: Vec<_> = (1..6).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let endpoints = json!({"metadata": meta("e"), "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        assert_eq!(row("", "v1", "endpoints", endpoints)[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        assert_eq!(row("", "v1", "endpoints", json!({}))[1], "<none>");
        let slice = json!({"metadata": meta("e"), "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
        assert_eq!(row("discovery.k8s.io", "v1", "endpointslices", slice), ["e", "IPv4", "80", "10.0.0.1", "60s"]);
    }

    #[test]
    fn ingresses_show_hosts_and_ports() {
        let ingress = json!({"metadata": meta("i"), "spec": {"rules": [{"host": "a"}, {"host": "b"}], "tls": [{}]}});
        assert_eq!(row("networking.k8s.io", "v1", "ingresses", ingress), ["i", "<none>", "a,b", "", "80, 443", "60s"]);
    }
}
