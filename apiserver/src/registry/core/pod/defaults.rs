//! Defaults of pods and pod templates that depend on other fields or apply to
//! nested lists. A template gets less than a pod: requests, service links and
//! resize policies are filled in only when the pod itself is made.

use serde_json::{Value, json};

use crate::registry::value::{
    child, default, default_map, default_nonzero, default_text, existing, field, flag, int, items, items_mut, set, text,
};

/// Mode of files in secret, configMap, projected and downwardAPI volumes (0644).
const FILE_MODE: i64 = 0o644;

/// Lists of a pod spec that hold containers.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a Pod.
pub fn pod(pod: &mut Value) {
    let spec = child(pod, "spec");
    pod_spec(spec);
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
            resize_policy(container);
        }
    }
    if existing(spec, "resources").is_some() {
        pod_requests(spec);
    }
    default(spec, "enableServiceLinks", true);
}

/// Defaults of a pod template inside another object.
pub fn template(template: &mut Value) {
    pod_spec(child(template, "spec"));
}

fn pod_spec(spec: &mut Value) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default_map(spec, "securityContext");
    mirror_service_account(spec);
    let host_network = flag(spec, "hostNetwork");
    for list in CONTAINER_LISTS {
        for container in items(spec, list) {
            self::container(container);
            if host_network && list != "ephemeralContainers" {
                host_ports(container);
            }
        }
    }
    for volume in items(spec, "volumes") {
        self::volume(volume);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always shown.
fn mirror_service_account(spec: &mut Value) {
    if text(spec, "serviceAccountName").is_empty() {
        if text(spec, "serviceAccount").is_empty() {
            return;
        }
        let old_name = text(spec, "serviceAccount").to_owned();
        set(spec, "serviceAccountName", old_name);
    }
    let name = text(spec, "serviceAccountName").to_owned();
    set(spec, "serviceAccount", name);
}

fn host_ports(container: &mut Value) {
    for port in items(container, "ports") {
        if int(port, "hostPort").unwrap_or(0) == 0
            && let Some(number) = int(port, "containerPort")
        {
            set(port, "hostPort", number);
        }
    }
}

fn container(container: &mut Value) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        set(container, "imagePullPolicy", policy);
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default_map(container, "resources");
    for port in items(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if let Some(source) = existing(variable, "valueFrom") {
            field_reference(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(http) = existing(lifecycle, hook).and_then(|handler| existing(handler, "httpGet")) {
                http_get(http);
            }
        }
    }
}

/// `Always` for the moving tag `latest` (also when no tag is given), `IfNotPresent` otherwise.
pub fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn probe(probe: &mut Value) {
    default_nonzero(probe, "timeoutSeconds", 1);
    default_nonzero(probe, "periodSeconds", 10);
    default_nonzero(probe, "successThreshold", 1);
    default_nonzero(probe, "failureThreshold", 3);
    if let Some(http) = existing(probe, "httpGet") {
        http_get(http);
    }
    if let Some(grpc) = existing(probe, "grpc") {
        default(grpc, "service", "");
    }
}

fn http_get(http: &mut Value) {
    default_text(http, "path", "/");
    default_text(http, "scheme", "HTTP");
}

/// `fieldRef` and `resourceFieldRef` of an environment variable or a downward API file.
fn field_reference(source: &mut Value) {
    if let Some(reference) = existing(source, "fieldRef") {
        default_text(reference, "apiVersion", "v1");
    }
    if let Some(reference) = existing(source, "resourceFieldRef") {
        default(reference, "divisor", "0");
    }
}

fn volume(volume: &mut Value) {
    let has_source =
        volume.as_object().is_some_and(|map| map.iter().any(|(key, value)| key != "name" && !value.is_null()));
    if !has_source {
        default_map(volume, "emptyDir");
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = existing(volume, kind) {
            default(source, "defaultMode", FILE_MODE);
            for item in items(source, "items") {
                field_reference(item);
            }
        }
    }
    if let Some(projected) = existing(volume, "projected") {
        for source in items(projected, "sources") {
            projection(source);
        }
    }
    if let Some(host_path) = existing(volume, "hostPath") {
        default(host_path, "type", "");
    }
    if let Some(image) = existing(volume, "image")
        && text(image, "pullPolicy").is_empty()
    {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
    if let Some(template) = existing(volume, "ephemeral").and_then(|source| existing(source, "volumeClaimTemplate"))
        && let Some(spec) = existing(template, "spec")
    {
        default_text(spec, "volumeMode", "Filesystem");
    }
    network_volume(volume);
}

fn projection(source: &mut Value) {
    if let Some(token) = existing(source, "serviceAccountToken") {
        default(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = existing(source, "downwardAPI") {
        for item in items(downward, "items") {
            field_reference(item);
        }
    }
    if let Some(certificate) = existing(source, "podCertificate") {
        default(certificate, "maxExpirationSeconds", 86400);
    }
}

/// Defaults of old in-tree network volumes, kept because clients read them back.
pub fn network_volume(volume: &mut Value) {
    if let Some(iscsi) = existing(volume, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = existing(volume, "rbd") {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = existing(volume, "azureDisk") {
        default(disk, "cachingMode", "ReadWrite");
        default(disk, "kind", "Shared");
        default(disk, "fsType", "ext4");
        default(disk, "readOnly", false);
    }
    if let Some(scale_io) = existing(volume, "scaleIO") {
        default_text(scale_io, "storageMode", "ThinProvisioned");
        default_text(scale_io, "fsType", "xfs");
    }
}

/// A limit without a request is its own request.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = existing(container, "resources") else { return };
    let Some(limits) = field(resources, "limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = child(resources, "requests");
    for (name, quantity) in limits {
        if field(requests, &name).is_none() {
            set(requests, &name, quantity);
        }
    }
}

/// Pod-level requests come from pod-level limits where no container says otherwise.
fn pod_requests(spec: &mut Value) {
    for resource in ["cpu", "memory"] {
        let limit = field(&spec["resources"]["limits"], resource).cloned();
        let asked = field(&spec["resources"]["requests"], resource).is_some();
        let by_container = ["initContainers", "containers"].iter().any(|list| {
            spec[*list].as_array().into_iter().flatten().any(|c| field(&c["resources"]["requests"], resource).is_some())
        });
        if let (Some(limit), false, false) = (limit, asked, by_container) {
            set(child(child(spec, "resources"), "requests"), resource, limit);
        }
    }
}

/// Containers with cpu or memory get an explicit resize policy for each.
fn resize_policy(container: &mut Value) {
    for resource in ["cpu", "memory"] {
        let resources = &container["resources"];
        let used = ["requests", "limits"].iter().any(|kind| field(&resources[*kind], resource).is_some());
        let named = container["resizePolicy"]
            .as_array()
            .is_some_and(|policies| policies.iter().any(|policy| text(policy, "resourceName") == resource));
        if used && !named {
            items_mut(container, "resizePolicy")
                .push(json!({"resourceName": resource, "restartPolicy": "NotRequired"}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_gets_upstreams_defaults() {
        let mut object = json!({"spec": {"serviceAccountName": "sa", "containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}}]}});
        pod(&mut object);
        let spec = &object["spec"];
        assert_eq!(spec["dnsPolicy"], "ClusterFirst");
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        assert_eq!(spec["enableServiceLinks"], true);
        assert_eq!(spec["securityContext"], json!({}));
        assert_eq!(spec["serviceAccount"], "sa");
        assert_eq!(
            spec["containers"][0],
            json!({"name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}})
        );
        assert_eq!(
            spec["volumes"],
            json!([{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}}])
        );
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "defaulting is idempotent");
    }

    #[test]
    fn a_template_gets_no_requests_and_no_service_links() {
        let mut object =
            json!({"spec": {"containers": [{"name": "c", "image": "a:1", "resources": {"limits": {"cpu": "1"}}}]}});
        template(&mut object);
        assert!(object["spec"].get("enableServiceLinks").is_none());
        assert!(object["spec"]["containers"][0]["resources"].get("requests").is_none());
    }

    #[test]
    fn host_network_pods_take_their_ports_on_the_host() {
        let mut object = json!({"spec": {"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}]}});
        pod(&mut object);
        assert_eq!(object["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, want) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("r:5000/a", "Always"),
            ("r:5000/a:1", "IfNotPresent"),
            ("a@sha256:0123", "IfNotPresent"),
            ("a:latest@sha256:0123", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }
}
