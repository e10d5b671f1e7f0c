//! `/etc/hosts` of containers and the names of pods.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pods::spec;

/// Longest host name the kernel takes for a pod.
const HOSTNAME_LEN_MAX: usize = 63;

/// Host name and domain of a pod (the domain is empty without a subdomain).
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let pod_spec = spec::spec(pod);
    if let Some(name) = pod_spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let name = pod_spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or_else(|| spec::name(pod));
    let cut: String = name.chars().take(HOSTNAME_LEN_MAX).collect();
    let hostname = cut.trim_end_matches(['-', '.']).to_owned();
    let domain = match pod_spec.subdomain.as_deref().filter(|name| !name.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    (hostname, domain)
}

/// What the sandbox gets as host name.
pub fn sandbox_hostname(pod: &Pod, cluster_domain: &str) -> String {
    if spec::is_host_network(pod) && spec::spec(pod).hostname_override.is_none() {
        return String::new();
    }
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    if spec::spec(pod).set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        return format!("{hostname}.{domain}");
    }
    hostname
}

/// The file of a pod with its own network.
pub fn managed(pod: &Pod, ips: &[IpAddr], cluster_domain: &str) -> String {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{hostname}\n"));
        } else {
            text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
        }
    }
    text + &aliases(spec::spec(pod).host_aliases.as_deref().unwrap_or_default())
}

/// The file of a pod on the host's network: the host's own, and the aliases.
pub fn host_network(pod: &Pod, host_file: &str) -> String {
    let aliases = aliases(spec::spec(pod).host_aliases.as_deref().unwrap_or_default());
    format!("# Kubernetes-managed hosts file (host network).\n{host_file}{aliases}")
}

fn aliases(list: &[HostAlias]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let lines = list.iter().map(|alias| {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        format!("{}\t{names}\n", alias.ip)
    });
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_file_starts_with_upstreams_line_and_names_the_pod() {
        let pod = pod(json!({"containers": [], "subdomain": "sub",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = managed(&pod, &["10.0.0.5".parse().unwrap()], "cluster.local");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("10.0.0.5\tweb-0.sub.n.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        assert!(host_network(&pod, "x\n").starts_with("# Kubernetes-managed hosts file (host network).\nx\n"));
    }

    #[test]
    fn long_names_are_cut_and_end_in_a_letter() {
        let mut long = pod(json!({"containers": []}));
        long.metadata.name = Some(format!("{}-x", "a".repeat(62)));
        assert_eq!(sandbox_hostname(&long, "d"), "a".repeat(62));
        let fqdn = pod(json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(sandbox_hostname(&fqdn, "d"), "web-0.s.n.svc.d");
        assert_eq!(sandbox_hostname(&pod(json!({"containers": [], "hostNetwork": true})), "d"), "");
    }
}
