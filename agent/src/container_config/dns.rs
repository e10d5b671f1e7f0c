//! Name resolution of pods.

use k8s_openapi::api::core::v1::Pod;

use crate::{cri::v1, pods::spec};

const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;

/// Cluster-wide settings and the host's own `resolv.conf`.
#[derive(Clone, Debug, Default)]
pub struct DnsSettings {
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// Text of the host's file.
    pub host_resolv_conf: String,
}

/// What a pod's `resolv.conf` holds.
pub fn dns_config(pod: &Pod, settings: &DnsSettings) -> v1::DnsConfig {
    let pod_spec = spec::spec(pod);
    let host = parse(&settings.host_resolv_conf);
    let cluster_first = match pod_spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" => !spec::is_host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    } && !settings.cluster_dns.is_empty();
    let mut config = if pod_spec.dns_policy.as_deref() == Some("None") {
        v1::DnsConfig::default()
    } else if cluster_first {
        let domain = &settings.cluster_domain;
        let namespace = spec::namespace(pod);
        let mut searches = Vec::new();
        if !domain.is_empty() {
            searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        }
        for search in host.searches {
            if !searches.contains(&search) {
                searches.push(search);
            }
        }
        v1::DnsConfig { servers: settings.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        host
    };
    if let Some(own) = &pod_spec.dns_config {
        append(&mut config.servers, own.nameservers.iter().flatten().cloned());
        append(&mut config.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|have| have.split(':').next() != Some(&name));
            config.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    bounded(config)
}

fn append(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn bounded(mut config: v1::DnsConfig) -> v1::DnsConfig {
    config.servers.truncate(SERVERS_MAX);
    config.searches.truncate(SEARCHES_MAX);
    while config.searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        config.searches.pop();
    }
    config
}

/// Reads a `resolv.conf`; the last `search` line counts.
fn parse(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                config.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect();
                config.searches.retain(|search| !search.is_empty());
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> DnsSettings {
        DnsSettings {
            cluster_dns: vec!["10.43.0.10".into()],
            cluster_domain: "cluster.local".into(),
            host_resolv_conf: "# c\nnameserver 1.1.1.1\nsearch corp.example.\noptions timeout:1\n".into(),
        }
    }

    fn config(spec: serde_json::Value) -> v1::DnsConfig {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        dns_config(&serde_json::from_value(pod).unwrap(), &settings())
    }

    #[test]
    fn policies_choose_between_cluster_and_host() {
        let cluster = config(json!({"containers": []}));
        assert_eq!(cluster.servers, ["10.43.0.10"]);
        assert_eq!(cluster.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
        assert_eq!(cluster.options, ["ndots:5"]);
        for spec in [json!({"containers": [], "dnsPolicy": "Default"}), json!({"containers": [], "hostNetwork": true})]
        {
            assert_eq!(config(spec).servers, ["1.1.1.1"]);
        }
        let both = config(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}));
        assert_eq!(both.servers, ["10.43.0.10"]);
    }

    #[test]
    fn own_settings_are_added_and_options_replaced() {
        let own = config(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["9.9.9.9"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!(
            (own.servers, own.searches, own.options),
            (vec!["9.9.9.9".to_owned()], vec!["a".to_owned()], vec!["ndots:2".to_owned(), "edns0".to_owned()])
        );
        let merged = config(json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}));
        assert_eq!(merged.options, ["ndots:1"]);
    }
}
