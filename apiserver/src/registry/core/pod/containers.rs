//! Validation of containers: names, images, ports, environment, mounts,
//! probes, hooks.

use serde_json::Value;

use super::{resources, security};
use crate::registry::{
    validation::{Errors, Path, formats, numbers},
    value::{field, flag, int, list, text},
};

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PROPAGATION: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const CONTAINER_RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// What kind of list a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Main,
    Init,
    Ephemeral,
}

/// What containers of one pod share while they are checked.
pub struct Pod<'a> {
    pub spec: &'a Value,
    /// Names of declared volumes.
    pub volumes: Vec<&'a str>,
}

/// Checks all containers of a pod spec at `path`.
pub fn all(errors: &mut Errors, path: &Path<'_>, pod: &Pod<'_>) {
    let main = list(pod.spec, "containers");
    if main.is_empty() {
        errors.required(&path.child("containers"), "");
    }
    let mut names: Vec<&str> = Vec::new();
    for (field, role) in
        [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)]
    {
        let list_path = path.child(field);
        for (i, container) in list(pod.spec, field).iter().enumerate() {
            let path = list_path.index(i);
            let name = text(container, "name");
            if names.contains(&name) && !name.is_empty() {
                errors.duplicate(&path.child("name"), name);
            }
            names.push(name);
            one(errors, &path, pod, container, role);
        }
    }
    host_port_conflicts(errors, path, main);
}

fn one(errors: &mut Errors, path: &Path<'_>, pod: &Pod<'_>, container: &Value, role: Role) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.invalid_all(&path.child("name"), name, formats::dns_label(name));
    }
    image(errors, path, container);
    match text(container, "terminationMessagePolicy") {
        "" => errors.required(&path.child("terminationMessagePolicy"), ""),
        "File" | "FallbackToLogsOnError" => {}
        other => {
            errors.invalid(&path.child("terminationMessagePolicy"), other, "must be 'File' or 'FallbackToLogsOnError'");
        }
    }
    ports(errors, &path.child("ports"), list(container, "ports"));
    env(errors, &path.child("env"), list(container, "env"));
    env_from(errors, &path.child("envFrom"), list(container, "envFrom"));
    mounts(errors, path, pod, container);
    resources::requirements(errors, &path.child("resources"), &container["resources"]);
    resize_policy(errors, &path.child("resizePolicy"), list(container, "resizePolicy"));
    security::container(errors, &path.child("securityContext"), &container["securityContext"], pod.spec);
    let restartable = role == Role::Main || text(container, "restartPolicy") == "Always";
    match role {
        Role::Main | Role::Init => {
            restart_policy(errors, path, container, role);
            hooks_and_probes(errors, path, container, restartable);
        }
        Role::Ephemeral => ephemeral(errors, path, container),
    }
}

fn image(errors: &mut Errors, path: &Path<'_>, container: &Value) {
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    errors.one_of(&path.child("imagePullPolicy"), text(container, "imagePullPolicy"), &PULL_POLICIES);
}

fn restart_policy(errors: &mut Errors, path: &Path<'_>, container: &Value, role: Role) {
    let policy = text(container, "restartPolicy");
    let rules = list(container, "restartPolicyRules");
    let supported: &[&str] = &["Always", "Never", "OnFailure"];
    if !policy.is_empty() && !supported.contains(&policy) {
        errors.not_supported(&path.child("restartPolicy"), policy, supported);
    }
    if !rules.is_empty() && policy.is_empty() {
        errors.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if !rules.is_empty() && role == Role::Init && policy == "Always" {
        errors.forbidden(
            &path.child("restartPolicyRules"),
            "restartPolicyRules are not allowed for init containers with restart policy Always",
        );
    }
}

fn resize_policy(errors: &mut Errors, path: &Path<'_>, policies: &[Value]) {
    for (i, policy) in policies.iter().enumerate() {
        let resource = text(policy, "resourceName");
        if policies[..i].iter().any(|other| text(other, "resourceName") == resource) {
            errors.duplicate(path, resource);
        }
        errors.one_of(path, resource, &["cpu", "memory"]);
        errors.one_of(path, text(policy, "restartPolicy"), &["NotRequired", "RestartContainer"]);
    }
}

fn ephemeral(errors: &mut Errors, path: &Path<'_>, container: &Value) {
    for field_name in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"] {
        if field(container, field_name).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            errors.forbidden(&path.child(field_name), "field not allowed in ephemeral containers");
        }
    }
    if field(container, "resources").and_then(Value::as_object).is_some_and(|map| !map.is_empty()) {
        errors.forbidden(&path.child("resources"), "field not allowed in ephemeral containers");
    }
    let mounts = path.child("volumeMounts");
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        for name in ["subPath", "subPathExpr"] {
            if !text(mount, name).is_empty() {
                errors.forbidden(&mounts.index(i).child(name), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

fn ports(errors: &mut Errors, path: &Path<'_>, ports: &[Value]) {
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let messages = formats::port_name(name);
            if messages.is_empty() && ports[..i].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(&path.child("name"), name);
            }
            errors.invalid_all(&path.child("name"), name, messages);
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => errors.required(&path.child("containerPort"), ""),
            number => port_number(errors, &path.child("containerPort"), number),
        }
        match int(port, "hostPort").unwrap_or(0) {
            0 => {}
            number => port_number(errors, &path.child("hostPort"), number),
        }
        errors.one_of(&path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
    }
}

pub fn port_number(errors: &mut Errors, path: &Path<'_>, number: i64) {
    if let Some(message) = formats::port_number(number) {
        errors.invalid(path, number, message);
    }
}

fn host_port_conflicts(errors: &mut Errors, path: &Path<'_>, containers: &[Value]) {
    let mut taken: Vec<(i64, &str, &str)> = Vec::new();
    let list_path = path.child("containers");
    for (i, container) in containers.iter().enumerate() {
        let container_path = list_path.index(i);
        let ports_path = container_path.child("ports");
        for (j, port) in list(container, "ports").iter().enumerate() {
            let number = int(port, "hostPort").unwrap_or(0);
            if number == 0 {
                continue;
            }
            let entry = (number, text(port, "protocol"), text(port, "hostIP"));
            if taken.contains(&entry) {
                let shown = format!("{}/{}/{}", entry.1, entry.2, entry.0);
                errors.duplicate(&ports_path.index(j).child("hostPort"), shown.as_str());
            }
            taken.push(entry);
        }
    }
}

fn env(errors: &mut Errors, path: &Path<'_>, variables: &[Value]) {
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_all(&path.child("name"), name, formats::env_var_name(name));
        }
        let Some(source) = field(variable, "valueFrom") else { continue };
        env_source(errors, &path.child("valueFrom"), source, !text(variable, "value").is_empty());
    }
}

