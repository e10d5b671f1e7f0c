//! The checks of the Pod Security Standards: what `baseline` and `restricted`
//! do not allow, in upstream's words.

use serde_json::Value;

use crate::registry::value::{field, flag, int, list, text};

/// How strict a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const RESTRICTED_VOLUMES: [&str; 7] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"];
const MORE_RESTRICTED_VOLUMES: [&str; 2] = ["secret", "image"];

type Check = fn(&Value) -> Option<String>;

const COMMON: [Check; 9] =
    [app_armor, host_namespaces, host_path, host_ports, host_probes, privileged, proc_mount, selinux, sysctls];
/// Checks that have a stricter twin in [`RESTRICTED`], which then speaks for both.
const BASELINE: [Check; 2] = [capabilities_baseline, seccomp_baseline];
const RESTRICTED: [Check; 6] =
    [privilege_escalation, capabilities_restricted, volume_types, run_as_non_root, run_as_user, seccomp_restricted];

/// Everything a pod (or template) does that the level does not allow.
pub fn violations(pod: &Value, level: Level) -> Vec<String> {
    let own: &[Check] = match level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => &BASELINE,
        Level::Restricted => &RESTRICTED,
    };
    COMMON.iter().chain(own).filter_map(|check| check(pod)).collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let spec = &pod["spec"];
    list(spec, "initContainers").iter().chain(list(spec, "containers")).chain(list(spec, "ephemeralContainers"))
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[&Value]) -> String {
    let names: Vec<String> = containers.iter().map(|container| format!("{:?}", text(container, "name"))).collect();
    let word = if names.len() == 1 { "container" } else { "containers" };
    format!("{word} {}", names.join(", "))
}

fn those(pod: &Value, is_bad: impl Fn(&Value) -> bool) -> Vec<&Value> {
    containers(pod).filter(|container| is_bad(container)).collect()
}

fn quoted(items: &[String]) -> String {
    items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ")
}

fn is_windows(pod: &Value) -> bool {
    text(&pod["spec"]["os"], "name") == "windows"
}

fn privileged(pod: &Value) -> Option<String> {
    let bad = those(pod, |c| flag(&c["securityContext"], "privileged"));
    (!bad.is_empty()).then(|| format!("privileged ({} must not set securityContext.privileged=true)", named(&bad)))
}

fn host_namespaces(pod: &Value) -> Option<String> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|name| flag(&pod["spec"], name))
        .map(|name| format!("{name}=true"))
        .collect();
    (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
}

fn host_path(pod: &Value) -> Option<String> {
    let bad: Vec<String> = list(&pod["spec"], "volumes")
        .iter()
        .filter(|volume| field(volume, "hostPath").is_some())
        .map(|volume| text(volume, "name").to_owned())
        .collect();
    let word = if bad.len() == 1 { "volume" } else { "volumes" };
    (!bad.is_empty()).then(|| format!("hostPath volumes ({word} {})", quoted(&bad)))
}

fn host_ports(pod: &Value) -> Option<String> {
    let taken = |container: &Value| -> Vec<i64> {
        list(container, "ports").iter().filter_map(|port| int(port, "hostPort")).filter(|port| *port != 0).collect()
    };
    let bad = those(pod, |container| !taken(container).is_empty());
    let mut ports: Vec<i64> = bad.iter().flat_map(|container| taken(container)).collect();
    ports.sort_unstable();
    ports.dedup();
    let word = if ports.len() == 1 { "hostPort" } else { "hostPorts" };
    let ports: Vec<String> = ports.iter().map(i64::to_string).collect();
    (!bad.is_empty()).then(|| {
        let verb = if bad.len() == 1 { "uses" } else { "use" };
        format!("hostPort ({} {verb} {word} {})", named(&bad), ports.join(", "))
    })
}

/// A probe or hook that names a host makes the node reach where the pod may not.
fn host_probes(pod: &Value) -> Option<String> {
    let hosts = |container: &Value| -> Vec<String> {
        let handlers = ["livenessProbe", "readinessProbe", "startupProbe"].map(|name| &container[name]);
        let hooks = ["postStart", "preStop"].map(|name| &container["lifecycle"][name]);
        handlers
            .into_iter()
            .chain(hooks)
            .flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]])
            .filter_map(Value::as_str)
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let bad = those(pod, |container| !hosts(container).is_empty());
    let mut all: Vec<String> = bad.iter().flat_map(|container| hosts(container)).collect();
    all.sort();
    all.dedup();
    let (word, verb) = (if all.len() == 1 { "host" } else { "hosts" }, if bad.len() == 1 { "uses" } else { "use" });
    (!bad.is_empty())
        .then(|| format!("probe or lifecycle host ({} {verb} probe or lifecycle {word} {})", named(&bad), quoted(&all)))
}

