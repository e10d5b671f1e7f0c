//! Where to begin: the rotated files of a log, and the place of its last lines, found from the end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::server::limits::LOG_READ_LEN;

/// Where reading begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    /// The files to read, oldest first; the last is the log itself.
    pub files: Vec<PathBuf>,
    /// Where in the first of them.
    pub offset: u64,
}

/// Finds the start of the last `lines` records of the log at `path`, or of all that is there. Blocks.
pub fn find(path: &Path, lines: Option<u64>) -> io::Result<Start> {
    let mut files = rotated(path)?;
    files.push(path.to_owned());
    let Some(mut missing) = lines else { return Ok(Start { files, offset: 0 }) };
    if missing == 0 {
        let offset = File::open(path)?.metadata()?.len();
        return Ok(Start { files: vec![path.to_owned()], offset });
    }
    for (index, file) in files.iter().enumerate().rev() {
        match find_in(&mut File::open(file)?, &mut missing)? {
            Some(offset) => return Ok(Start { files: files.split_off(index), offset }),
            None => continue,
        }
    }
    Ok(Start { files, offset: 0 })
}

/// The plain rotated siblings of a log, oldest first. Compressed ones are older than any plain one and are left out, as
/// upstream leaves out all of them.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(vec![]);
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?.file_name();
        let stamp = entry.to_str().and_then(|entry| entry.strip_prefix(name)).and_then(|rest| rest.strip_prefix('.'));
        if stamp.is_some_and(is_stamp) {
            files.push(directory.join(&entry));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// `20060102-150405`
fn is_stamp(text: &str) -> bool {
    text.len() == 15 && text.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'-' } else { b.is_ascii_digit() })
}

/// Goes back by `missing` lines from the end; the offset where they begin, or `None` if the file has fewer, with `missing`
/// reduced by what it has.
fn find_in(file: &mut File, missing: &mut u64) -> io::Result<Option<u64>> {
    let mut end = file.metadata()?.len();
    let mut buffer = vec![0; LOG_READ_LEN];
    // The line end at the very end of the file closes the last line and does not begin another.
    let mut last = true;
    while end > 0 {
        let len = end.min(LOG_READ_LEN as u64) as usize;
        let start = end - len as u64;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buffer[..len])?;
        for (i, &byte) in buffer[..len].iter().enumerate().rev() {
            let closes_last = std::mem::take(&mut last);
            if byte != b'\n' || closes_last {
                continue;
            }
            *missing -= 1;
            if *missing == 0 {
                return Ok(Some(start + i as u64 + 1));
            }
        }
        end = start;
    }
    // The first line has no line end before it.
    if !last {
        *missing -= 1;
        if *missing == 0 {
            return Ok(Some(0));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("writes");
        }
        let path = directory.path().join("0.log");
        (directory, path)
    }

    fn text(start: &Start) -> String {
        let all: String = start.files.iter().map(|file| std::fs::read_to_string(file).expect("reads")).collect();
        all[start.offset as usize..].to_owned()
    }

    #[test]
    fn the_last_lines_are_found_across_blocks() {
        let many: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
        let (_directory, path) = log(&[("0.log", &many)]);
        for lines in [1, 2, 10_000, 29_999, 30_000] {
            let tail = text(&find(&path, Some(lines)).expect("finds"));
            assert_eq!(tail.lines().count() as u64, lines);
            assert!(tail.ends_with("line 29999\n"));
        }
        assert_eq!(text(&find(&path, Some(99_999)).expect("finds")), many);
        assert_eq!(text(&find(&path, None).expect("finds")), many);
        assert_eq!(text(&find(&path, Some(0)).expect("finds")), "");
    }

    #[test]
    fn an_unfinished_last_line_counts() {
        let (_directory, path) = log(&[("0.log", "a\nb\nc")]);
        assert_eq!(text(&find(&path, Some(2)).expect("finds")), "b\nc");
        let (_directory, path) = log(&[("0.log", "")]);
        assert_eq!(text(&find(&path, Some(2)).expect("finds")), "");
    }

    #[test]
    fn rotated_files_continue_the_tail_and_others_do_not() {
        let files = [
            ("0.log.20260101-000000", "a\nb\n"),
            ("0.log.20260102-000000", "c\nd\n"),
            ("0.log", "e\n"),
            ("0.log.20251231-000000.gz", "packed"),
            ("0.log.old", "x\n"),
            ("1.log", "y\n"),
        ];
        let (_directory, path) = log(&files);
        assert_eq!(text(&find(&path, None).expect("finds")), "a\nb\nc\nd\ne\n");
        assert_eq!(text(&find(&path, Some(2)).expect("finds")), "d\ne\n");
        assert_eq!(text(&find(&path, Some(3)).expect("finds")), "c\nd\ne\n");
        assert_eq!(text(&find(&path, Some(4)).expect("finds")), "b\nc\nd\ne\n");
    }

    #[test]
    fn a_missing_log_is_an_error() {
        assert!(find(Path::new("/nonexistent/0.log"), None).is_err());
    }
}
