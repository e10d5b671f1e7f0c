//! The checks of the Pod Security Standards: what `baseline` and `restricted`
//! do not allow, in upstream's words.

use std::collections::BTreeSet;

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
/// With the version that took them up.
const SAFE_SYSCTLS: [(u32, &str); 14] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
    (37, "net.ipv4.tcp_slow_start_after_idle"),
    (37, "net.ipv4.tcp_notsent_lowat"),
];
const SELINUX_TYPES: [(u32, &str); 5] =
    [(0, ""), (0, "container_t"), (0, "container_init_t"), (0, "container_kvm_t"), (31, "container_engine_t")];
const RESTRICTED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The version of a policy that moves with the server's.
pub const LATEST: u32 = u32::MAX;

/// What a check has found.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: &'static str,
    detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

/// Violations as the user is told of them.
pub fn shown(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join(", ")
}

/// Where a check belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    /// In restricted a stricter one speaks for it.
    Baseline,
    Restricted,
}

/// A check with the minor versions from and until which it holds.
struct Check {
    of: Of,
    from: u32,
    until: u32,
    run: fn(&Value, u32) -> Option<Violation>,
}

const fn check(of: Of, from: u32, run: fn(&Value, u32) -> Option<Violation>) -> Check {
    Check { of, from, until: LATEST, run }
}

const fn until(until: u32, check: Check) -> Check {
    Check { until, ..check }
}

/// In the order of upstream's ids, which is the order of what users are told.
const CHECKS: [Check; 22] = [
    check(Of::Both, 0, app_armor),
    check(Of::Baseline, 0, capabilities_baseline),
    until(22, check(Of::Restricted, 0, capabilities_baseline)),
    check(Of::Both, 0, host_namespaces),
    check(Of::Baseline, 0, host_path),
    check(Of::Both, 0, host_ports),
    check(Of::Both, 34, host_probes),
    check(Of::Both, 0, privileged),
    check(Of::Baseline, 0, proc_mount_baseline),
    until(35, check(Of::Restricted, 0, proc_mount)),
    check(Of::Both, 0, selinux),
    until(19, check(Of::Both, 0, seccomp_annotations)),
    check(Of::Baseline, 19, seccomp_baseline),
    check(Of::Both, 0, sysctls),
    check(Of::Both, 0, windows_host_process),
    check(Of::Restricted, 8, privilege_escalation),
    check(Of::Restricted, 22, capabilities_restricted),
    check(Of::Restricted, 35, proc_mount),
    check(Of::Restricted, 0, volume_types),
    check(Of::Restricted, 0, run_as_non_root),
    check(Of::Restricted, 23, run_as_user),
    check(Of::Restricted, 19, seccomp_restricted),
];

/// Everything a pod (or template) does that the level does not allow, in a minor version of the standards.
pub fn violations(pod: &Value, level: Level, minor: u32) -> Vec<Violation> {
    let other = match level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => Of::Restricted,
        Level::Restricted => Of::Baseline,
    };
    let holds =
        |check: &&Check| check.of != other && check.from <= minor && (minor < check.until || check.until == LATEST);
    CHECKS.iter().filter(holds).filter_map(|check| (check.run)(pod, minor)).collect()
}

fn found(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let spec = &pod["spec"];
    list(spec, "initContainers").iter().chain(list(spec, "containers")).chain(list(spec, "ephemeralContainers"))
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[&Value]) -> String {
    let names: Vec<&str> = containers.iter().map(|container| text(container, "name")).collect();
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names))
}

/// `pod`, `container "a"` or both.
fn setters(pod: bool, containers: &[&Value]) -> Option<String> {
    match (pod, containers) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (true, containers) => Some(format!("pod and {}", named(containers))),
        (false, containers) => Some(named(containers)),
    }
}

fn plural(count: usize, one: &'static str, several: &'static str) -> &'static str {
    if count == 1 { one } else { several }
}

