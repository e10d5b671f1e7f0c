//! The configuration of a container.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    ConfigError,
    expansion::expand,
    resources::{self, MachineLimits},
    security::{self, ImageUser},
};
use crate::{cri::v1, labels, pods::spec};

/// Everything besides the pod that a container's configuration depends on.
pub struct ContainerInput<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub restart_count: u32,
    /// Identity of the image that was found or pulled.
    pub image_ref: &'a str,
    pub image_user: &'a ImageUser,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<v1::Mount>,
    pub machine: &'a MachineLimits,
    pub seccomp_root: &'a Path,
    /// Runtime id of the container whose processes a debug container sees.
    pub target: Option<&'a str>,
}

/// Where the runtime writes a container's log, below the pod's log directory.
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// Builds the configuration.
pub fn container_config(input: ContainerInput<'_>) -> Result<v1::ContainerConfig, ConfigError> {
    let (pod, container) = (input.pod, input.container);
    let variables: BTreeMap<&str, &str> =
        input.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let expand_all = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, &lookup)).collect();
    let command = expand_all(&container.command);
    let args = expand_all(&container.args);
    let context = security::container_context(pod, container, input.image_user, input.target, input.seccomp_root)?;
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: input.restart_count }),
        image: Some(v1::ImageSpec {
            image: input.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: input
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: input.mounts,
        devices: Vec::new(),
        labels: container_labels(pod, container).into_iter().collect(),
        annotations: annotations(pod, container, input.restart_count).into_iter().collect(),
        log_path: log_path(&container.name, input.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::container_resources(pod, container, input.machine)),
            security_context: Some(context),
        }),
        cdi_devices: Vec::new(),
        stop_signal: stop_signal(container),
    })
}

/// The runtime's number of the signal that a container wants to be stopped with; zero leaves it to the image.
fn stop_signal(container: &Container) -> i32 {
    let wanted = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let position = SIGNALS.iter().position(|name| Some(*name) == wanted);
    position.and_then(|position| i32::try_from(position + 1).ok()).unwrap_or_default()
}

/// Signals in the order in which CRI numbers them, from one.
const SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

fn container_labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    [
        (labels::POD_NAME, spec::name(pod)),
        (labels::POD_NAMESPACE, spec::namespace(pod)),
        (labels::POD_UID, spec::uid(pod)),
        (labels::CONTAINER_NAME, &container.name),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn annotations(pod: &Pod, container: &Container, restart_count: u32) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = [
        (labels::CONTAINER_HASH, spec::container_hash(container)),
        (labels::CONTAINER_RESTART_COUNT, restart_count.to_string()),
        (labels::TERMINATION_MESSAGE_PATH, termination_path(container).to_owned()),
        (
            labels::TERMINATION_MESSAGE_POLICY,
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if let Some(seconds) = spec::spec(pod).termination_grace_period_seconds {
        all.insert(labels::POD_TERMINATION_GRACE_PERIOD.to_owned(), seconds.to_string());
    }
    all
}

/// Where the container leaves its last words.
pub fn termination_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_are_expanded_and_identity_is_recorded() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "img", "command": ["/bin/$(X)"], "args": ["$(NO)", "$$(X)"]}]}}))
        .unwrap();
        let machine = MachineLimits {
            memory_bytes: 1 << 30,
            cgroup_version: skiff_host::cgroup::Version::V1,
            huge_page_sizes: vec![],
            pod_pids_max: -1,
        };
        let made = container_config(ContainerInput {
            pod: &pod,
            container: &spec::containers(&pod)[0],
            restart_count: 3,
            image_ref: "sha256:1",
            image_user: &ImageUser::default(),
            env: vec![("X".into(), "sh".into())],
            mounts: vec![],
            machine: &machine,
            seccomp_root: Path::new("/s"),
            target: None,
        })
        .unwrap();
        assert_eq!(made.command, ["/bin/sh"]);
        assert_eq!(made.args, ["$(NO)", "$(X)"]);
        assert_eq!(made.log_path, "c/3.log");
        assert_eq!(made.metadata.unwrap().attempt, 3);
        assert_eq!(made.annotations[labels::CONTAINER_HASH], spec::container_hash(&spec::containers(&pod)[0]));
    }
}
