//! Unpacks the payload once, and says where each tool is.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use ring::digest;

use super::Trailer;
use crate::progress::Progress;

/// Tools a node cannot do without.
const NEEDED: &[&str] = &["containerd", "containerd-shim-runc-v2", "ctr", "runc", "nft"];
/// Where distributions put programs, even when PATH lacks them.
const HOST_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A payload that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the payload of {} is damaged (its hash is wrong): download or build the binary again", path.display())]
    Damaged { path: PathBuf },
    #[error(
        "{missing} not found: this binary carries no payload and the host has no such program; on Debian: apt-get install {package}"
    )]
    Missing { missing: String, package: &'static str },
}

/// Where programs are looked for, in order.
#[derive(Clone, Debug)]
pub struct Binaries {
    folders: Vec<PathBuf>,
}

impl Binaries {
    /// The first match of a program.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
    }

    /// All folders, in order.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// A program, or an error that says how to get it.
    pub fn require(&self, program: &str) -> Result<PathBuf, PayloadError> {
        self.find(program)
            .ok_or_else(|| PayloadError::Missing { missing: program.to_owned(), package: package(program) })
    }

    /// Checks that everything a node needs is there.
    pub fn check_node(&self) -> Result<(), PayloadError> {
        NEEDED.iter().try_for_each(|program| self.require(program).map(drop))
    }
}

fn package(program: &str) -> &'static str {
    match program {
        "runc" => "runc",
        "nft" => "nftables",
        "kubectl" => "kubernetes-client",
        _ => "containerd",
    }
}

/// Unpacks the payload of the running binary when it has one that is not there
/// yet, and returns where to find programs: payload before host, or the other
/// way round with `prefer_host`.
pub fn prepare(data_dir: &Path, prefer_host: bool, progress: &Progress) -> Result<Binaries, PayloadError> {
    let host = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
        .chain(HOST_FOLDERS.iter().map(PathBuf::from));
    let mut folders: Vec<PathBuf> = Vec::new();
    let payload = unpack_own(data_dir, progress)?.map(|folder| folder.join("bin"));
    let ordered: Vec<PathBuf> =
        if prefer_host { host.chain(payload).collect() } else { payload.into_iter().chain(host).collect() };
    for folder in ordered {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    Ok(Binaries { folders })
}

fn unpack_own(data_dir: &Path, progress: &Progress) -> Result<Option<PathBuf>, PayloadError> {
    let executable = PathBuf::from("/proc/self/exe");
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| PayloadError::Io { action, path, source }
    };
    let mut file = File::open(&executable).map_err(io("open", &executable))?;
    let Some(trailer) = Trailer::read(&mut file).map_err(io("read payload of", &executable))? else { return Ok(None) };
    let root = data_dir.join("data");
    let target = root.join(trailer.folder_name());
    if !target.is_dir() {
        let step = progress.step("Unpacking containerd, runc and tools");
        fs::create_dir_all(&root).map_err(io("create", &root))?;
        let temporary = root.join(format!(".unpack-{}", std::process::id()));
        let unpacked = unpack(&mut file, &trailer, &temporary);
        if unpacked.is_err() {
            // What was half-written is of no use to anyone.
            let _ = fs::remove_dir_all(&temporary);
        }
        if !unpacked.map_err(io("unpack payload to", &temporary))? {
            let _ = fs::remove_dir_all(&temporary);
            return Err(PayloadError::Damaged { path: fs::read_link(&executable).unwrap_or(executable) });
        }
        fs::rename(&temporary, &target).map_err(io("move payload to", &target))?;
        step.done(&target.display().to_string());
    }
    point_current(&root, &trailer.folder_name()).map_err(io("link", &root.join("current")))?;
    Ok(Some(target))
}

/// Unpacks while hashing; `false` when the hash is not the trailer's.
fn unpack(file: &mut File, trailer: &Trailer, target: &Path) -> io::Result<bool> {
    file.seek(SeekFrom::Start(trailer.archive_offset))?;
    let hashing = Hashing { inner: file.take(trailer.archive_bytes), context: digest::Context::new(&digest::SHA256) };
    let mut decoder = zstd::Decoder::new(hashing)?;
    tar::Archive::new(&mut decoder).unpack(target)?;
    // The archive reader stops at the end mark; the rest still belongs to the hash.
    let mut hashing = decoder.finish();
    io::copy(&mut hashing, &mut io::sink())?;
    let mut hashing = hashing.into_inner();
    io::copy(&mut hashing.inner, &mut io::sink())?;
    Ok(hashing.context.finish().as_ref() == trailer.sha256)
}

struct Hashing<R> {
    inner: R,
    context: digest::Context,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        Ok(count)
    }
}

/// Makes `data/current` point to `name`, atomically.
fn point_current(root: &Path, name: &str) -> io::Result<()> {
    let link = root.join("current");
    if fs::read_link(&link).is_ok_and(|target| target == Path::new(name)) {
        return Ok(());
    }
    let temporary = root.join(format!(".current-{}", std::process::id()));
    std::os::unix::fs::symlink(name, &temporary)?;
    fs::rename(&temporary, &link)
}

#[cfg(test)]
mod tests {
    use super::super::assemble;
    use super::*;

    #[test]
    fn an_assembled_payload_unpacks_to_the_same_files_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let tools = folder.path().join("tools");
        fs::create_dir_all(tools.join("bin")).unwrap();
        fs::write(tools.join("bin/tool"), "#!/bin/sh\n").unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "ELF").unwrap();
        let output = folder.path().join("skiff");
        assemble(&program, &tools, &output, 1).unwrap();
        assemble(&output, &tools, &output, 1).unwrap();
        let mut file = File::open(&output).unwrap();
        let trailer = Trailer::read(&mut file).unwrap().unwrap();
        assert_eq!(trailer.archive_offset, 3, "an old payload is replaced, not stacked");
        let target = folder.path().join("out");
        assert!(unpack(&mut file, &trailer, &target).unwrap());
        assert_eq!(fs::read_to_string(target.join("bin/tool")).unwrap(), "#!/bin/sh\n");
        let wrong = Trailer { sha256: [0; 32], ..trailer };
        assert!(!unpack(&mut file, &wrong, &folder.path().join("bad")).unwrap());
    }
}
