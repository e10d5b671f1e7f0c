//! Validation of a pod specification, alone or as a template.

use serde_json::Value;
use skiff_api::Cause;

use super::{containers, scheduling, security, volumes};
use crate::registry::{
    validation::{Errors, Path, formats, meta, numbers},
    value::{field, flag, int, list, text},
};

const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const NAMESERVERS_MAX: usize = 3;
const SEARCH_PATHS_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

/// A whole pod.
pub fn pod(pod: &Value) -> Vec<Cause> {
    let mut errors = Errors::new();
    spec(&mut errors, &Path::new("spec"), &pod["spec"]);
    errors.into_causes()
}

/// A pod template at `path`, whose labels must match the owner's `selector` (when there is one).
pub fn template(errors: &mut Errors, path: &Path<'_>, template: &Value) {
    meta::template_metadata(errors, path, &template["metadata"]);
    spec(errors, &path.child("spec"), &template["spec"]);
    if !list(&template["spec"], "ephemeralContainers").is_empty() {
        errors.forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// A pod specification at `path`.
pub fn spec(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let volumes = volumes::all(errors, &path.child("volumes"), spec);
    containers::all(errors, path, &containers::Pod { spec, volumes });
    errors.one_of(&path.child("restartPolicy"), text(spec, "restartPolicy"), &RESTART_POLICIES);
    errors.one_of(&path.child("dnsPolicy"), text(spec, "dnsPolicy"), &DNS_POLICIES);
    security::pod(errors, &path.child("securityContext"), &spec["securityContext"], spec);
    names(errors, path, spec);
    scheduling::all(errors, path, spec);
    dns_config(errors, path, spec);
    host_network(errors, path, spec);
    limits(errors, path, spec);
    host_aliases(errors, &path.child("hostAliases"), list(spec, "hostAliases"));
    let gates = path.child("readinessGates");
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        errors.invalid_all(&gates.index(i).child("conditionType"), kind, formats::qualified_name(kind));
    }
    for (name, quantity) in spec["overhead"].as_object().into_iter().flatten() {
        super::resources::resource_quantity(errors, &path.child("overhead").key(name), name, quantity);
    }
    if let Some(os) = field(spec, "os") {
        errors.one_of(&path.child("os").child("name"), text(os, "name"), &["linux", "windows"]);
    }
}

fn names(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let value = text(spec, name);
        if !value.is_empty() {
            errors.invalid_all(&path.child(name), value, formats::dns_subdomain(value));
        }
    }
    for name in ["hostname", "subdomain"] {
        let value = text(spec, name);
        if !value.is_empty() {
            errors.invalid_all(&path.child(name), value, formats::dns_label(value));
        }
    }
    let secrets = path.child("imagePullSecrets");
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.required(&secrets.index(i).child("name"), "");
        }
    }
    if let Some(policy) = field(spec, "preemptionPolicy").and_then(Value::as_str) {
        errors.one_of(&path.child("preemptionPolicy"), policy, &["Never", "PreemptLowerPriority"]);
    }
}

fn limits(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if let Some(seconds) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    numbers::non_negative(errors, &path.child("terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"]);
    super::resources::requirements(errors, &path.child("resources"), &spec["resources"]);
}

fn host_network(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for list_name in ["containers", "initContainers"] {
        let list_path = path.child(list_name);
        for (i, container) in list(spec, list_name).iter().enumerate() {
            let container_path = list_path.index(i);
            let ports = container_path.child("ports");
            for (j, port) in list(container, "ports").iter().enumerate() {
                if int(port, "hostPort").unwrap_or(0) != int(port, "containerPort").unwrap_or(0) {
                    errors.invalid(
                        &ports.index(j).child("hostPort"),
                        int(port, "hostPort").unwrap_or(0),
                        "must match `containerPort` when `hostNetwork` is true",
                    );
                }
            }
        }
    }
    if field(spec, "hostUsers").and_then(Value::as_bool) == Some(false) {
        errors.forbidden(&path.child("hostNetwork"), "when `hostUsers` is false");
    }
}

fn dns_config(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let config = &spec["dnsConfig"];
    let servers = list(config, "nameservers");
    let path = path.child("dnsConfig");
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        errors
            .required(&path.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    let servers_path = path.child("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        errors.too_many(&servers_path, servers.len(), NAMESERVERS_MAX);
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        errors.invalid_all(&servers_path.index(i), server, formats::ip_address(server));
    }
    let searches = list(config, "searches");
    let searches_path = path.child("searches");
    if searches.len() > SEARCH_PATHS_MAX {
        errors.too_many(&searches_path, searches.len(), SEARCH_PATHS_MAX);
    }
    let bytes: usize = searches.iter().filter_map(Value::as_str).map(|search| search.len() + 1).sum();
    if bytes > SEARCH_BYTES_MAX + 1 {
        errors.invalid(
            &searches_path,
            config,
            format!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list"),
        );
    }
    for (i, search) in searches.iter().filter_map(Value::as_str).enumerate() {
        // Underscores and one trailing dot are allowed in search domains.
        let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
        if search != "." {
            errors.invalid_all(&searches_path.index(i), search, formats::dns_subdomain(plain.trim_matches('-')));
        }
    }
    let options = path.child("options");
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(&options.index(i), "must not be empty");
        }
    }
}

fn host_aliases(errors: &mut Errors, path: &Path<'_>, aliases: &[Value]) {
    for (i, alias) in aliases.iter().enumerate() {
        let path = path.index(i);
        let ip = text(alias, "ip");
        errors.invalid_all(&path.child("ip"), ip, formats::ip_address(ip));
        let names = path.child("hostnames");
        for name in list(alias, "hostnames").iter().filter_map(Value::as_str) {
            errors.invalid_all(&names, name, formats::dns_subdomain(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{core::pod::defaults, validation::lines};
    use serde_json::json;

    fn check(mut spec: Value) -> Vec<String> {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        let mut object = json!({"spec": spec});
        defaults::pod(&mut object);
        lines(pod(&object))
    }

    #[test]
    fn a_minimal_pod_is_valid() {
        assert_eq!(check(json!({})), Vec::<String>::new());
    }

    #[test]
    fn wrong_pods_get_upstreams_errors() {
        let table = [
            (json!({"containers": []}), "spec.containers: Required value"),
            (json!({"containers": [{"name": "c"}]}), "spec.containers[0].image: Required value"),
            (json!({"containers": [{"image": "i"}]}), "spec.containers[0].name: Required value"),
            (
                json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
                "spec.containers[1].name: Duplicate value: \"c\"",
            ),
            (
                json!({"restartPolicy": "Sometimes"}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (json!({"volumes": [{"name": "v", "secret": {}}]}), "spec.volumes[0].secret.secretName: Required value"),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["a"]}}}]}),
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {"successThreshold": 2, "exec": {"command": ["a"]}}}]}),
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "", "key": "k"}}}]}]}),
                "spec.containers[0].env[0].valueFrom.configMapKeyRef.name: Required value",
            ),
            (
                json!({"dnsPolicy": "None"}),
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ),
            (
                json!({"activeDeadlineSeconds": 0}),
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ),
        ];
        for (spec, want) in table {
            assert_eq!(check(spec.clone()), [want], "{spec}");
        }
    }
}