fn those(pod: &Value, is_bad: impl Fn(&Value) -> bool) -> Vec<&Value> {
    containers(pod).filter(|container| is_bad(container)).collect()
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

/// What the bad ones have that is bad, each once and sorted.
fn values<'a, T: Ord>(bad: &[&'a Value], of: impl Fn(&'a Value) -> Vec<T>) -> BTreeSet<T> {
    bad.iter().flat_map(|container| of(container)).collect()
}

/// From 1.25 on, pods of Windows need not set what it does not have.
fn spares_windows(pod: &Value, minor: u32) -> bool {
    minor >= 25 && text(&pod["spec"]["os"], "name") == "windows"
}

/// From 1.35 on, who has users of its own may be root among them.
fn has_own_users(pod: &Value, minor: u32) -> bool {
    minor >= 35 && pod["spec"]["hostUsers"] == false
}

fn privileged(pod: &Value, _: u32) -> Option<Violation> {
    let bad = those(pod, |container| flag(&container["securityContext"], "privileged"));
    let who = setters(false, &bad)?;
    found("privileged", format!("{who} must not set securityContext.privileged=true"))
}

fn windows_host_process(pod: &Value, _: u32) -> Option<Violation> {
    let is_set = |context: &Value| flag(&context["securityContext"]["windowsOptions"], "hostProcess");
    let who = setters(is_set(&pod["spec"]), &those(pod, is_set))?;
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn host_namespaces(pod: &Value, _: u32) -> Option<Violation> {
    let used = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| flag(&pod["spec"], name));
    let used: Vec<String> = used.map(|name| format!("{name}=true")).collect();
    if used.is_empty() { None } else { found("host namespaces", used.join(", ")) }
}

fn host_path(pod: &Value, _: u32) -> Option<Violation> {
    let volumes = list(&pod["spec"], "volumes").iter().filter(|volume| field(volume, "hostPath").is_some());
    let bad: Vec<&str> = volumes.map(|volume| text(volume, "name")).collect();
    if bad.is_empty() {
        return None;
    }
    found("hostPath volumes", format!("{} {}", plural(bad.len(), "volume", "volumes"), quoted(bad)))
}

fn host_ports(pod: &Value, _: u32) -> Option<Violation> {
    let taken = |container: &Value| -> Vec<String> {
        let ports = list(container, "ports").iter().filter_map(|port| int(port, "hostPort"));
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let bad = those(pod, |container| !taken(container).is_empty());
    let who = setters(false, &bad)?;
    let ports: Vec<String> = values(&bad, taken).into_iter().collect();
    let word = plural(ports.len(), "hostPort", "hostPorts");
    found("hostPort", format!("{who} {} {word} {}", plural(bad.len(), "uses", "use"), ports.join(", ")))
}

/// A probe or hook that names a host makes the node reach where the pod may not.
fn host_probes(pod: &Value, _: u32) -> Option<Violation> {
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
    let mut bad = those(pod, |container| !hosts(container).is_empty());
    bad.sort_by_key(|container| text(container, "name"));
    let who = setters(false, &bad)?;
    let all = values(&bad, hosts);
    let word = plural(all.len(), "probe or lifecycle host", "probe or lifecycle hosts");
    found("probe or lifecycle host", format!("{who} {} {word} {}", plural(bad.len(), "uses", "use"), quoted(all)))
}

/// Added capabilities beside those that are allowed.
fn added<'a>(container: &'a Value, allowed: &[&str]) -> Vec<&'a str> {
    let added = list(&container["securityContext"]["capabilities"], "add").iter().filter_map(Value::as_str);
    added.filter(|name| !allowed.contains(name)).collect()
}

/// Who adds them, and which.
fn additions(pod: &Value, allowed: &[&str]) -> Option<String> {
    let bad = those(pod, |container| !added(container, allowed).is_empty());
    let who = setters(false, &bad)?;
    let names = quoted(values(&bad, |container| added(container, allowed)));
    Some(format!("{who} must not include {names} in securityContext.capabilities.add"))
}

