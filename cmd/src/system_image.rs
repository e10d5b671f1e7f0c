//! The system image: an OCI image that holds only this binary.
//!
//! It serves as pause, cluster DNS and helper image, so that a fresh machine
//! boots a whole cluster without a registry. By default it is the pause process,
//! which is what containerd runs in a sandbox. The archive is written to the
//! node's image folder and imported like any other; its tag is the content hash
//! of the binary, so a new build is a new image and an old one is recognised.
//! The binary passes through and is never held: it would be most of the memory of a first start.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use ring::digest;
use serde_json::{Value, json};

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
    let program = Program::open(executable).map_err(fail("read", executable))?;
    let mut hash = Hashing::new(io::sink());
    program.copy_to(&mut hash).map_err(fail("read", executable))?;
    let reference = format!("{REPOSITORY}:{}", &hash.finish().0[..16]);
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

/// An executable without its payload: nodes have that on disk already.
struct Program {
    file: File,
    length: u64,
}

impl Program {
    fn open(path: &Path) -> io::Result<Program> {
        let mut file = File::open(path)?;
        let length = match Trailer::read(&mut file)? {
            Some(trailer) => trailer.archive_offset,
            None => file.metadata()?.len(),
        };
        Ok(Program { file, length })
    }

    /// From its first byte on.
    fn read(&self) -> io::Result<impl Read + '_> {
        let mut file = &self.file;
        file.rewind()?;
        Ok(file.take(self.length))
    }

    fn copy_to(&self, output: &mut impl Write) -> io::Result<u64> {
        io::copy(&mut self.read()?, output)
    }
}

/// Passes on what is written, and knows its hash and size in the end.
struct Hashing<W> {
    output: W,
    context: digest::Context,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(output: W) -> Hashing<W> {
        Hashing { output, context: digest::Context::new(&digest::SHA256), size: 0 }
    }

    fn finish(self) -> (String, u64) {
        (skiff_api::hex::encode(self.context.finish().as_ref()), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.context.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    skiff_api::hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    let media_type = format!("application/vnd.oci.image.{media_type}");
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

fn blob_name(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

/// An OCI image layout in a tar archive: one layer, one manifest.
fn write_archive(output: impl Write, program: &Program, reference: &str) -> io::Result<()> {
    let mut hash = Hashing::new(io::sink());
    write_layer(&mut hash, program)?;
    let (layer, layer_bytes) = hash.finish();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(), "os": "linux",
        "config": {
            "Entrypoint": ["/pause"], "Env": ["PATH=/"], "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{"created_by": "skiff"}],
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &hex_sha256(&config), config.len() as u64),
        "layers": [descriptor("layer.v1.tar", &layer, layer_bytes)],
    }))?;
    let mut entry = descriptor("manifest.v1+json", &hex_sha256(&manifest), manifest.len() as u64);
    entry["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rsplit(':').next().unwrap_or_default(),
    });
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let mut archive = tar::Builder::new(output);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    append(&mut archive, "index.json", &index, 0o644)?;
    for blob in [&config, &manifest] {
        append(&mut archive, &blob_name(&hex_sha256(blob)), blob, 0o644)?;
    }
    let mut header = header(layer_bytes, 0o644);
    header.set_path(blob_name(&layer))?;
    header.set_cksum();
    // A layer is an archive itself, so its size is a multiple of the archive's blocks.
    let output = archive.get_mut();
    output.write_all(header.as_bytes())?;
    write_layer(&mut *output, program)?;
    archive.into_inner()?.flush()
}

fn write_layer(output: impl Write, program: &Program) -> io::Result<()> {
    let mut layer = tar::Builder::new(output);
    layer.append_data(&mut header(program.length, 0o755), "skiff", program.read()?)?;
    append(&mut layer, "etc/passwd", b"root:x:0:0:root:/:/skiff\nnobody:x:65534:65534:nobody:/:/skiff\n", 0o644)?;
    for name in LINKS {
        let mut header = header(0, 0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, name, "skiff")?;
    }
    layer.finish()
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
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, "program").unwrap();
        let mut bytes = Vec::new();
        write_archive(&mut bytes, &Program::open(&path).unwrap(), "docker.io/skiff/system:x").unwrap();
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
        let file = |descriptor: &Value| {
            let content = &files[&descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/")];
            assert_eq!(descriptor["size"], content.len());
            content.as_slice()
        };
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let manifest = read(file(&read(&files["index.json"])["manifests"][0]));
        let config = read(file(&manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let mut layer = tar::Archive::new(file(&manifest["layers"][0]));
        let mut names = Vec::new();
        for entry in layer.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            if names.len() == 1 {
                let mut program = String::new();
                entry.read_to_string(&mut program).unwrap();
                assert_eq!(program, "program");
            }
        }
        assert_eq!(names, ["skiff", "etc/passwd", "pause", "coredns"]);
    }
}