fn env_source(errors: &mut Errors, path: &Path<'_>, source: &Value, has_value: bool) {
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given = kinds.iter().filter(|kind| field(source, kind).is_some()).count();
    if given == 0 {
        errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if given > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
    if let Some(reference) = field(source, "fieldRef") {
        field_ref(errors, &path.child("fieldRef"), reference, &ENV_FIELDS);
    }
    if let Some(reference) = field(source, "resourceFieldRef") {
        resource_field_ref(errors, &path.child("resourceFieldRef"), reference, false);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = field(source, kind) else { continue };
        let path = path.child(kind);
        if text(reference, "name").is_empty() {
            errors.required(&path.child("name"), "");
        }
        match text(reference, "key") {
            "" => errors.required(&path.child("key"), ""),
            key => errors.invalid_all(&path.child("key"), key, formats::config_key(key)),
        }
    }
}

/// A `fieldRef`: only listed fields, or `metadata.labels['key']` and annotations alike.
pub fn field_ref(errors: &mut Errors, path: &Path<'_>, reference: &Value, supported: &[&str]) {
    if text(reference, "apiVersion").is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let field_path = text(reference, "fieldPath");
    if field_path.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    if let Some((subscripted, key)) = field_path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        let lower = key.to_ascii_lowercase();
        match subscripted {
            "metadata.annotations" => errors.invalid_all(path, key, formats::qualified_name(&lower)),
            "metadata.labels" => errors.invalid_all(path, key, formats::qualified_name(key)),
            _ => errors.invalid(path, field_path, "does not support subscript"),
        }
    } else if !supported.contains(&field_path) {
        errors.not_supported(&path.child("fieldPath"), field_path, supported);
    }
}