fn capabilities_baseline(pod: &Value, _: u32) -> Option<Violation> {
    found("non-default capabilities", additions(pod, &BASELINE_CAPABILITIES)?)
}

fn proc_mount(pod: &Value, _: u32) -> Option<Violation> {
    let mount = |container: &Value| text(&container["securityContext"], "procMount").to_owned();
    let bad = those(pod, |container| !matches!(mount(container).as_str(), "" | "Default"));
    let who = setters(false, &bad)?;
    let mounts = quoted(values(&bad, |container| vec![mount(container)]));
    found("procMount", format!("{who} must not set securityContext.procMount to {mounts}"))
}

fn proc_mount_baseline(pod: &Value, minor: u32) -> Option<Violation> {
    if has_own_users(pod, minor) { None } else { proc_mount(pod, minor) }
}

/// Types of a profile that are neither the runtime's nor one of the node: of the pod, and of its containers.
fn profiles<'a>(pod: &'a Value, name: &str) -> (bool, Vec<&'a Value>, BTreeSet<String>) {
    let wrong = |context: &Value| {
        let profile = field(&context["securityContext"], name)?;
        let kind = text(profile, "type");
        (!matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
    };
    let (of_pod, bad) = (wrong(&pod["spec"]), those(pod, |container| wrong(container).is_some()));
    let mut kinds = values(&bad, |container| wrong(container).into_iter().collect());
    let is_wrong = of_pod.is_some();
    kinds.extend(of_pod);
    (is_wrong, bad, kinds)
}

fn annotations(pod: &Value) -> impl Iterator<Item = (&String, &str)> {
    let annotations = pod["metadata"]["annotations"].as_object().into_iter().flatten();
    annotations.filter_map(|(key, value)| Some((key, value.as_str()?)))
}

fn app_armor(pod: &Value, _: u32) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let (of_pod, bad, kinds) = profiles(pod, "appArmorProfile");
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let annotated = annotations(pod).filter(|(key, value)| key.starts_with(PREFIX) && !allowed(value));
    let annotated: BTreeSet<String> = annotated.map(|(key, value)| format!("{key}={value:?}")).collect();
    let annotation = (!annotated.is_empty()).then(|| plural(annotated.len(), "annotation", "annotations").to_owned());
    let who: Vec<String> = setters(of_pod, &bad).into_iter().chain(annotation).collect();
    let kinds: Vec<String> = kinds.into_iter().chain(annotated).collect();
    if who.is_empty() {
        return None;
    }
    let reason = plural(kinds.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    found(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(kinds)))
}