fn added(container: &Value) -> Vec<String> {
    list(&container["securityContext"]["capabilities"], "add")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn capabilities_baseline(pod: &Value) -> Option<String> {
    let forbidden = |container: &Value| -> Vec<String> {
        added(container).into_iter().filter(|name| !BASELINE_CAPABILITIES.contains(&name.as_str())).collect()
    };
    let bad = those(pod, |container| !forbidden(container).is_empty());
    let mut names: Vec<String> = bad.iter().flat_map(|container| forbidden(container)).collect();
    names.sort();
    names.dedup();
    (!bad.is_empty()).then(|| {
        format!(
            "non-default capabilities ({} must not include {} in securityContext.capabilities.add)",
            named(&bad),
            quoted(&names)
        )
    })
}

fn proc_mount(pod: &Value) -> Option<String> {
    let mount = |container: &Value| text(&container["securityContext"], "procMount").to_owned();
    let bad = those(pod, |container| !matches!(mount(container).as_str(), "" | "Default"));
    let mut mounts: Vec<String> = bad.iter().map(|container| mount(container)).collect();
    mounts.sort();
    mounts.dedup();
    (!bad.is_empty())
        .then(|| format!("procMount ({} must not set securityContext.procMount to {})", named(&bad), quoted(&mounts)))
}

fn profile<'a>(context: &'a Value, name: &str) -> &'a str {
    text(&context["securityContext"][name], "type")
}

fn app_armor(pod: &Value) -> Option<String> {
    let pod_bad = profile(&pod["spec"], "appArmorProfile") == "Unconfined";
    let bad = those(pod, |container| profile(container, "appArmorProfile") == "Unconfined");
    unconfined("forbidden AppArmor profile", "appArmorProfile", pod_bad, &bad)
}

fn seccomp_baseline(pod: &Value) -> Option<String> {
    let pod_bad = profile(&pod["spec"], "seccompProfile") == "Unconfined";
    let bad = those(pod, |container| profile(container, "seccompProfile") == "Unconfined");
    unconfined("seccompProfile", "seccompProfile", pod_bad, &bad)
}

fn unconfined(title: &str, name: &str, pod_bad: bool, bad: &[&Value]) -> Option<String> {
    let who = match (pod_bad, bad) {
        (false, []) => return None,
        (true, []) => "pod".to_owned(),
        (true, bad) => format!("pod and {}", named(bad)),
        (false, bad) => named(bad),
    };
    Some(format!("{title} ({who} must not set securityContext.{name}.type to \"Unconfined\")"))
}

fn selinux(pod: &Value) -> Option<String> {
    let wrong = |context: &Value| {
        let options = &context["securityContext"]["seLinuxOptions"];
        !SELINUX_TYPES.contains(&text(options, "type"))
            || !text(options, "user").is_empty()
            || !text(options, "role").is_empty()
    };
    let bad = those(pod, wrong);
    let who = match (wrong(&pod["spec"]), bad.as_slice()) {
        (false, []) => return None,
        (true, []) => "pod".to_owned(),
        (true, bad) => format!("pod and {}", named(bad)),
        (false, bad) => named(bad),
    };
    Some(format!("seLinuxOptions ({who} set forbidden securityContext.seLinuxOptions)"))
}

