//! The downward API: facts of a pod and its resources as text.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use super::ConfigError;
use crate::{pods::spec, quantity};

/// What the node adds to a pod's own facts.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub host_ips: Vec<IpAddr>,
    pub pod_ips: Vec<IpAddr>,
    /// Stand in for limits that a container does not set.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, path: &str, facts: &NodeFacts) -> Result<String, ConfigError> {
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(unsupported(path)),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let addresses = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => addresses(&facts.host_ips).into_iter().next().unwrap_or_default(),
        "status.hostIPs" => addresses(&facts.host_ips).join(","),
        "status.podIP" => addresses(&facts.pod_ips).into_iter().next().unwrap_or_default(),
        "status.podIPs" => addresses(&facts.pod_ips).join(","),
        _ => return Err(unsupported(path)),
    })
}

fn unsupported(path: &str) -> ConfigError {
    ConfigError(format!("unsupported fieldPath: {path}"))
}

/// `metadata.labels['key']` in its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// One `key="value"` per line, sorted, with the escapes of Go's `%q`.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            control if control.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef` for a container.
pub fn resource(
    selector: &ResourceFieldSelector,
    container: &Container,
    facts: &NodeFacts,
) -> Result<String, ConfigError> {
    let (side, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| ConfigError(format!("unsupported container resource: {}", selector.resource)))?;
    let resources = container.resources.clone().unwrap_or_default();
    let allocatable = || facts.allocatable.get(name).cloned();
    let limit = resources.limits.as_ref().and_then(|limits| limits.get(name)).cloned();
    let request = resources.requests.as_ref().and_then(|requests| requests.get(name)).cloned();
    let nonzero = |quantity: &Quantity| quantity::milli(quantity).is_some_and(|milli| milli != 0);
    let found = match side {
        "limits" => limit.filter(nonzero).or_else(allocatable),
        "requests" => request,
        _ => return Err(ConfigError(format!("unsupported container resource: {}", selector.resource))),
    };
    let Some(found) = found else { return Ok("0".to_owned()) };
    let divisor = selector.divisor.as_ref().and_then(quantity::milli).filter(|divisor| *divisor > 0).unwrap_or(1000);
    let milli = i128::from(quantity::milli(&found).unwrap_or_default());
    // Memory in thousandths overflows 64 bits of milli early, so large values take the whole units.
    let scaled = match quantity::value(&found) {
        Some(value) if name != "cpu" => i128::from(value) * 1000,
        _ => milli,
    };
    let divisor = i128::from(divisor);
    Ok((scaled.div_euclid(divisor) + i128::from(scaled.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_pod_are_read() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n",
            "labels": {"b": "x\"y", "a": "1\n2"}}, "spec": {"containers": [], "nodeName": "node"}}))
        .unwrap();
        let facts = NodeFacts { pod_ips: vec!["10.0.0.1".parse().unwrap()], ..NodeFacts::default() };
        let get = |path| field(&pod, path, &facts).unwrap();
        assert_eq!(get("metadata.labels['a']"), "1\n2");
        assert_eq!(get("metadata.labels"), "a=\"1\\n2\"\nb=\"x\\\"y\"");
        assert_eq!(get("status.podIP"), "10.0.0.1");
        assert_eq!(get("spec.nodeName"), "node");
        assert!(field(&pod, "spec.foo", &facts).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up_and_fall_back_to_the_node() {
        let container: Container = serde_json::from_value(json!({"name": "c", "resources": {
            "limits": {"cpu": "1250m"}, "requests": {"memory": "32Mi"}}}))
        .unwrap();
        let facts =
            NodeFacts { allocatable: [("memory".to_owned(), Quantity("64Gi".into()))].into(), ..NodeFacts::default() };
        let get = |resource: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                resource: resource.into(),
                divisor: divisor.map(|divisor| Quantity(divisor.into())),
                container_name: None,
            };
            super::resource(&selector, &container, &facts).unwrap()
        };
        assert_eq!(get("limits.cpu", None), "2");
        assert_eq!(get("limits.cpu", Some("1m")), "1250");
        assert_eq!(get("requests.memory", Some("1Mi")), "32");
        assert_eq!(get("limits.memory", Some("1Gi")), "64");
        assert_eq!(get("requests.cpu", None), "0");
    }
}