/// Before there was a field.
fn seccomp_annotations(pod: &Value, _: u32) -> Option<Violation> {
    let allowed =
        |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let about = |key: &str| {
        key == "seccomp.security.alpha.kubernetes.io/pod"
            || key
                .strip_prefix("container.seccomp.security.alpha.kubernetes.io/")
                .is_some_and(|name| containers(pod).any(|container| text(container, "name") == name))
    };
    let bad = annotations(pod).filter(|(key, value)| about(key) && !allowed(value));
    let bad: BTreeSet<String> = bad.map(|(key, value)| format!("{key}={value:?}")).collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural(bad.len(), "annotation", "annotations");
    found("seccompProfile", format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp_baseline(pod: &Value, _: u32) -> Option<Violation> {
    let (of_pod, bad, kinds) = profiles(pod, "seccompProfile");
    let who = setters(of_pod, &bad)?;
    found("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(kinds)))
}

fn selinux(pod: &Value, minor: u32) -> Option<Violation> {
    let options = |context: &Value| context["securityContext"]["seLinuxOptions"].clone();
    let allowed = |kind: &str| SELINUX_TYPES.iter().any(|(from, have)| *from <= minor && *have == kind);
    let wrong = |context: &Value| {
        let options = options(context);
        !allowed(text(&options, "type")) || !text(&options, "user").is_empty() || !text(&options, "role").is_empty()
    };
    let bad = those(pod, wrong);
    let who = setters(wrong(&pod["spec"]), &bad)?;
    let all: Vec<Value> = std::iter::once(&pod["spec"]).chain(bad).map(options).collect();
    let kinds: BTreeSet<&str> = all.iter().map(|options| text(options, "type")).filter(|kind| !allowed(kind)).collect();
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural(kinds.len(), "type", "types"), quoted(kinds)));
    }
    for name in ["user", "role"] {
        if all.iter().any(|options| !text(options, name).is_empty()) {
            what.push(format!("{name} may not be set"));
        }
    }
    found("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

fn sysctls(pod: &Value, minor: u32) -> Option<Violation> {
    let allowed = |name: &str| SAFE_SYSCTLS.iter().any(|(from, have)| *from <= minor && *have == name);
    let all = list(&pod["spec"]["securityContext"], "sysctls").iter().map(|sysctl| text(sysctl, "name"));
    let bad: Vec<&str> = all.filter(|name| !allowed(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn privilege_escalation(pod: &Value, minor: u32) -> Option<Violation> {
    if spares_windows(pod, minor) {
        return None;
    }
    let bad = those(pod, |container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    let who = setters(false, &bad)?;
    found("allowPrivilegeEscalation != false", format!("{who} must set securityContext.allowPrivilegeEscalation=false"))
}

fn capabilities_restricted(pod: &Value, minor: u32) -> Option<Violation> {
    if spares_windows(pod, minor) {
        return None;
    }
    let drops_all = |container: &Value| {
        list(&container["securityContext"]["capabilities"], "drop").iter().any(|name| name == "ALL")
    };
    let keeps = setters(false, &those(pod, |container| !drops_all(container)));
    let keeps = keeps.map(|who| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    let parts: Vec<String> = keeps.into_iter().chain(additions(pod, &["NET_BIND_SERVICE"])).collect();
    if parts.is_empty() { None } else { found("unrestricted capabilities", parts.join("; ")) }
}

fn volume_types(pod: &Value, _: u32) -> Option<Violation> {
    let mut names = Vec::new();
    let mut kinds = BTreeSet::new();
    for volume in list(&pod["spec"], "volumes") {
        let source = volume.as_object().into_iter().flatten().find(|(key, value)| *key != "name" && !value.is_null());
        let kind = source.map_or("unknown", |(kind, _)| kind.as_str());
        if !RESTRICTED_VOLUMES.contains(&kind) {
            names.push(text(volume, "name"));
            kinds.insert(kind);
        }
    }
    if names.is_empty() {
        return None;
    }
    let (volumes, uses) = (plural(names.len(), "volume", "volumes"), plural(names.len(), "uses", "use"));
    let types = plural(kinds.len(), "restricted volume type", "restricted volume types");
    found("restricted volume types", format!("{volumes} {} {uses} {types} {}", quoted(names), quoted(kinds)))
}

fn run_as_non_root(pod: &Value, minor: u32) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if has_own_users(pod, minor) {
        return None;
    }
    let own = |context: &Value| context["securityContext"]["runAsNonRoot"].as_bool();
    let of_pod = own(&pod["spec"]);
    if let Some(who) = setters(of_pod == Some(false), &those(pod, |container| own(container) == Some(false))) {
        return found(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = those(pod, |container| own(container).is_none() && of_pod != Some(true));
    let who = setters(false, &silent)?;
    found(REASON, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(pod: &Value, minor: u32) -> Option<Violation> {
    if has_own_users(pod, minor) {
        return None;
    }
    let root = |context: &Value| int(&context["securityContext"], "runAsUser") == Some(0);
    let who = setters(root(&pod["spec"]), &those(pod, root))?;
    found("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp_restricted(pod: &Value, minor: u32) -> Option<Violation> {
    if spares_windows(pod, minor) {
        return None;
    }
    if let Some(violation) = seccomp_baseline(pod, minor) {
        return Some(violation);
    }
    let has = |context: &Value| field(&context["securityContext"], "seccompProfile").is_some();
    let silent = those(pod, |container| !has(container) && !has(&pod["spec"]));
    let who = setters(false, &silent)?;
    found(
        "seccompProfile",
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(pod: &Value, level: Level, minor: u32) -> String {
        shown(&violations(pod, level, minor))
    }

    #[test]
    fn each_check_finds_its_violation() {
        let table = [
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
                "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"seLinuxOptions": {"type": "x_t", "user": "u"}},
                    "containers": [{"name": "c", "securityContext": {"seLinuxOptions": {"role": "r"}}}]}),
                "seLinuxOptions (pod and container \"c\" set forbidden securityContext.seLinuxOptions: type \"x_t\"; \
                 user may not be set; role may not be set)",
            ),
            (
                json!({"containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "h"}}}]}),
                "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\")",
            ),
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
            assert_eq!(told(&json!({"spec": spec}), Level::Baseline, LATEST), want);
        }
    }

    #[test]
    fn a_careful_pod_is_restricted() {
        let pod = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "projected": {}}],
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
        assert!(violations(&pod, Level::Restricted, LATEST).is_empty());
    }

    #[test]
    fn a_restricted_level_names_a_capability_once() {
        let pod = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}]}});
        assert_eq!(
            told(&pod, Level::Restricted, LATEST),
            "unrestricted capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)"
        );
    }

    #[test]
    fn a_version_has_the_checks_of_its_time() {
        let spec = |spec: Value| json!({"spec": spec});
        let container = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
        let sysctl = spec(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}));
        assert_eq!(told(&sysctl, Level::Baseline, 31), "forbidden sysctls (net.ipv4.tcp_rmem)");
        assert_eq!(told(&sysctl, Level::Baseline, 32), "");
        let engine = spec(json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}));
        assert!(!told(&engine, Level::Baseline, 30).is_empty() && told(&engine, Level::Baseline, 31).is_empty());
        let probe = spec(json!({"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"host": "h"}}}]}));
        assert!(told(&probe, Level::Baseline, 33).is_empty() && !told(&probe, Level::Baseline, 34).is_empty());
        // Before 1.19 profiles were annotations, before 1.22 capabilities were the baseline's.
        let old = json!({"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true, "capabilities": {"add": ["X"]}}}]}});
        assert_eq!(
            told(&old, Level::Restricted, 7),
            "non-default capabilities (container \"c\" must not include \"X\" in securityContext.capabilities.add), \
             seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
        );
        // Users of its own let a pod be root and see its processes, but not in restricted.
        let mut users = spec(container(json!({"procMount": "Unmasked", "runAsUser": 0})));
        users["spec"]["hostUsers"] = json!(false);
        assert!(!told(&users, Level::Baseline, 34).is_empty() && told(&users, Level::Baseline, 35).is_empty());
        let restricted = told(&users, Level::Restricted, LATEST);
        assert!(restricted.contains("procMount (") && !restricted.contains("runAs"), "{restricted}");
        let windows = spec(json!({"os": {"name": "windows"}, "containers": [{"name": "c",
            "securityContext": {"runAsNonRoot": true}}]}));
        assert!(told(&windows, Level::Restricted, 24).contains("allowPrivilegeEscalation"));
        assert_eq!(told(&windows, Level::Restricted, 25), "");
    }

    #[test]
    fn a_stricter_check_speaks_for_its_baseline() {
        let pod = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {}}],
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "Unconfined"}}}});
        assert_eq!(
            told(&pod, Level::Restricted, LATEST),
            "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\"), \
             seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")"
        );
    }
}
