//! Validation of the security contexts of pods and containers.

use serde_json::Value;

use crate::registry::{
    validation::{Errors, Path},
    value::{field, flag, list, text},
};

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const SYSCTL_BYTES_MAX: usize = 253;
const SYSCTL_PATTERN: &str = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";

fn id(errors: &mut Errors, path: &Path<'_>, value: &Value) {
    if let Some(number) = value.as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&number)
    {
        errors.invalid(path, number, ID_RANGE);
    }
}

/// `spec.securityContext`.
pub fn pod(errors: &mut Errors, path: &Path<'_>, context: &Value, spec: &Value) {
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, &path.child(name), &context[name]);
    }
    let groups = path.child("supplementalGroups");
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(errors, &groups.index(i), group);
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    sysctls(errors, &path.child("sysctls"), list(context, "sysctls"), spec);
    if let Some(policy) = field(context, "fsGroupChangePolicy").and_then(Value::as_str) {
        errors.one_of(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    if let Some(policy) = field(context, "supplementalGroupsPolicy").and_then(Value::as_str) {
        errors.one_of(&path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    profiles(errors, path, context);
}

fn profiles(errors: &mut Errors, path: &Path<'_>, context: &Value) {
    for name in ["seccompProfile", "appArmorProfile"] {
        let Some(profile) = field(context, name) else { continue };
        let path = path.child(name);
        match text(profile, "type") {
            "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
            "Localhost" => {
                if text(profile, "localhostProfile").is_empty() {
                    errors.required(&path.child("localhostProfile"), "must be set when seccomp type is Localhost");
                }
            }
            "RuntimeDefault" | "Unconfined" => {
                if field(profile, "localhostProfile").is_some() {
                    errors.invalid(
                        &path.child("localhostProfile"),
                        profile,
                        "can only be set when seccomp type is Localhost",
                    );
                }
            }
            other => errors.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
        }
    }
}

fn sysctls(errors: &mut Errors, path: &Path<'_>, sysctls: &[Value], spec: &Value) {
    let mut names: Vec<&str> = Vec::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i);
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !is_sysctl_name(name) {
            errors.invalid(
                &path.child("name"),
                name,
                format!("must have at most {SYSCTL_BYTES_MAX} characters and match regex ^{SYSCTL_PATTERN}$"),
            );
        } else if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        names.push(name);
        if flag(spec, "hostNetwork") && name.starts_with("net.") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc =
            ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
        if flag(spec, "hostIPC") && ipc {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

/// Dot- or slash-separated segments of lower-case letters, digits, `-` and `_`.
pub fn is_sysctl_name(name: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= SYSCTL_BYTES_MAX
        && name.split(['.', '/']).all(|segment| {
            let bytes = segment.as_bytes();
            bytes.first().is_some_and(edge)
                && bytes.last().is_some_and(edge)
                && bytes.iter().all(|byte| edge(byte) || b"-_".contains(byte))
        })
}

/// `securityContext` of a container.
pub fn container(errors: &mut Errors, path: &Path<'_>, context: &Value, spec: &Value) {
    if context.is_null() {
        return;
    }
    for name in ["runAsUser", "runAsGroup"] {
        id(errors, &path.child(name), &context[name]);
    }
    if let Some(mount) = field(context, "procMount").and_then(Value::as_str) {
        errors.one_of(&path.child("procMount"), mount, &["Default", "Unmasked"]);
        if mount == "Unmasked" && field(spec, "hostUsers").and_then(Value::as_bool).unwrap_or(true) {
            errors.invalid(&path.child("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    if field(context, "allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if flag(context, "privileged") {
            errors.invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if list(&context["capabilities"], "add").iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            errors.invalid(
                path,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    profiles(errors, path, context);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn sysctl_names_have_segments() {
        for good in ["kernel.shm_rmid_forced", "net/ipv4/ip_forward", "a.b-c"] {
            assert!(is_sysctl_name(good), "{good}");
        }
        for bad in ["foo-", "bar..", "kernel.shmmax-", "Kernel.x", ""] {
            assert!(!is_sysctl_name(bad), "{bad}");
        }
    }

    #[test]
    fn ids_are_in_range() {
        let mut errors = Errors::new();
        let context = json!({"runAsUser": -1, "supplementalGroups": [1, 4294967296i64]});
        pod(&mut errors, &Path::new("sc"), &context, &json!({}));
        assert_eq!(
            lines(errors.into_causes()),
            [
                "sc.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "sc.supplementalGroups[1]: Invalid value: 4294967296: must be between 0 and 2147483647, inclusive"
            ]
        );
    }
}
