//! Puts a payload behind a binary (done by the build, and by who ships their own tools).

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ring::digest;

use super::{Trailer, trailer::TRAILER_BYTES};

/// A payload that could not be put together.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct AssembleError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes to `output` the binary `input` (an old payload is dropped) followed by
/// everything below `folder`. `level` is the zstd level (1 fast, 19 small).
pub fn assemble(input: &Path, folder: &Path, output: &Path, level: i32) -> Result<u64, AssembleError> {
    let fail = |action, path: &Path| {
        let path = path.to_owned();
        move |source| AssembleError { action, path, source }
    };
    let program = program_bytes(input).map_err(fail("read", input))?;
    let archive = archive(folder, level).map_err(fail("archive", folder))?;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, &archive).as_ref());
    let temporary = output.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&program)?;
        file.write_all(&archive)?;
        file.write_all(&Trailer::encode(archive.len() as u64, &sha256))?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        fs::rename(&temporary, output)
    };
    write().map_err(fail("write", output))?;
    Ok(archive.len() as u64)
}

fn program_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let trailer = Trailer::read(&mut file)?;
    let mut bytes = fs::read(path)?;
    if let Some(trailer) = trailer {
        bytes.truncate(bytes.len() - (trailer.archive_bytes + TRAILER_BYTES) as usize);
    }
    Ok(bytes)
}

/// Entries are sorted and carry no times or owners: the same tools give the same hash.
fn archive(folder: &Path, level: i32) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), level)?);
    builder.mode(tar::HeaderMode::Deterministic);
    let mut paths = files_below(folder)?;
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(folder).expect("the walk starts there").to_owned();
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = tar::Header::new_gnu();
        if metadata.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            builder.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else {
            let mut content = Vec::new();
            File::open(&path)?.read_to_end(&mut content)?;
            header.set_size(content.len() as u64);
            header.set_mode(if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
            builder.append_data(&mut header, &name, content.as_slice())?;
        }
    }
    builder.into_inner()?.finish()
}

fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
