//! Finds the manifest files of a folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use ring::digest;

/// Folders below folders; more is a loop of links.
const DEPTH_MAX: usize = 8;

/// A file to deploy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Name of its addon: the path below the folder without its ending.
    pub name: String,
    pub path: PathBuf,
    pub text: String,
    /// SHA-256 of the text.
    pub checksum: String,
}

/// Files in order of their paths, and every folder that was looked at.
pub fn scan(folder: &Path) -> io::Result<(Vec<ManifestFile>, Vec<PathBuf>)> {
    let mut files = Vec::new();
    let mut folders = Vec::new();
    visit(folder, folder, 0, &mut files, &mut folders)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((files, folders))
}

fn visit(
    root: &Path,
    folder: &Path,
    depth: usize,
    files: &mut Vec<ManifestFile>,
    folders: &mut Vec<PathBuf>,
) -> io::Result<()> {
    folders.push(folder.to_owned());
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth < DEPTH_MAX {
                visit(root, &path, depth + 1, files, folders)?;
            }
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str());
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || !matches!(ending, Some("yaml" | "yml" | "json")) || skipped(&path) {
            continue;
        }
        // Gone between listing and reading: its change wakes us again.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let checksum = skiff_api::hex::encode(hash.as_ref());
        files.push(ManifestFile { name: addon_name(root, &path), path, text, checksum });
    }
    Ok(())
}

fn skipped(path: &Path) -> bool {
    let mut marker = path.as_os_str().to_owned();
    marker.push(".skip");
    Path::new(&marker).exists()
}

/// Lower-case letters, digits and dashes, as object names need.
fn addon_name(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path).with_extension("");
    let text: String = relative
        .to_string_lossy()
        .to_lowercase()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' })
        .collect();
    text.trim_matches(|letter: char| !letter.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_followed_and_skip_files_freeze() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for name in ["b.yaml", "a/My App.yml", "frozen.yaml", "frozen.yaml.skip", ".hidden.yaml", "note.txt"] {
            write(name);
        }
        let (files, folders) = scan(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a-my-app", "b"]);
        assert_eq!(folders.len(), 2);
    }
}
