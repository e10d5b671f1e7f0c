//! Which kubelet URL serves a request: pure, upstream's rules and wording.

use k8s_openapi::api::core::v1::{Node, Pod};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use skiff_api::Status;

/// The kubelet's port unless the node reports another.
pub const KUBELET_PORT: u16 = 10250;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubeletCall {
    /// The pod has no node yet: its log is empty.
    Unassigned,
    /// Path and query at the node's kubelet.
    At { node: String, path: String },
}

/// The streams a pod offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Exec,
    Attach,
    PortForward,
}

/// The port a node's kubelet listens on.
pub fn kubelet_port(node: &Node) -> u16 {
    node.status
        .as_ref()
        .and_then(|status| status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref())
        .and_then(|endpoint| u16::try_from(endpoint.port).ok())
        .filter(|&port| port != 0)
        .unwrap_or(KUBELET_PORT)
}

/// The kubelet's URL of a pod's log.
pub fn log(pod: &Pod, query: &str) -> Result<KubeletCall, Status> {
    let options = pairs(query);
    let container = container(pod, last(&options, "container"))?;
    let Some(node) = node_name(pod) else { return Ok(KubeletCall::Unassigned) };
    let mut out = Query::default();
    for name in ["follow", "previous", "timestamps"] {
        if is_true(&options, name) {
            out.push(name, "true");
        }
    }
    for name in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
        if let Some(value) = last(&options, name).filter(|value| !value.is_empty()) {
            out.push(name, value);
        }
    }
    Ok(KubeletCall::At { node: node.to_owned(), path: out.onto(&pod_path("containerLogs", pod, Some(&container))) })
}

/// The kubelet's node and URL for a stream into a pod.
pub fn stream(stream: Stream, pod: &Pod, query: &str) -> Result<(String, String), Status> {
    let options = pairs(query);
    let container = match stream {
        Stream::PortForward => None,
        _ => Some(container(pod, last(&options, "container"))?),
    };
    let node = node_name(pod)
        .ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", pod_name(pod))))?;
    let mut out = Query::default();
    if stream == Stream::PortForward {
        let ports: Vec<&str> = options.iter().filter(|(n, _)| n == "ports").map(|(_, v)| v.as_str()).collect();
        if !ports.is_empty() {
            out.push("port", &ports.join(","));
        }
    } else {
        for (name, kubelet_name) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
            if is_true(&options, name) {
                out.push(kubelet_name, "1");
            }
        }
    }
    if stream == Stream::Exec {
        for (_, argument) in options.iter().filter(|(name, _)| name == "command") {
            out.push("command", argument);
        }
    }
    let verb = match stream {
        Stream::Exec => "exec",
        Stream::Attach => "attach",
        Stream::PortForward => "portForward",
    };
    Ok((node.to_owned(), out.onto(&pod_path(verb, pod, container.as_deref()))))
}

fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn pod_path(verb: &str, pod: &Pod, container: Option<&str>) -> String {
    let encode = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    let namespace = encode(pod.metadata.namespace.as_deref().unwrap_or_default());
    let mut path = format!("/{verb}/{namespace}/{}", encode(pod_name(pod)));
    if let Some(container) = container {
        path.push('/');
        path.push_str(&encode(container));
    }
    path
}

/// The container a request means: the named one if the pod has it, the only one if none is named.
fn container(pod: &Pod, wanted: Option<&str>) -> Result<String, Status> {
    let name = pod_name(pod);
    let spec = pod.spec.as_ref();
    let containers: Vec<&str> = spec.iter().flat_map(|s| &s.containers).map(|c| c.name.as_str()).collect();
    let init: Vec<&str> =
        spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    let ephemeral: Vec<&str> =
        spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        if [&containers, &init, &ephemeral].iter().any(|names| names.contains(&wanted)) {
            return Ok(wanted.to_owned());
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")));
    }
    match containers[..] {
        [only] => Ok(only.to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => {
            let choices = containers.join(" ");
            let mut message = format!("a container name must be specified for pod {name}, choose one of: [{choices}]");
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn last<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

fn is_true(pairs: &[(String, String)], name: &str) -> bool {
    last(pairs, name).is_some_and(|value| !matches!(value, "false" | "0" | "False"))
}

#[derive(Default)]
struct Query(String);

impl Query {
    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, UNRESERVED));
    }

    fn onto(self, path: &str) -> String {
        if self.0.is_empty() { path.to_owned() } else { format!("{path}?{}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: &[&str], node: &str) -> Pod {
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
        let spec = json!({"containers": containers, "initContainers": [{"name": "setup"}], "nodeName": node});
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn exec_options_are_translated_and_arguments_keep_their_order_and_bytes() {
        let query =
            "command=sh&command=-c&command=echo%20a%26b&stdin=true&stdout=true&stderr=false&tty=true&container=app";
        let (node, path) = stream(Stream::Exec, &pod(&["app", "side"], "n1"), query).expect("a location");
        assert_eq!(node, "n1");
        assert_eq!(path, "/exec/shop/web/app?input=1&output=1&tty=1&command=sh&command=-c&command=echo%20a%26b");
    }

    #[test]
    fn attach_takes_no_command_and_portforward_no_container() {
        let (_, path) = stream(Stream::Attach, &pod(&["app"], "n1"), "command=x&stdout=1").expect("a location");
        assert_eq!(path, "/attach/shop/web/app?output=1");
        let pod = pod(&["app", "side"], "n1");
        let (_, path) = stream(Stream::PortForward, &pod, "ports=80&ports=443").expect("a location");
        assert_eq!(path, "/portForward/shop/web?port=80%2C443");
    }

    #[test]
    fn log_options_are_passed_and_unknown_ones_are_not() {
        let query = "follow=true&tailLines=5&sinceTime=2026-01-01T00:00:00Z&pretty=true&timestamps=false";
        let KubeletCall::At { path, .. } = log(&pod(&["app"], "n1"), query).expect("a location") else {
            panic!("the pod has a node")
        };
        assert_eq!(path, "/containerLogs/shop/web/app?follow=true&sinceTime=2026-01-01T00%3A00%3A00Z&tailLines=5");
    }

    #[test]
    fn a_pod_without_node_has_an_empty_log_and_no_streams() {
        let pod = pod(&["app"], "");
        assert_eq!(log(&pod, ""), Ok(KubeletCall::Unassigned));
        let error = stream(Stream::Exec, &pod, "stdout=1&command=ls").expect_err("no host");
        assert_eq!(error.message, "pod web does not have a host assigned");
    }

    #[test]
    fn the_container_must_be_clear() {
        let message =
            |containers: &[&str], query: &str| log(&pod(containers, "n1"), query).expect_err("unclear").message;
        assert_eq!(
            message(&["app", "side"], ""),
            "a container name must be specified for pod web, choose one of: [app side] or one of the init containers: [setup]"
        );
        assert_eq!(message(&["app"], "container=nope"), "container nope is not valid for pod web");
        assert!(log(&pod(&["app", "side"], "n1"), "container=setup").is_ok());
    }
}
