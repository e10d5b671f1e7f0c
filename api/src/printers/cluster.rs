//! Tables of nodes, namespaces, events, configuration and quotas.

use jiff::Timestamp;
use serde_json::Value;

use super::{Refine, age, computed, condition, count, int_at, integer, items, name, str_at, text};
use crate::{resource::Column, timestamp};

pub(crate) fn nodes() -> Vec<Column> {
    vec![
        name(),
        computed("Status", |node, _| node_status(node).into()).about("The status of the node"),
        computed("Roles", |node, _| node_roles(node).into()).or("<none>").about("The roles of the node"),
        age(),
        text("Version", "/status/nodeInfo/kubeletVersion").about("Kubelet Version reported by the node."),
        computed("Internal-IP", |node, _| node_address(node, "InternalIP")).or("<none>").wide(),
        computed("External-IP", |node, _| node_address(node, "ExternalIP")).or("<none>").wide(),
        text("OS-Image", "/status/nodeInfo/osImage").or("<unknown>").wide(),
        text("Kernel-Version", "/status/nodeInfo/kernelVersion").or("<unknown>").wide(),
        text("Container-Runtime", "/status/nodeInfo/containerRuntimeVersion").or("<unknown>").wide(),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = match condition(node, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    };
    let cordoned = node.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
    if cordoned { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

fn node_roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == "kubernetes.io/role"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

fn node_address(node: &Value, kind: &str) -> Value {
    let found = items(node, "/status/addresses").iter().find(|address| str_at(address, "/type") == kind);
    found.map_or(Value::Null, |address| str_at(address, "/address").into())
}

pub(crate) fn namespaces() -> Vec<Column> {
    vec![name(), text("Status", "/status/phase"), age()]
}

pub(crate) fn config_maps() -> Vec<Column> {
    vec![name(), count("Data", |map, _| (entries(map, "/data") + entries(map, "/binaryData")).into()), age()]
}

pub(crate) fn secrets() -> Vec<Column> {
    vec![name(), text("Type", "/type"), count("Data", |secret, _| entries(secret, "/data").into()), age()]
}

fn entries(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub(crate) fn service_accounts() -> Vec<Column> {
    vec![name(), count("Secrets", |account, _| items(account, "/secrets").len().into()), age()]
}

pub(crate) fn component_statuses() -> Vec<Column> {
    vec![
        name(),
        computed("Status", |status, _| {
            let healthy = items(status, "/conditions").iter().any(|c| str_at(c, "/status") == "True");
            if healthy { "Healthy" } else { "Unhealthy" }.into()
        }),
        text("Message", "/conditions/0/message"),
        text("Error", "/conditions/0/error"),
    ]
}

pub(crate) fn events() -> Vec<Column> {
    vec![
        computed("Last Seen", last_seen).about("Time since this event was last observed"),
        text("Type", "/type"),
        text("Reason", "/reason"),
        computed("Object", |event, _| {
            let object = regarding(event);
            format!("{}/{}", str_at(object, "/kind").to_lowercase(), str_at(object, "/name")).into()
        }),
        computed("Subobject", |event, _| str_at(regarding(event), "/fieldPath").into()).wide(),
        computed("Source", |event, _| event_source(event).into()).wide(),
        computed("Message", |event, _| {
            let message = str_at(event, "/message");
            if message.is_empty() { str_at(event, "/note").trim().into() } else { message.trim().into() }
        }),
        computed("First Seen", |event, now| first_seen(event, now).into()).wide(),
        count("Count", |event, _| {
            let count = [int_at(event, "/series/count"), int_at(event, "/count"), int_at(event, "/deprecatedCount")];
            count.into_iter().find(|count| *count > 0).unwrap_or(1).into()
        })
        .wide(),
        Column { priority: 1, ..name() },
    ]
}

/// The object an event is about, in either group's spelling.
fn regarding(event: &Value) -> &Value {
    event.get("involvedObject").or_else(|| event.get("regarding")).unwrap_or(&Value::Null)
}

fn event_source(event: &Value) -> String {
    let named = |pointers: &[&str]| {
        let found = pointers.iter().map(|pointer| str_at(event, pointer)).find(|text| !text.is_empty());
        found.unwrap_or_default().to_owned()
    };
    let component =
        named(&["/source/component", "/deprecatedSource/component", "/reportingComponent", "/reportingController"]);
    let host = named(&["/source/host", "/deprecatedSource/host", "/reportingInstance"]);
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    let times = ["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"];
    let found = times.iter().map(|pointer| str_at(event, pointer)).find(|time| !time.is_empty());
    timestamp::age(found, now)
}

fn last_seen(event: &Value, now: Timestamp) -> Value {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"];
    match times.iter().map(|pointer| str_at(event, pointer)).find(|time| !time.is_empty()) {
        Some(time) => timestamp::age(Some(time), now).into(),
        None => first_seen(event, now).into(),
    }
}

pub(crate) fn resource_quotas() -> Vec<Column> {
    vec![
        name(),
        computed("Request", |quota, _| used_of_hard(quota, false).into()),
        computed("Limit", |quota, _| used_of_hard(quota, true).into()),
        age(),
    ]
}

/// `name: used/hard` of the limits, or of everything else.
fn used_of_hard(quota: &Value, limits: bool) -> String {
    let hard = quota.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten();
    let wanted = hard.filter(|(name, _)| name.starts_with("limits.") == limits);
    let used = |name: &str| {
        let used = quota.pointer("/status/used").and_then(|used| used.get(name)).and_then(Value::as_str);
        used.unwrap_or("0").to_owned()
    };
    let texts = wanted.map(|(name, hard)| format!("{name}: {}/{}", used(name), hard.as_str().unwrap_or_default()));
    texts.collect::<Vec<_>>().join(", ")
}

pub(crate) fn leases() -> Vec<Column> {
    vec![name(), text("Holder", "/spec/holderIdentity"), age()]
}

pub(crate) fn runtime_classes() -> Vec<Column> {
    vec![name(), text("Handler", "/handler"), age()]
}

pub(crate) fn priority_classes() -> Vec<Column> {
    vec![
        name(),
        integer("Value", "/value"),
        super::flag("Global-Default", "/globalDefault"),
        age(),
        text("PreemptionPolicy", "/preemptionPolicy"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{meta, row};
    use serde_json::json;

    #[test]
    fn nodes_show_condition_and_roles() {
        let node = json!({"metadata": {"name": "n", "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "z"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.37.0"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        assert_eq!(
            row("", "v1", "nodes", node),
            [
                "n",
                "Ready,SchedulingDisabled",
                "control-plane,z",
                "60s",
                "v1.37.0",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]
        );
        assert_eq!(row("", "v1", "nodes", json!({"metadata": meta("n")}))[1..3], ["Unknown", "<none>"]);
    }

    #[test]
    fn events_of_both_groups_look_alike() {
        let core = json!({"metadata": meta("e"), "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "Pulled",
            "message": "done\n", "source": {"component": "kubelet", "host": "n"}, "count": 3,
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:00:30Z"});
        assert_eq!(
            row("", "v1", "events", core),
            ["30s", "Normal", "Pulled", "pod/p", "", "kubelet, n", "done", "60s", "3", "e"]
        );
        let new = json!({"metadata": meta("e"), "regarding": {"kind": "Pod", "name": "p"}, "note": "x", "reportingController": "c",
            "eventTime": "2024-01-01T00:00:50.000000Z", "type": "Normal", "reason": "R"});
        assert_eq!(
            row("events.k8s.io", "v1", "events", new),
            ["10s", "Normal", "R", "pod/p", "", "c", "x", "10s", "1", "e"]
        );
    }

    #[test]
    fn counts_and_quotas() {
        assert_eq!(
            row(
                "",
                "v1",
                "configmaps",
                json!({"metadata": meta("c"), "data": {"a": "", "b": ""}, "binaryData": {"c": ""}})
            )[1],
            "3"
        );
        assert_eq!(row("", "v1", "secrets", json!({"metadata": meta("s"), "type": "Opaque"}))[1..3], ["Opaque", "0"]);
        let quota = json!({"metadata": meta("q"), "status": {"hard": {"pods": "10", "limits.cpu": "4"}, "used": {"pods": "3"}}});
        assert_eq!(row("", "v1", "resourcequotas", quota), ["q", "pods: 3/10", "limits.cpu: 0/4", "60s"]);
    }
}
