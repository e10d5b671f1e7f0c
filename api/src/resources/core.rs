//! The core group and the second view of its events.

use serde_json::Value;

use super::build::{CREATE, Describe, PROXY, STREAM, row};
use crate::{
    GroupResource,
    printers::{access, cluster, network, pods, storage, workloads},
    resource::{FieldSource, Resource, SelectableField, Verb, Verbs},
};

pub(super) fn rows() -> Vec<Resource> {
    let core = |kind, plural| row("", "v1", kind, plural);
    vec![
        binding(),
        component_statuses(),
        core("ConfigMap", "configmaps").columns(cluster::config_maps()).short(&["cm"]),
        core("Endpoints", "endpoints").columns(network::endpoints()).short(&["ep"]).create_on_update(),
        events("", "involvedObject"),
        events("events.k8s.io", "regarding"),
        core("LimitRange", "limitranges").columns(access::roles()).short(&["limits"]).create_on_update(),
        core("Namespace", "namespaces")
            .columns(cluster::namespaces())
            .cluster()
            .short(&["ns"])
            .edit(|row| row.verbs = row.verbs.without(Verb::DeleteCollection))
            .status()
            .same_kind("finalize", Verbs::of(&[Verb::Update]))
            .select("status.phase"),
        core("Node", "nodes")
            .columns(cluster::nodes())
            .cluster()
            .short(&["no"])
            .status()
            .sub("proxy", "", "v1", "NodeProxyOptions", PROXY)
            .select_or("spec.unschedulable", "false"),
        core("PersistentVolumeClaim", "persistentvolumeclaims").columns(storage::claims()).short(&["pvc"]).status(),
        core("PersistentVolume", "persistentvolumes").columns(storage::volumes()).cluster().short(&["pv"]).status(),
        pod_row(),
        core("PodTemplate", "podtemplates").columns(workloads::pod_templates()),
        core("ReplicationController", "replicationcontrollers")
            .columns(workloads::replica_sets(true))
            .short(&["rc"])
            .in_all()
            .status()
            .scale()
            .select_or("status.replicas", "0")
            .default_orphan(),
        core("ResourceQuota", "resourcequotas").columns(cluster::resource_quotas()).short(&["quota"]).status(),
        core("Secret", "secrets").columns(cluster::secrets()).select("type"),
        core("ServiceAccount", "serviceaccounts").columns(cluster::service_accounts()).short(&["sa"]).sub(
            "token",
            "authentication.k8s.io",
            "v1",
            "TokenRequest",
            CREATE,
        ),
        core("Service", "services")
            .columns(network::services())
            .short(&["svc"])
            .in_all()
            .status()
            .sub("proxy", "", "v1", "ServiceProxyOptions", PROXY)
            .select("spec.clusterIP")
            .select("spec.type")
            .create_on_update(),
    ]
}

fn binding() -> Resource {
    row("", "v1", "Binding", "bindings").edit(|row| {
        row.verbs = CREATE;
        row.storage = None;
        row.storage_version = None;
        row.storage_version_hash = "".into();
        row.columns = Vec::new();
    })
}

fn component_statuses() -> Resource {
    row("", "v1", "ComponentStatus", "componentstatuses")
        .columns(cluster::component_statuses())
        .cluster()
        .short(&["cs"])
        .edit(|row| {
            row.singular = "componentstatus".into();
            row.verbs = Verbs::of(&[Verb::Get, Verb::List]);
            row.storage = None;
            row.storage_version = None;
            row.storage_version_hash = "".into();
        })
}

/// Both groups read and write the same objects, stored in the core form.
fn events(group: &'static str, regarding: &'static str) -> Resource {
    let mut events =
        row(group, "v1", "Event", "events").columns(cluster::events()).short(&["ev"]).create_on_update().edit(|row| {
            row.storage = Some(GroupResource::new("", "events"));
            row.storage_version = Some(("".into(), "v1".into()));
            row.storage_version_hash = super::build::storage_version_hash("", "v1", "Event").into();
        });
    // Each group's selectors use its own spelling of the reference.
    for part in ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"] {
        // The stored form decides where the value is; see `reference`.
        events.selectable_fields.push(SelectableField {
            path: format!("{regarding}.{part}").into(),
            source: FieldSource::Computed(reference(part)),
            absent: "".into(),
        });
    }
    let events = events.select("reason").select("type").select_by("reportingComponent", reporting);
    if regarding == "involvedObject" {
        events.select_by("source", source)
    } else {
        events.select("reportingController")
    }
}

/// Reads a part of the reference, in whichever form the event is.
fn reference(part: &str) -> fn(&Value) -> String {
    fn read(event: &Value, part: &str) -> String {
        let object = event.get("involvedObject").or_else(|| event.get("regarding"));
        object.and_then(|object| object.get(part)).and_then(Value::as_str).unwrap_or_default().to_owned()
    }
    match part {
        "kind" => |event| read(event, "kind"),
        "namespace" => |event| read(event, "namespace"),
        "name" => |event| read(event, "name"),
        "uid" => |event| read(event, "uid"),
        "apiVersion" => |event| read(event, "apiVersion"),
        "resourceVersion" => |event| read(event, "resourceVersion"),
        _ => |event| read(event, "fieldPath"),
    }
}

fn reporting(event: &Value) -> String {
    let found = event.get("reportingComponent").or_else(|| event.get("reportingController"));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The component that reported, in the old field or the new one.
fn source(event: &Value) -> String {
    let component = event.pointer("/source/component").and_then(Value::as_str).unwrap_or_default();
    if component.is_empty() { reporting(event) } else { component.to_owned() }
}

fn pod_row() -> Resource {
    row("", "v1", "Pod", "pods")
        .columns(pods::columns())
        .short(&["po"])
        .in_all()
        .status()
        .sub("attach", "", "v1", "PodAttachOptions", STREAM)
        .sub("binding", "", "v1", "Binding", CREATE)
        .same_kind("ephemeralcontainers", Verbs::GET_PATCH_UPDATE)
        .sub("eviction", "policy", "v1", "Eviction", CREATE)
        .sub("exec", "", "v1", "PodExecOptions", STREAM)
        .same_kind("log", Verbs::of(&[Verb::Get]))
        .sub("portforward", "", "v1", "PodPortForwardOptions", STREAM)
        .sub("proxy", "", "v1", "PodProxyOptions", PROXY)
        .same_kind("resize", Verbs::GET_PATCH_UPDATE)
        .select("spec.nodeName")
        .select("spec.restartPolicy")
        .select("spec.schedulerName")
        .select("spec.serviceAccountName")
        .select_or("spec.hostNetwork", "false")
        .select("status.phase")
        .select("status.podIP")
        .select_by("status.podIPs", |pod| {
            let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
            let ips = ips.into_iter().flatten().filter_map(|entry| entry.get("ip").and_then(Value::as_str));
            ips.collect::<Vec<_>>().join(",")
        })
        .select("status.nominatedNodeName")
        .edit(|row| row.graceful_deletion = true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn event_selectors_read_either_form_of_the_object() {
        let core = events("", "involvedObject");
        let event = json!({"involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"}});
        assert_eq!(core.field_value(&event, "involvedObject.kind").as_deref(), Some("Pod"));
        assert_eq!(core.field_value(&event, "source").as_deref(), Some("kubelet"));
        let new = events("events.k8s.io", "regarding");
        let event = json!({"regarding": {"kind": "Pod"}, "reportingController": "kubelet"});
        assert_eq!(new.field_value(&event, "regarding.kind").as_deref(), Some("Pod"));
        assert_eq!(new.field_value(&event, "source"), None);
    }
}