fn sysctls(pod: &Value) -> Option<String> {
    let bad: Vec<&str> = list(&pod["spec"]["securityContext"], "sysctls")
        .iter()
        .map(|sysctl| text(sysctl, "name"))
        .filter(|name| !SAFE_SYSCTLS.contains(name))
        .collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn privilege_escalation(pod: &Value) -> Option<String> {
    let bad = those(pod, |c| c["securityContext"]["allowPrivilegeEscalation"].as_bool() != Some(false));
    (!bad.is_empty() && !is_windows(pod)).then(|| {
        format!(
            "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
            named(&bad)
        )
    })
}

fn capabilities_restricted(pod: &Value) -> Option<String> {
    if is_windows(pod) {
        return None;
    }
    let keeps = those(pod, |c| !list(&c["securityContext"]["capabilities"], "drop").iter().any(|name| name == "ALL"));
    let forbidden = |container: &Value| -> Vec<String> {
        added(container).into_iter().filter(|name| name != "NET_BIND_SERVICE").collect()
    };
    let adds = those(pod, |container| !forbidden(container).is_empty());
    let mut parts = Vec::new();
    if !keeps.is_empty() {
        parts.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    if !adds.is_empty() {
        let mut names: Vec<String> = adds.iter().flat_map(|container| forbidden(container)).collect();
        names.sort();
        names.dedup();
        parts.push(format!("{} must not include {} in securityContext.capabilities.add", named(&adds), quoted(&names)));
    }
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

fn volume_types(pod: &Value) -> Option<String> {
    let allowed = |kind: &str| RESTRICTED_VOLUMES.contains(&kind) || MORE_RESTRICTED_VOLUMES.contains(&kind);
    let mut names = Vec::new();
    let mut kinds = Vec::new();
    for volume in list(&pod["spec"], "volumes") {
        let source = volume.as_object().into_iter().flatten().find(|(key, value)| *key != "name" && !value.is_null());
        if let Some((kind, _)) = source.filter(|(kind, _)| !allowed(kind)) {
            names.push(text(volume, "name").to_owned());
            kinds.push(kind.clone());
        }
    }
    kinds.sort();
    kinds.dedup();
    let (volumes, verb, types) = match (names.len(), kinds.len()) {
        (1, _) => ("volume", "uses", "type"),
        (_, 1) => ("volumes", "use", "type"),
        _ => ("volumes", "use", "types"),
    };
    (!names.is_empty()).then(|| {
        format!(
            "restricted volume types ({volumes} {} {verb} restricted volume {types} {})",
            quoted(&names),
            quoted(&kinds)
        )
    })
}

fn run_as_non_root(pod: &Value) -> Option<String> {
    let of_pod = pod["spec"]["securityContext"]["runAsNonRoot"].as_bool();
    let own = |container: &Value| container["securityContext"]["runAsNonRoot"].as_bool();
    let refuses = those(pod, |container| own(container) == Some(false));
    let silent = those(pod, |container| own(container).is_none());
    let mut parts = Vec::new();
    if of_pod == Some(false) {
        parts.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    if !refuses.is_empty() {
        parts.push(format!("{} must not set securityContext.runAsNonRoot=false", named(&refuses)));
    }
    if parts.is_empty() && of_pod.is_none() && !silent.is_empty() {
        parts.push(format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)));
    }
    (!parts.is_empty()).then(|| format!("runAsNonRoot != true ({})", parts.join(" and ")))
}

fn run_as_user(pod: &Value) -> Option<String> {
    let root = |context: &Value| int(&context["securityContext"], "runAsUser") == Some(0);
    let bad = those(pod, root);
    let who = match (root(&pod["spec"]), bad.as_slice()) {
        (false, []) => return None,
        (true, []) => "pod".to_owned(),
        (true, bad) => format!("pod and {}", named(bad)),
        (false, bad) => named(bad),
    };
    Some(format!("runAsUser=0 ({who} must not set runAsUser=0)"))
}

fn seccomp_restricted(pod: &Value) -> Option<String> {
    if is_windows(pod) {
        return None;
    }
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let of_pod = profile(&pod["spec"], "seccompProfile");
    let wrong =
        those(pod, |container| !matches!(profile(container, "seccompProfile"), "" | "RuntimeDefault" | "Localhost"));
    let silent = those(pod, |container| profile(container, "seccompProfile").is_empty());
    let mut parts = Vec::new();
    if !of_pod.is_empty() && !good(of_pod) {
        parts.push(format!("pod must not set securityContext.seccompProfile.type to {of_pod:?}"));
    }
    if !wrong.is_empty() {
        parts.push(format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", named(&wrong)));
    }
    if parts.is_empty() && of_pod.is_empty() && !silent.is_empty() {
        parts.push(format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named(&silent)
        ));
    }
    (!parts.is_empty()).then(|| format!("seccompProfile ({})", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_check_finds_its_violation() {
        let table = [
            (json!({"hostPID": true}), "host namespaces (hostPID=true)"),
            (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")"),
            (
                json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}),
                "hostPort (container \"c\" uses hostPort 80)",
            ),
            (
                json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]}),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            (
                json!({"containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}}]}),
                "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (json!({"securityContext": {"sysctls": [{"name": "kernel.x"}]}}), "forbidden sysctls (kernel.x)"),
        ];
        for (spec, want) in table {
            assert_eq!(violations(&json!({"spec": spec}), Level::Baseline), [want]);
        }
    }

    #[test]
    fn a_careful_pod_is_restricted() {
        let pod = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "projected": {}}],
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
        assert!(violations(&pod, Level::Restricted).is_empty());
    }

    #[test]
    fn a_restricted_level_names_a_capability_once() {
        let pod = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}]}});
        assert_eq!(
            violations(&pod, Level::Restricted),
            [
                "unrestricted capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)"
            ]
        );
    }
}
