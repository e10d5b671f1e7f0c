//! The deploy controller: keeps the cluster equal to the files in
//! `<data-dir>/server/manifests`.
//!
//! Bundled files are rewritten at every start, users' files are theirs. A file
//! is applied when its content changes; each is shown as an [`addon`] object
//! that records the content's hash and what was applied, so objects that leave a
//! file are deleted. A removed file leaves its objects alone, `<file>.skip`
//! freezes a file, a file that does not parse changes nothing and is reported
//! with its place. Woken by the file system, not by a clock.

pub mod addon;
mod apply;
mod manifest;
mod scan;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use skiff_api::ResourceRegistry;
use skiff_bundled_manifests::{MANIFESTS, Variables};
use skiff_client::{Client, EventRecord, EventRecorder, EventType};
use tokio_util::sync::CancellationToken;

use crate::pki::{self, FileError};
use apply::Applier;
use scan::{ManifestFile, scan};

/// Editors write a file in several steps; the last one counts.
const SETTLE: Duration = Duration::from_millis(200);
/// First and longest pause before a file that could not be applied is tried again.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Applies the files of one folder.
pub struct DeployController {
    pub folder: PathBuf,
    pub client: Client,
    pub registry: Arc<ResourceRegistry>,
    pub recorder: EventRecorder,
}

/// Writes the bundled manifests, and removes those that are disabled.
pub fn write_bundled(folder: &std::path::Path, variables: &Variables, disabled: &[String]) -> Result<(), DeployError> {
    for manifest in MANIFESTS {
        let path = folder.join(manifest.file_name);
        if disabled.iter().any(|name| name == manifest.name) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FileError::new("remove", &path, error).into());
                }
                _ => continue,
            }
        }
        let text = skiff_bundled_manifests::render(manifest.name, variables)
            .map_err(|error| DeployError::Bundled(error.to_string()))?;
        if std::fs::read_to_string(&path).is_ok_and(|have| have == text) {
            continue;
        }
        pki::write_secret(&path, text.as_bytes())?;
    }
    Ok(())
}

/// Why files cannot be deployed at all.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("bundled manifest: {0}")]
    Bundled(String),
    #[error("watch the folder of manifests {}: {source}", path.display())]
    Watch {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl DeployController {
    /// Applies what is there, then whatever changes, until stopped.
    pub async fn run(self, token: CancellationToken) -> Result<(), DeployError> {
        let fail = |source| DeployError::Watch { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(fail)?;
        let inotify = Inotify::init().map_err(fail)?;
        let mut watches = inotify.watches();
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::CREATE;
        let mut changes = inotify.into_event_stream(vec![0; 4096]).map_err(fail)?;
        let applier = Applier { client: self.client.clone(), registry: Arc::clone(&self.registry) };
        let mut pause = RETRY_PAUSES.0;
        loop {
            let (files, folders) =
                scan(&self.folder).map_err(|error| DeployError::Watch { path: self.folder.clone(), source: error })?;
            for folder in folders {
                // A folder that is gone again needs no watch.
                let _ = watches.add(&folder, mask);
            }
            let complete = self.apply_all(&applier, &files, &token).await;
            pause = if complete { RETRY_PAUSES.0 } else { (pause * 2).min(RETRY_PAUSES.1) };
            let retry = async { if complete { std::future::pending().await } else { tokio::time::sleep(pause).await } };
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = retry => {}
                event = changes.next() => {
                    if let Some(Err(error)) = event {
                        return Err(DeployError::Watch { path: self.folder.clone(), source: error });
                    }
                    settle(&mut changes).await;
                    pause = RETRY_PAUSES.0;
                }
            }
        }
    }

    /// Whether every file is as it should be.
    async fn apply_all(&self, applier: &Applier, files: &[ManifestFile], token: &CancellationToken) -> bool {
        let mut complete = true;
        for file in files {
            let applied = tokio::select! {
                () = token.cancelled() => return true,
                applied = applier.apply(file) => applied,
            };
            match applied {
                Ok(None) => {}
                Ok(Some(addon)) => {
                    tracing::info!(component = "deploy", file = %file.path.display(), "applied manifest");
                    self.report(
                        addon,
                        EventType::Normal,
                        "AppliedManifest",
                        format!("applied {}", file.path.display()),
                    );
                }
                Err(error) => {
                    complete &= !error.is_temporary();
                    tracing::error!(component = "deploy", file = %file.path.display(), %error, "manifest not applied");
                    let addon = addon::reference(&file.name);
                    self.report(addon, EventType::Warning, "ApplyManifestFailed", error.to_string());
                }
            }
        }
        complete
    }

    fn report(&self, regarding: skiff_api::ObjectReference, event_type: EventType, reason: &str, message: String) {
        self.recorder.record(EventRecord { regarding, event_type, reason: reason.to_owned(), message });
    }
}

/// Swallows the changes that follow closely.
async fn settle<S: futures_util::Stream + Unpin>(changes: &mut S) {
    while tokio::time::timeout(SETTLE, changes.next()).await.is_ok_and(|event| event.is_some()) {}
}
