//! Imports image archives from a directory, at start and when files appear.
//!
//! Archives are OCI or docker layouts, plain or compressed with gzip or zstd;
//! the content tells, not the name. A file that did not change since its last
//! import is skipped. One bad file is reported by name and does not stop the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::SystemTime,
};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Ctr;
use crate::{AgentError, limits};

const CACHE_FILE: &str = ".cache.json";
/// Images with this label are never removed to free space.
const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// What became of one archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportReport {
    Started(PathBuf),
    Skipped(PathBuf),
    Imported(PathBuf, Vec<String>),
    Failed(PathBuf, String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Imported {
    size: u64,
    modified_ms: u64,
    images: Vec<String>,
}

/// Imports archives through containerd's own client program.
pub struct ImageImporter {
    directory: PathBuf,
    ctr: Ctr,
    cache: Mutex<BTreeMap<String, Imported>>,
    report: Arc<dyn Fn(ImportReport) + Send + Sync>,
}

impl ImageImporter {
    pub fn new(
        directory: PathBuf,
        ctr: Ctr,
        report: Arc<dyn Fn(ImportReport) + Send + Sync>,
    ) -> Result<ImageImporter, AgentError> {
        fs::create_dir_all(&directory).map_err(AgentError::io("create", &directory))?;
        // An unreadable cache only means that everything is imported once more.
        let cache = fs::read(directory.join(CACHE_FILE)).ok();
        let cache = cache.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(ImageImporter { directory, ctr, cache: Mutex::new(cache), report })
    }

    /// Names of all images that came from archives: they cannot be pulled again.
    pub fn imported(&self) -> BTreeSet<String> {
        self.cache.lock().values().flat_map(|entry| entry.images.iter().cloned()).collect()
    }

    /// Imports every archive in the directory that is new or changed. `present` are the images
    /// that the runtime has: an archive whose images are gone is imported again.
    pub async fn import_all(self: &Arc<Self>, present: &BTreeSet<String>) {
        let mut files: Vec<PathBuf> = match fs::read_dir(&self.directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| is_archive(path)).collect(),
            Err(error) => {
                (self.report)(ImportReport::Failed(self.directory.clone(), error.to_string()));
                return;
            }
        };
        files.sort();
        let slots = Arc::new(Semaphore::new(limits::IMPORTS_MAX));
        let imports = files.into_iter().map(|file| {
            let (this, slots) = (Arc::clone(self), Arc::clone(&slots));
            async move {
                let _slot = slots.acquire_owned().await;
                this.import(file, Some(present)).await;
            }
        });
        futures_util::future::join_all(imports).await;
    }

    /// Imports files as they appear in the directory, until `token` is cancelled.
    pub async fn watch(self: Arc<Self>, token: CancellationToken) -> io::Result<()> {
        let inotify = Inotify::init()?;
        inotify.watches().add(&self.directory, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO)?;
        let mut events = inotify.into_event_stream(vec![0; 4096])?;
        loop {
            let event = tokio::select! {
                () = token.cancelled() => return Ok(()),
                event = events.next() => event,
            };
            let Some(event) = event else { return Ok(()) };
            if let Some(name) = event?.name {
                let path = self.directory.join(name);
                if is_archive(&path) {
                    self.import(path, None).await;
                }
            }
        }
    }

    async fn import(self: &Arc<Self>, path: PathBuf, present: Option<&BTreeSet<String>>) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let identity = match identity(&path) {
            Ok(identity) => identity,
            Err(error) => {
                (self.report)(ImportReport::Failed(path, error.to_string()));
                return;
            }
        };
        let unchanged = self.cache.lock().get(&name).is_some_and(|entry| {
            let has = |image: &String| present.is_none_or(|present| present.contains(image));
            (entry.size, entry.modified_ms) == identity && entry.images.iter().all(has)
        });
        if unchanged {
            (self.report)(ImportReport::Skipped(path));
            return;
        }
        (self.report)(ImportReport::Started(path.clone()));
        let (this, file) = (Arc::clone(self), path.clone());
        let result = tokio::task::spawn_blocking(move || this.import_blocking(&file)).await;
        let result = result.unwrap_or_else(|error| Err(error.to_string()));
        match result {
            Ok(images) => {
                let entry = Imported { size: identity.0, modified_ms: identity.1, images: images.clone() };
                self.cache.lock().insert(name, entry);
                self.save_cache();
                (self.report)(ImportReport::Imported(path, images));
            }
            Err(message) => {
                tracing::error!(component = "images", file = %path.display(), error = message, "import image archive");
                (self.report)(ImportReport::Failed(path, message));
            }
        }
    }

    fn save_cache(&self) {
        let text = serde_json::to_vec_pretty(&*self.cache.lock()).unwrap_or_default();
        let path = self.directory.join(CACHE_FILE);
        if let Err(error) = fs::write(&path, text) {
            tracing::warn!(component = "images", path = %path.display(), %error, "write import cache");
        }
    }

    fn client(&self) -> Command {
        let mut command = self.ctr.command();
        command.arg("images");
        command
    }

    fn import_blocking(&self, path: &Path) -> Result<Vec<String>, String> {
        let file = fs::File::open(path).map_err(|error| format!("open: {error}"))?;
        let mut archive =
            decompress(BufReader::with_capacity(1 << 20, file)).map_err(|error| format!("read: {error}"))?;
        let mut command = self.client();
        command.arg("import");
        if let Some(snapshotter) = &self.ctr.snapshotter {
            command.args(["--snapshotter", snapshotter]);
        }
        command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("start {}: {error}", self.ctr.program.display()))?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let copied = io::copy(&mut archive, &mut stdin);
        drop(stdin);
        // A closed pipe means that the program gave up; what it says matters more than that.
        if let Err(error) = &copied
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("not a readable archive: {error}"));
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("import failed: {}", text.trim()));
        }
        let images = unpacked_images(&text);
        if images.is_empty() {
            return Err("the archive holds no image for this machine".to_owned());
        }
        for image in &images {
            let labelled = self.client().args(["label", image, PINNED]).output();
            if !labelled.is_ok_and(|output| output.status.success()) {
                tracing::warn!(component = "images", image, "imported image could not be pinned");
            }
        }
        Ok(images)
    }
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let known = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd"];
    !name.starts_with('.') && known.iter().any(|suffix| name.ends_with(suffix))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok((metadata.len(), u64::try_from(modified.as_millis()).unwrap_or(u64::MAX)))
}

