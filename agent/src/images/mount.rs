//! Images as volumes where the runtime cannot mount them itself (containerd
//! before 2.1): a read-only view of the image, mounted below the pod's
//! directory through containerd's own client program.
//!
//! The view's key is the path of the mount, so it is found again after a restart.
//! It is removed with the pod; until then the image is kept by
//! [`crate::eviction`], which knows the images of all pods.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use skiff_host::mount;

use super::Ctr;

/// First version of containerd that mounts images itself.
const NATIVE: (u32, u32) = (2, 1);

/// Mounts images for the runtime.
#[derive(Clone)]
pub struct ImageMounter {
    program: Arc<Program>,
}

struct Program(Ctr);

impl ImageMounter {
    /// `None` when the runtime with this name and version mounts images itself.
    pub fn for_runtime(name: &str, version: &str, ctr: Ctr) -> Option<ImageMounter> {
        let program = Arc::new(Program(ctr));
        (name == "containerd" && !is_native(version)).then_some(ImageMounter { program })
    }

    /// Mounts a pulled image; a mount that is there stays.
    pub async fn mount(&self, image: &str, target: &Path) -> Result<(), String> {
        let (program, image, target) = (Arc::clone(&self.program), image.to_owned(), target.to_owned());
        let work = tokio::task::spawn_blocking(move || program.mount(&image, &target));
        work.await.map_err(|error| error.to_string())?
    }

    /// Removes the views of mounts below this folder, which are unmounted already.
    pub async fn forget(&self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let targets: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        if targets.is_empty() {
            return;
        }
        let program = Arc::clone(&self.program);
        let work = tokio::task::spawn_blocking(move || targets.iter().for_each(|target| program.forget(target)));
        if let Err(error) = work.await {
            tracing::warn!(component = "images", %error, "forget mounted images");
        }
    }
}

impl Program {
    fn run(&self, words: &[&str], target: &Path, tail: &[&Path]) -> Result<(), String> {
        let mut command = self.0.command();
        command.args(words).arg(target).args(tail);
        let output = command.output().map_err(|error| format!("start {}: {error}", self.0.program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(text.trim().to_owned()) }
    }

    fn snapshotter(&self) -> &str {
        self.0.snapshotter.as_deref().unwrap_or("overlayfs")
    }

    fn mount(&self, image: &str, target: &Path) -> Result<(), String> {
        fs::create_dir_all(target).map_err(|error| format!("create {}: {error}", target.display()))?;
        if mount::is_mount_point(target).map_err(|error| error.to_string())? {
            return Ok(());
        }
        // What is left of a mount before the host was restarted is in the way.
        self.forget(target);
        self.run(&["images", "mount", "--snapshotter", self.snapshotter()], Path::new(image), &[target])
            .map_err(|error| format!("mount image {image}: {error}"))
    }

    fn forget(&self, target: &Path) {
        for words in [&["snapshots", "--snapshotter", self.snapshotter(), "rm"][..], &["leases", "rm"]] {
            if let Err(error) = self.run(words, target, &[])
                && !error.contains("not found")
            {
                tracing::warn!(component = "images", target = %target.display(), error, "forget mounted image");
            }
        }
    }
}

fn is_native(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(|text| text.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= NATIVE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runtimes_that_cannot_are_helped() {
        let mounter = |name: &str, version: &str| {
            let ctr = Ctr { program: "ctr".into(), socket: "socket".into(), snapshotter: None };
            ImageMounter::for_runtime(name, version, ctr).is_some()
        };
        assert!(mounter("containerd", "1.6.20~ds1") && mounter("containerd", "v2.0.3"));
        assert!(
            !mounter("containerd", "v2.1.0") && !mounter("containerd", "2.2.0-rc.1") && !mounter("cri-o", "1.33.0")
        );
    }
}
