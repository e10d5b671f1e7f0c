//! Security contexts: the container's settings over the pod's.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use super::ConfigError;
use crate::{cri::v1, pods::spec};

/// Paths of `/proc` and `/sys` hidden from containers.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user an image wants to run as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub username: String,
}

impl From<&v1::Image> for ImageUser {
    fn from(image: &v1::Image) -> Self {
        ImageUser { uid: image.uid.map(|uid| uid.value), username: image.username.clone() }
    }
}

/// Namespaces of the pod. `target` is the container whose processes a debug container sees.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> v1::NamespaceOption {
    let pod_spec = spec::spec(pod);
    let node_or = |host: Option<bool>, other: v1::NamespaceMode| {
        if host == Some(true) { v1::NamespaceMode::Node as i32 } else { other as i32 }
    };
    let shared = pod_spec.share_process_namespace == Some(true);
    let mut pid =
        node_or(pod_spec.host_pid, if shared { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container });
    if target.is_some() && pid == v1::NamespaceMode::Container as i32 {
        pid = v1::NamespaceMode::Target as i32;
    }
    v1::NamespaceOption {
        network: node_or(pod_spec.host_network, v1::NamespaceMode::Pod),
        pid,
        ipc: node_or(pod_spec.host_ipc, v1::NamespaceMode::Pod),
        target_id: target.unwrap_or_default().to_owned(),
        userns_options: None,
    }
}

pub fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// Whether any container of the pod is privileged, so that its sandbox must be.
pub fn has_privileged(pod: &Pod) -> bool {
    spec::all_containers(pod).iter().any(|(_, container)| is_privileged(container))
}

/// Groups that all processes of a pod have besides their own.
pub fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let Some(context) = &spec::spec(pod).security_context else { return Vec::new() };
    let mut groups: Vec<i64> = context.fs_group.into_iter().collect();
    groups.extend(context.supplemental_groups.iter().flatten().copied());
    groups
}

fn groups_policy(pod: &Pod) -> i32 {
    let context = spec::spec(pod).security_context.as_ref();
    match context.and_then(|context| context.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn int64(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

/// The context of the sandbox.
pub fn sandbox_context(pod: &Pod, target: Option<&str>) -> v1::LinuxSandboxSecurityContext {
    let context = spec::spec(pod).security_context.clone().unwrap_or_default();
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, target)),
        run_as_user: int64(context.run_as_user),
        run_as_group: int64(context.run_as_group.filter(|_| context.run_as_user.is_some())),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged: has_privileged(pod),
        // The sandbox process only waits; it never needs more than the default profile.
        seccomp: Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
        ..Default::default()
    }
}

/// The context of a container; fails when the image would run as a forbidden user.
pub fn container_context(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    target: Option<&str>,
    seccomp_root: &Path,
) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
    let pod_context = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(pod_context.run_as_user);
    let run_as_group = own.run_as_group.or(pod_context.run_as_group);
    if own.run_as_non_root.or(pod_context.run_as_non_root) == Some(true) {
        verify_non_root(pod, container, run_as_user, image_user)?;
    }
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let capabilities = own.capabilities.unwrap_or_default();
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    // Without a user of its own the container gets the image's, by number if it is one.
    let user = run_as_user.or(image_user.uid);
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        run_as_user: int64(user),
        run_as_username: if user.is_none() { image_user.username.clone() } else { String::new() },
        run_as_group: int64(run_as_group.filter(|_| user.is_some() || !image_user.username.is_empty())),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READ_ONLY_PATHS),
        seccomp: Some(seccomp(own.seccomp_profile.or(pod_context.seccomp_profile).as_ref(), seccomp_root)),
        apparmor: apparmor(own.app_armor_profile.or(pod_context.app_armor_profile).as_ref()),
        selinux_options: own.se_linux_options.or(pod_context.se_linux_options).map(|options| v1::SeLinuxOption {
            user: options.user.unwrap_or_default(),
            role: options.role.unwrap_or_default(),
            r#type: options.type_.unwrap_or_default(),
            level: options.level.unwrap_or_default(),
        }),
    })
}

