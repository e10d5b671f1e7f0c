//! The system image: an OCI image that holds only this binary.
//!
//! It serves as pause, cluster DNS and helper image, so that a fresh machine
//! boots a whole cluster without a registry. By default it is the pause process,
//! which is what containerd runs in a sandbox. The archive is written to the
//! node's image folder and imported like any other; its tag is the content hash
//! of the binary, so a new build is a new image and an old one is recognised.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ring::digest;
use serde_json::json;

use crate::{payload::Trailer, pki::FileError};

/// Repository part of the image's name; no registry serves it.
const REPOSITORY: &str = "docker.io/skiff/system";
/// Name of the archive in the image folder.
const ARCHIVE: &str = "skiff-system.tar";
/// Names by which the binary is called inside the image.
const LINKS: &[&str] = &["pause", "coredns"];

/// Upstream's images below a registry the user names, instead of our own.
pub struct UpstreamImages<'a>(pub &'a str);

impl UpstreamImages<'_> {
    pub fn pause(&self) -> String {
        format!("{}/pause:3.10.2", self.0.trim_end_matches('/'))
    }

    pub fn coredns(&self) -> String {
        format!("{}/coredns/coredns:v1.14.6", self.0.trim_end_matches('/'))
    }
}

/// The image that components use for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemImage {
    /// Full reference, for example `docker.io/skiff/system:3f…`.
    pub reference: String,
    pub archive: PathBuf,
}

/// Writes the image of the running binary into `folder` unless it is there already.
pub fn write(folder: &Path) -> Result<SystemImage, FileError> {
    let archive = folder.join(ARCHIVE);
    let fail = |action, path: &Path| {
        let path = path.to_owned();
        move |source| FileError::new(action, &path, source)
    };
    let executable = Path::new("/proc/self/exe");
    let identity = identity(executable).map_err(fail("read", executable))?;
    let stamp = folder.join(format!(".{ARCHIVE}.reference"));
    if archive.is_file()
        && let Ok(text) = fs::read_to_string(&stamp)
        && let Some((reference, of)) = text.split_once(' ')
        && of == identity
    {
        return Ok(SystemImage { reference: reference.to_owned(), archive });
    }
    let program = own_program(executable).map_err(fail("read", executable))?;
    let reference = format!("{REPOSITORY}:{}", &hex_sha256(&program)[..16]);
    fs::create_dir_all(folder).map_err(fail("create", folder))?;
    let temporary = folder.join(format!(".{ARCHIVE}.tmp"));
    let file = File::create(&temporary).map_err(fail("create", &temporary))?;
    write_archive(file, &program, &reference).map_err(fail("write", &temporary))?;
    fs::rename(&temporary, &archive).map_err(fail("move", &archive))?;
    fs::write(&stamp, format!("{reference} {identity}")).map_err(fail("write", &stamp))?;
    Ok(SystemImage { reference, archive })
}

/// Differs between executables without reading them: a start does not hash tens of megabytes again.
fn identity(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(path)?;
    Ok(format!("{}-{}-{}-{}.{}", file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

/// The executable without its payload: nodes have that on disk already.
fn own_program(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = match Trailer::read(&mut file)? {
        Some(trailer) => trailer.archive_offset,
        None => file.metadata()?.len(),
    };
    let mut program = Vec::with_capacity(length as usize);
    File::open(path)?.take(length).read_to_end(&mut program)?;
    Ok(program)
}

fn hex_sha256(bytes: &[u8]) -> String {
    skiff_api::hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// A file of the image, under its hash.
struct Blob {
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(content: Vec<u8>) -> Blob {
        Blob { digest: hex_sha256(&content), content }
    }

    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.content.len()})
    }
}

/// An OCI image layout in a tar archive: one layer, one manifest.
fn write_archive(output: impl Write, program: &[u8], reference: &str) -> io::Result<()> {
    let layer = Blob::new(layer(program)?);
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {
            "Entrypoint": ["/pause"], "Env": ["PATH=/"], "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [{"created_by": "skiff"}],
    });
    let config = Blob::new(serde_json::to_vec(&config)?);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    });
    let manifest = Blob::new(serde_json::to_vec(&manifest)?);
    let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rsplit(':').next().unwrap_or_default(),
    });
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let mut archive = tar::Builder::new(output);
    let mut add = |name: &str, content: &[u8]| append(&mut archive, name, content, 0o644);
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", &index)?;
    for blob in [&config, &manifest, &layer] {
        add(&format!("blobs/sha256/{}", blob.digest), &blob.content)?;
    }
    archive.into_inner()?.flush()
}

fn layer(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::with_capacity(program.len() + (64 << 10)));
    append(&mut layer, "skiff", program, 0o755)?;
    append(&mut layer, "etc/passwd", b"root:x:0:0:root:/:/skiff\nnobody:x:65534:65534:nobody:/:/skiff\n", 0o644)?;
    for name in LINKS {
        let mut header = header(0, 0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, name, "skiff")?;
    }
    layer.into_inner()
}

fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    archive.append_data(&mut header(content.len() as u64, mode), name, content)
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

/// Go's name of this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_written_once_and_again_for_another_program() {
        let folder = tempfile::tempdir().unwrap();
        let first = write(folder.path()).unwrap();
        let written = fs::metadata(&first.archive).unwrap().modified().unwrap();
        assert_eq!(write(folder.path()).unwrap(), first);
        assert_eq!(fs::metadata(&first.archive).unwrap().modified().unwrap(), written);
        fs::write(folder.path().join(".skiff-system.tar.reference"), "docker.io/skiff/system:old 1-2-3-4.5").unwrap();
        assert_eq!(write(folder.path()).unwrap(), first, "named by its content");
        assert_ne!(fs::metadata(&first.archive).unwrap().modified().unwrap(), written);
    }

    #[test]
    fn the_archive_is_an_image_layout_whose_digests_hold() {
        let mut bytes = Vec::new();
        write_archive(&mut bytes, b"program", "docker.io/skiff/system:x").unwrap();
        let mut files = std::collections::HashMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        for (name, content) in &files {
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, hex_sha256(content));
            }
        }
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        assert!(files.contains_key(&manifest));
    }
}