/// A `resourceFieldRef`; inside a volume it must name its container.
pub fn resource_field_ref(errors: &mut Errors, path: &Path<'_>, reference: &Value, in_volume: bool) {
    if in_volume && text(reference, "containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    }
    match text(reference, "resource") {
        "" => errors.required(&path.child("resource"), ""),
        name if name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-") => {}
        name if CONTAINER_RESOURCE_FIELDS.contains(&name) => {}
        name => errors.not_supported(&path.child("resource"), name, &CONTAINER_RESOURCE_FIELDS),
    }
}

fn env_from(errors: &mut Errors, path: &Path<'_>, sources: &[Value]) {
    for (i, source) in sources.iter().enumerate() {
        let path = path.index(i);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            errors.invalid_all(&path.child("prefix"), prefix, formats::env_var_name(prefix));
        }
        let kinds = ["configMapRef", "secretRef"];
        match kinds.iter().filter(|kind| field(source, kind).is_some()).count() {
            0 => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
        for kind in kinds {
            if field(source, kind).is_some_and(|reference| text(reference, "name").is_empty()) {
                errors.required(&path.child(kind).child("name"), "");
            }
        }
    }
}

fn mounts(errors: &mut Errors, path: &Path<'_>, pod: &Pod<'_>, container: &Value) {
    let mounts = list(container, "volumeMounts");
    let mounts_path = path.child("volumeMounts");
    for (i, mount) in mounts.iter().enumerate() {
        let path = mounts_path.index(i);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !pod.volumes.contains(&name) {
            errors.not_found(&path.child("name"), name);
        }
        let mount_path = text(mount, "mountPath");
        if mount_path.is_empty() {
            errors.required(&path.child("mountPath"), "");
        } else if mounts[..i].iter().any(|other| text(other, "mountPath") == mount_path) {
            errors.invalid(&path.child("mountPath"), mount_path, "must be unique");
        }
        sub_path(errors, &path, mount);
        propagation(errors, &path, mount, container);
    }
    let devices_path = path.child("volumeDevices");
    let devices = list(container, "volumeDevices");
    for (i, device) in devices.iter().enumerate() {
        let path = devices_path.index(i);
        let name = text(device, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !pod.volumes.contains(&name) {
            errors.not_found(&path.child("name"), name);
        }
        let device_path = text(device, "devicePath");
        if device_path.is_empty() {
            errors.required(&path.child("devicePath"), "");
        } else if mounts.iter().any(|mount| text(mount, "mountPath") == device_path) {
            errors.invalid(&path.child("devicePath"), device_path, "must not already exist as a path in volumeMounts");
        } else if devices[..i].iter().any(|other| text(other, "devicePath") == device_path) {
            errors.invalid(&path.child("devicePath"), device_path, "must be unique");
        }
    }
}

fn sub_path(errors: &mut Errors, path: &Path<'_>, mount: &Value) {
    for name in ["subPath", "subPathExpr"] {
        local_path(errors, &path.child(name), text(mount, name));
    }
    if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
        errors.invalid(
            &path.child("subPathExpr"),
            text(mount, "subPathExpr"),
            "subPathExpr and subPath are mutually exclusive",
        );
    }
}

/// A path that stays below its root: relative and without `..`.
pub fn local_path(errors: &mut Errors, path: &Path<'_>, value: &str) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(errors, path, value);
}

pub fn no_backsteps(errors: &mut Errors, path: &Path<'_>, value: &str) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

fn propagation(errors: &mut Errors, path: &Path<'_>, mount: &Value, container: &Value) {
    let Some(mode) = field(mount, "mountPropagation").and_then(Value::as_str) else { return };
    if !PROPAGATION.contains(&mode) {
        errors.not_supported(&path.child("mountPropagation"), mode, &PROPAGATION);
    }
    let privileged = flag(&container["securityContext"], "privileged");
    if mode == "Bidirectional" && !privileged {
        errors.forbidden(
            &path.child("mountPropagation"),
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
}

fn hooks_and_probes(errors: &mut Errors, path: &Path<'_>, container: &Value, restartable: bool) {
    const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
    if let Some(lifecycle) = field(container, "lifecycle") {
        let path = path.child("lifecycle");
        if restartable {
            for name in ["postStart", "preStop"] {
                if let Some(hook) = field(lifecycle, name) {
                    handler(errors, &path.child(name), hook, &["exec", "httpGet", "tcpSocket", "sleep"]);
                }
            }
        } else {
            errors.forbidden(&path, ONLY_SIDECARS);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = field(container, name) else { continue };
        if restartable {
            self::probe(errors, &path.child(name), probe, name);
        } else {
            errors.forbidden(&path.child(name), ONLY_SIDECARS);
        }
    }
}

fn probe(errors: &mut Errors, path: &Path<'_>, probe: &Value, name: &str) {
    handler(errors, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        numbers::non_negative(errors, &path.child(number), &probe[number]);
    }
    if let Some(grace) = int(probe, "terminationGracePeriodSeconds") {
        if name == "readinessProbe" {
            errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, "must not be set for readinessProbes");
        } else if grace <= 0 {
            errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
        }
    }
    let threshold = int(probe, "successThreshold").unwrap_or(1);
    if name != "readinessProbe" && threshold != 1 {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn handler(errors: &mut Errors, path: &Path<'_>, handler: &Value, kinds: &[&str]) {
    let mut given = 0;
    for kind in kinds {
        let Some(action) = field(handler, kind) else { continue };
        given += 1;
        let path = path.child(kind);
        if given > 1 {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if list(action, "command").is_empty() => errors.required(&path.child("command"), ""),
            "httpGet" => http_get(errors, &path, action),
            "tcpSocket" => int_or_name_port(errors, &path.child("port"), &action["port"]),
            "grpc" => port_number(errors, &path.child("port"), int(action, "port").unwrap_or(0)),
            "sleep" if int(action, "seconds").unwrap_or(0) < 0 => {
                errors.invalid(&path.child("seconds"), &action["seconds"], "must be a non-negative integer");
            }
            _ => {}
        }
    }
    if given == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(errors: &mut Errors, path: &Path<'_>, action: &Value) {
    if text(action, "path").is_empty() {
        errors.required(&path.child("path"), "");
    }
    int_or_name_port(errors, &path.child("port"), &action["port"]);
    errors.one_of(&path.child("scheme"), text(action, "scheme"), &["HTTP", "HTTPS"]);
    let headers = path.child("httpHeaders");
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        errors.invalid_all(&headers, name, formats::http_header_name(name));
    }
}

/// A port given by number or by the name of a container port.
pub fn int_or_name_port(errors: &mut Errors, path: &Path<'_>, port: &Value) {
    match port {
        Value::String(name) => errors.invalid_all(path, name, formats::port_name(name)),
        other => port_number(errors, path, other.as_i64().unwrap_or(0)),
    }
}