fn verify_non_root(pod: &Pod, container: &Container, user: Option<i64>, image: &ImageUser) -> Result<(), ConfigError> {
    let whom = format!("(pod: \"{}\", container: {})", spec::full_name(pod), container.name);
    let message = match (user, image.uid) {
        (Some(0), _) => format!("container's runAsUser breaks non-root policy {whom}"),
        (Some(_), _) => return Ok(()),
        (None, Some(0)) => format!("container has runAsNonRoot and image will run as root {whom}"),
        (None, None) if !image.username.is_empty() => format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {whom}",
            image.username
        ),
        // The runtime reports no user for an image that runs as root.
        (None, None) => format!("container has runAsNonRoot and image will run as root {whom}"),
        (None, Some(_)) => return Ok(()),
    };
    Err(ConfigError(message))
}

fn seccomp(profile: Option<&SeccompProfile>, root: &Path) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, reference) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
            (ProfileType::Localhost, root.join(name).display().to_string())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: reference }
}

fn apparmor(profile: Option<&k8s_openapi::api::core::v1::AppArmorProfile>) -> Option<v1::SecurityProfile> {
    use v1::security_profile::ProfileType;
    let profile = profile?;
    let kind = match profile.type_.as_str() {
        "Localhost" => ProfileType::Localhost,
        "Unconfined" => ProfileType::Unconfined,
        _ => ProfileType::RuntimeDefault,
    };
    let reference = profile.localhost_profile.clone().unwrap_or_default();
    Some(v1::SecurityProfile { profile_type: kind as i32, localhost_ref: reference })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(
        pod_context: serde_json::Value,
        own: serde_json::Value,
        image: ImageUser,
    ) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap();
        container_context(&pod, &spec::containers(&pod)[0], &image, None, Path::new("/seccomp"))
    }

    #[test]
    fn the_container_wins_over_the_pod_and_the_image_comes_last() {
        let image = ImageUser { uid: Some(7), username: String::new() };
        let user = |pod: serde_json::Value, own: serde_json::Value| {
            context(pod, own, image.clone()).unwrap().run_as_user.map(|user| user.value)
        };
        assert_eq!(user(json!({"runAsUser": 1}), json!({"runAsUser": 2})), Some(2));
        assert_eq!(user(json!({"runAsUser": 1}), json!({})), Some(1));
        assert_eq!(user(json!({}), json!({})), Some(7));
    }

    #[test]
    fn non_root_is_enforced_against_root_and_unknown_users() {
        let fails = |own: serde_json::Value, image| context(json!({"runAsNonRoot": true}), own, image).is_err();
        let image = |uid, name: &str| ImageUser { uid, username: name.into() };
        assert!(fails(json!({"runAsUser": 0}), image(Some(5), "")));
        assert!(fails(json!({}), image(Some(0), "")));
        assert!(fails(json!({}), image(None, "app")));
        assert!(fails(json!({}), image(None, "")));
        assert!(!fails(json!({}), image(Some(5), "")));
        assert!(!fails(json!({"runAsNonRoot": false}), image(Some(0), "")));
    }

    #[test]
    fn profiles_privilege_and_groups_reach_the_runtime() {
        let made = context(
            json!({"fsGroup": 9, "supplementalGroups": [3], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"allowPrivilegeEscalation": false, "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}),
            ImageUser::default(),
        )
        .unwrap();
        assert_eq!(made.supplemental_groups, [9, 3]);
        assert_eq!(made.seccomp.unwrap().localhost_ref, "/seccomp/a.json");
        assert!(made.no_new_privs && made.masked_paths.contains(&"/proc/kcore".to_owned()));
        let privileged = context(json!({}), json!({"privileged": true}), ImageUser::default()).unwrap();
        assert!(privileged.masked_paths.is_empty() && privileged.readonly_paths.is_empty());
    }
}
