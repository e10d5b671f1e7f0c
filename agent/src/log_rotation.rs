//! Keeps container logs small: a log that has grown is renamed, and the
//! runtime opens a new one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{config::RuntimeConfig, context::Context, limits, log_links};

/// Rotates logs until `token` is cancelled. Writing to a log is announced by nobody, so sizes are looked at.
pub async fn run(context: Arc<Context>, token: CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(limits::LOG_CHECK_PERIOD) => {}
        }
        if let RuntimeConfig::Supervised(containerd) = &context.config.runtime
            && let Err(error) = bound(&containerd.log_file)
        {
            tracing::warn!(component = "logs", path = %containerd.log_file.display(), %error, "bound log");
        }
        log_links::sweep(&context.config.pod_log_dir());
        for pod in context.pleg.pods() {
            for container in pod.containers.iter().filter(|container| container.is_running()) {
                let path = Path::new(&container.log_path);
                if !fs::metadata(path).is_ok_and(|metadata| metadata.len() > limits::LOG_BYTES_MAX) {
                    continue;
                }
                match rotate(path, Timestamp::now()) {
                    Ok(rotated) => {
                        if let Err(error) = context.cri.reopen_container_log(&container.id).await {
                            tracing::warn!(component = "logs", container = container.id, %error, "reopen log");
                            // Without a new file the runtime goes on writing into the old one.
                            let _ = fs::rename(&rotated, path);
                        }
                    }
                    Err(error) => tracing::warn!(component = "logs", path = %path.display(), %error, "rotate log"),
                }
            }
        }
    }
}

/// Keeps a log that its writer never reopens small: the content is copied away and the file emptied.
/// The writer appends, so it goes on at the new end.
fn bound(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.len() <= limits::LOG_BYTES_MAX {
        return Ok(());
    }
    fs::copy(path, path.with_extension("log.old"))?;
    fs::OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// Renames a log by time and removes the oldest parts beyond the bound.
fn rotate(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let mut parts = rotated_parts(path)?;
    // The live log and the part about to be made count among those kept.
    while parts.len() + 2 > limits::LOG_FILES_MAX {
        fs::remove_file(parts.remove(0))?;
    }
    let rotated = PathBuf::from(format!("{}.{}", path.display(), now.strftime("%Y%m%d-%H%M%S")));
    fs::rename(path, &rotated)?;
    Ok(rotated)
}

/// Parts of a log that were rotated away, oldest first.
fn rotated_parts(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut parts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            parts.push(entry.path());
        }
    }
    parts.sort();
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_parts_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        for second in 0..8 {
            fs::write(&path, second.to_string()).unwrap();
            rotate(&path, Timestamp::from_second(second).unwrap()).unwrap();
        }
        let parts = rotated_parts(&path).unwrap();
        assert_eq!(parts.len(), limits::LOG_FILES_MAX - 1);
        assert_eq!(fs::read_to_string(parts.last().unwrap()).unwrap(), "7");
        assert_eq!(fs::read_to_string(&parts[0]).unwrap(), "4");
    }
}