fn decompress<R: BufRead + 'static>(mut reader: R) -> io::Result<Box<dyn Read>> {
    let start = reader.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?));
    }
    Ok(Box::new(reader))
}

/// `unpacking <name> (<digest>)...` is what the client prints per image.
fn unpacked_images(output: &str) -> Vec<String> {
    let names = output.lines().filter_map(|line| line.trim().strip_prefix("unpacking ")?.split_whitespace().next());
    let mut images: Vec<String> = names.map(str::to_owned).collect();
    // Newer clients print `<name>    saved` lines instead.
    images
        .extend(output.lines().filter_map(|line| line.trim().strip_suffix("saved")).map(|name| name.trim().to_owned()));
    images.sort();
    images.dedup();
    images
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn archives_are_recognised_by_content() {
        let plain = b"hello archive".to_vec();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::stream::encode_all(&plain[..], 1).unwrap();
        for bytes in [plain.clone(), gzip.finish().unwrap(), zstd] {
            let mut out = Vec::new();
            decompress(io::Cursor::new(bytes)).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn names_are_read_from_the_clients_output() {
        let text = "unpacking docker.io/library/x:1 (sha256:aa)...done\nother line\n";
        assert_eq!(unpacked_images(text), ["docker.io/library/x:1"]);
    }

    #[test]
    fn only_archives_are_taken() {
        assert!(is_archive(Path::new("/a/x.tar.zst")) && is_archive(Path::new("x.tgz")));
        assert!(!is_archive(Path::new(".x.tar")) && !is_archive(Path::new("x.txt")));
    }

    #[tokio::test]
    async fn a_broken_archive_is_reported_by_name_and_the_rest_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let script = root.path().join("ctr");
        fs::write(
            &script,
            "#!/bin/sh\ncase \"$*\" in *import*) cat >/dev/null; echo 'unpacking a:1 (x)...done';; esac\n",
        )
        .unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let images = root.path().join("images");
        let ctr = Ctr { program: script, socket: "/s".into(), snapshotter: None };
        let reports: Arc<Mutex<Vec<ImportReport>>> = Arc::default();
        let sink = Arc::clone(&reports);
        let importer = Arc::new(
            ImageImporter::new(images.clone(), ctr, Arc::new(move |report| sink.lock().push(report))).unwrap(),
        );
        fs::write(images.join("bad.tar.gz"), [0x1f, 0x8b, 0, 0]).unwrap();
        fs::write(images.join("good.tar"), "data").unwrap();
        importer.import_all(&BTreeSet::new()).await;
        let seen = reports.lock().clone();
        assert!(
            seen.iter().any(|r| matches!(r, ImportReport::Failed(path, _) if path.ends_with("bad.tar.gz"))),
            "{seen:?}"
        );
        assert!(seen.contains(&ImportReport::Imported(images.join("good.tar"), vec!["a:1".into()])), "{seen:?}");
        reports.lock().clear();
        importer.import_all(&["a:1".to_owned()].into()).await;
        assert!(reports.lock().contains(&ImportReport::Skipped(images.join("good.tar"))));
        assert!(importer.imported().contains("a:1"));
    }
}
