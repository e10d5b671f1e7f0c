//! A disk made from a record of system calls: it keeps what was synced, and chance decides about the rest.
//!
//! The rules are the strictest a file system may have: a write is kept for sure only when its file was synced
//! after it, a file's name only when its folder was; until then each sector of each write may or may not be there.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

/// One step on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Created(PathBuf),
    Wrote {
        path: PathBuf,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncated {
        path: PathBuf,
        length: usize,
    },
    /// A file, or the folder itself.
    Synced(PathBuf),
    Removed(PathBuf),
    /// A line on standard output.
    Said(String),
}

/// Whether the disk does what it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    Honoured,
    Ignored,
}

/// Deterministic, so that a failure can be repeated.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

#[derive(Debug, Default)]
struct File {
    /// The folder knows the name for sure.
    named: bool,
    removed: bool,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

pub struct Disk {
    syncs: Syncs,
    files: BTreeMap<PathBuf, File>,
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => write(content, *offset, bytes),
        Change::Truncate { length } => content.resize(*length, 0),
    }
}

impl Disk {
    pub fn new(syncs: Syncs) -> Disk {
        Disk { syncs, files: BTreeMap::new() }
    }

    pub fn take(&mut self, record: &Record) {
        match record {
            Record::Created(path) => {
                let file = self.files.entry(path.clone()).or_default();
                if std::mem::take(&mut file.removed) {
                    *file = File::default();
                }
            }
            Record::Wrote { path, offset, bytes } => {
                let change = Change::Write { offset: *offset, bytes: bytes.clone() };
                self.files.entry(path.clone()).or_default().pending.push(change);
            }
            Record::Truncated { path, length } => {
                self.files.entry(path.clone()).or_default().pending.push(Change::Truncate { length: *length });
            }
            Record::Synced(_) if self.syncs == Syncs::Ignored => {}
            Record::Synced(path) => match self.files.get_mut(path) {
                Some(file) => {
                    let File { durable, pending, .. } = file;
                    pending.drain(..).for_each(|change| apply(durable, &change));
                }
                None => {
                    // The folder knows what is in it now, and what is not.
                    self.files.retain(|name, file| name.parent() != Some(path) || !file.removed);
                    for (name, file) in &mut self.files {
                        file.named |= name.parent() == Some(path);
                    }
                }
            },
            Record::Removed(path) => {
                if let Some(file) = self.files.get_mut(path) {
                    file.removed = true;
                }
            }
            Record::Said(_) => {}
        }
    }

    /// Puts into a folder what is left on the disk.
    pub fn leave(&self, folder: &Path, random: &mut Random) {
        // Everything unsynced is gone, or some of it: both happen.
        let all_gone = random.below(3) == 0;
        for (path, file) in &self.files {
            let luck = !all_gone && random.below(2) == 0;
            if (!file.named && !luck) || (file.removed && luck) {
                continue;
            }
            let mut content = file.durable.clone();
            for change in file.pending.iter().filter(|_| !all_gone) {
                match change {
                    Change::Truncate { .. } if random.below(2) == 0 => apply(&mut content, change),
                    Change::Truncate { .. } => {}
                    Change::Write { offset, bytes } => {
                        // Sectors reach the disk whole, and each for itself.
                        let mut from = 0;
                        while from < bytes.len() {
                            let to = ((offset + from) / SECTOR + 1) * SECTOR - offset;
                            let to = to.min(bytes.len());
                            if random.below(2) == 0 {
                                write(&mut content, offset + from, &bytes[from..to]);
                            }
                            from = to;
                        }
                    }
                }
            }
            if let Some(name) = path.file_name() {
                fs::write(folder.join(name), content).unwrap();
            }
        }
    }
}

/// Reads what `strace -f -y -xx` wrote; of files, only those in `folder`. A call counts when it returned.
pub fn parse(trace: &str, folder: &Path) -> Vec<Record> {
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut records = Vec::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let whole = if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, begin.to_owned());
            continue;
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((_, end)) = resumed.split_once("resumed>") else { continue };
            let Some(begin) = unfinished.remove(pid) else { continue };
            begin + end
        } else {
            rest.to_owned()
        };
        records.extend(call(&whole, folder));
    }
    records
}

