//! Links to container logs under flat names, where log shippers look for them:
//! `containers/<pod>_<namespace>_<container>-<id>.log` beside the pods' folder.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;

use crate::pods::spec;

/// Longest file name that file systems take.
const NAME_BYTES_MAX: usize = 255;

fn directory(pod_log_dir: &Path) -> PathBuf {
    pod_log_dir.parent().unwrap_or(pod_log_dir).join("containers")
}

fn file_name(pod: &Pod, container: &str, id: &str) -> String {
    let end = format!("-{id}.log");
    let start = format!("{}_{}_{container}", spec::name(pod), spec::namespace(pod));
    let room = NAME_BYTES_MAX.saturating_sub(end.len());
    // Names are DNS labels, so every byte is a character.
    format!("{}{end}", &start[..start.len().min(room)])
}

/// Makes the link of a container. Logs are read without it as well, so a failure is only noted.
pub fn link(pod_log_dir: &Path, log: &Path, pod: &Pod, container: &str, id: &str) {
    let directory = directory(pod_log_dir);
    let path = directory.join(file_name(pod, container, id));
    if let Err(error) = fs::create_dir_all(&directory).and_then(|()| symlink(log, &path)) {
        tracing::debug!(component = "logs", path = %path.display(), %error, "link container log");
    }
}

/// Removes links into `pod_log_dir` whose logs are gone.
pub fn sweep(pod_log_dir: &Path) {
    let Ok(entries) = fs::read_dir(directory(pod_log_dir)) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let ours = fs::read_link(&path).is_ok_and(|target| target.starts_with(pod_log_dir));
        if ours && !path.exists() {
            // Tried again with the next sweep.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn links_live_as_long_as_their_logs() {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("pods");
        fs::create_dir_all(&pods).unwrap();
        let log = pods.join("0.log");
        fs::write(&log, "").unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        link(&pods, &log, &pod, "c", "abc");
        let path = root.path().join("containers/p_n_c-abc.log");
        sweep(&pods);
        assert!(path.exists());
        fs::remove_file(&log).unwrap();
        sweep(&pods);
        assert!(fs::symlink_metadata(&path).is_err());
        assert!(file_name(&pod, &"x".repeat(300), "abc").len() <= NAME_BYTES_MAX);
    }
}