fn call(text: &str, folder: &Path) -> Option<Record> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let result = result.split(['<', ' ']).next()?;
    let returned: i64 = result.parse().ok()?;
    if returned < 0 {
        return None;
    }
    let arguments = arguments.trim_end().trim_end_matches(')');
    let descriptor =
        || arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| unescape(path));
    let own = |path: Vec<u8>| {
        let path = PathBuf::from(String::from_utf8(path).ok()?);
        // Memory shared by processes is not on the disk, nor is the record itself.
        let counts = path.starts_with(folder) && !path.ends_with("trace") && !path.to_string_lossy().ends_with("-shm");
        counts.then_some(path)
    };
    let quoted =
        || arguments.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map(|(text, _)| unescape(text));
    let last = || arguments.rsplit(", ").next().and_then(|number| number.trim().parse::<usize>().ok());
    match name {
        "openat" => arguments.contains("O_CREAT").then(|| own(quoted()?)).flatten().map(Record::Created),
        "pwrite64" => {
            let bytes = quoted()?.get(..returned as usize)?.to_vec();
            Some(Record::Wrote { path: own(descriptor()?)?, offset: last()?, bytes })
        }
        "write" => {
            let bytes = quoted()?;
            match own(descriptor()?) {
                Some(path) => panic!("{} is written without an offset", path.display()),
                None => {
                    let line = String::from_utf8(bytes.get(..returned as usize)?.to_vec()).ok()?;
                    line.starts_with("ack ").then_some(Record::Said(line))
                }
            }
        }
        "ftruncate" => Some(Record::Truncated { path: own(descriptor()?)?, length: last()? }),
        "fsync" | "fdatasync" => own(descriptor()?).map(Record::Synced),
        "unlink" => own(quoted()?).map(Record::Removed),
        // Calls this disk has no rule for must not go unnoticed.
        "pwritev" | "fallocate" | "sync_file_range" | "rename" => {
            let path = descriptor().or_else(quoted).and_then(own)?;
            panic!("{name} on {} is not known to this disk", path.display())
        }
        _ => None,
    }
}

/// `\x41\x42` as bytes; what is not escaped stays as it is.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let Some(first) = rest.first() {
        let hex = rest.get(2..4).filter(|_| rest.starts_with(b"\\x")).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = &rest[1..];
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn calls_are_read_also_when_another_thread_comes_between() {
        let trace = "1  openat(AT_FDCWD, \"\\x2f\\x74\\x2f\\x61\", O_RDWR|O_CREAT, 0600) = 3</t/a>\n\
                     1  pwrite64(3<\\x2f\\x74\\x2f\\x61>, \"\\x41\\x42\", 2, 512 <unfinished ...>\n\
                     2  fdatasync(3</t/a>) = 0\n\
                     1  <... pwrite64 resumed>) = 2\n\
                     2  pwrite64(9</elsewhere>, \"\\x41\", 1, 0) = 1\n\
                     2  fsync(3</t/a>) = -1 EIO (Input/output error)\n\
                     2  write(1<pipe:[7]>, \"\\x61\\x63\\x6b\\x20\\x6b\", 5) = 5\n";
        let path = PathBuf::from("/t/a");
        let expected = [
            Record::Created(path.clone()),
            Record::Synced(path.clone()),
            Record::Wrote { path, offset: 512, bytes: b"AB".to_vec() },
            Record::Said("ack k".into()),
        ];
        assert_eq!(parse(trace, Path::new("/t")), expected);
    }

    #[test]
    fn what_was_synced_stays_and_a_name_needs_its_folder() {
        let (folder, path) = (PathBuf::from("/t"), PathBuf::from("/t/a"));
        let mut disk = Disk::new(Syncs::Honoured);
        let wrote = |offset, bytes: &[u8]| Record::Wrote { path: path.clone(), offset, bytes: bytes.to_vec() };
        for record in [Record::Created(path.clone()), wrote(0, b"kept"), Record::Synced(path.clone())] {
            disk.take(&record);
        }
        let mut seen = [false; 2];
        for seed in 0..50 {
            let target = tempfile::tempdir().unwrap();
            disk.leave(target.path(), &mut Random::new(seed));
            seen[usize::from(target.path().join("a").exists())] = true;
        }
        assert_eq!(seen, [true; 2], "before the folder is synced the file may be there or not");
        disk.take(&Record::Synced(folder.clone()));
        disk.take(&wrote(0, b"lost"));
        let mut contents = BTreeSet::new();
        for seed in 0..50 {
            let target = tempfile::tempdir().unwrap();
            disk.leave(target.path(), &mut Random::new(seed));
            contents.insert(fs::read(target.path().join("a")).unwrap());
        }
        assert_eq!(contents, [b"kept".to_vec(), b"lost".to_vec()].into());
        disk.take(&Record::Removed(path));
        disk.take(&Record::Synced(folder));
        assert!(disk.files.is_empty(), "what was removed does not come back");
    }
}
