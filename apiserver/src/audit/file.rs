//! The file events are written to, one JSON object a line, and its rotation.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Lines written before the queue is looked at again.
const BATCH_MAX: usize = 256;

/// Where, and how much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// `-` is the standard output.
    pub path: PathBuf,
    /// Bytes after which a new file is begun; `None` never.
    pub size_max: Option<u64>,
    /// Old files that are kept; `None` all.
    pub backups_max: Option<usize>,
    /// Age at which old files go; `None` never.
    pub age_max: Option<Duration>,
}

/// Writes to the file.
pub struct Writer {
    options: FileOptions,
    file: Option<File>,
    size: u64,
}

impl Writer {
    pub fn open(options: FileOptions) -> io::Result<Writer> {
        let mut writer = Writer { options, file: None, size: 0 };
        if writer.options.path != Path::new("-") {
            if let Some(folder) = writer.options.path.parent() {
                fs::create_dir_all(folder)?;
            }
            writer.begin()?;
        }
        Ok(writer)
    }

    fn begin(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.options.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes until `stop`, then what is left.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Arc<str>>, stop: CancellationToken) {
        let mut lines = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = queue.recv_many(&mut lines, BATCH_MAX) => if count == 0 { return },
                // Closed, the queue gives out what is in it and then ends the loop.
                () = stop.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
            }
            let batch = lines.drain(..).fold(String::new(), |batch, line| batch + &line + "\n");
            let written = tokio::task::spawn_blocking(move || {
                let result = self.write(&batch);
                (self, result)
            });
            match written.await {
                Ok((writer, result)) => {
                    self = writer;
                    if let Err(error) = result {
                        tracing::error!(component = "audit", %error, "write audit log");
                    }
                }
                Err(error) => {
                    tracing::error!(component = "audit", %error, "writer of the audit log failed");
                    return;
                }
            }
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if self.options.path == Path::new("-") {
            return io::stdout().lock().write_all(text.as_bytes());
        }
        let size = text.len() as u64;
        if self.options.size_max.is_some_and(|max| self.size > 0 && self.size + size > max) {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.begin()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(text.as_bytes())?;
            self.size += size;
        }
        Ok(())
    }

    /// Puts the file aside under the present time, and removes what is too much or too old.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let mut aside = self.backup(&now);
        let mut number = 1;
        while aside.exists() {
            aside = self.backup(&format!("{now}-{number}"));
            number += 1;
        }
        fs::rename(&self.options.path, aside)?;
        self.begin()?;
        let mut old = self.backups()?;
        old.sort_by_key(|(_, made)| std::cmp::Reverse(*made));
        for (index, (path, made)) in old.iter().enumerate() {
            let many = self.options.backups_max.is_some_and(|max| index >= max);
            let aged = self.options.age_max.is_some_and(|max| made.elapsed().is_ok_and(|age| age > max));
            if many || aged {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// `audit.log` becomes `audit-TIME.log`.
    fn backup(&self, time: &str) -> PathBuf {
        let path = &self.options.path;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("audit");
        let ending = path.extension().and_then(|ending| ending.to_str()).map(|ending| format!(".{ending}"));
        path.with_file_name(format!("{stem}-{time}{}", ending.unwrap_or_default()))
    }

    fn backups(&self) -> io::Result<Vec<(PathBuf, SystemTime)>> {
        let Some(folder) = self.options.path.parent() else { return Ok(Vec::new()) };
        let stem = self.options.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("audit");
        let prefix = format!("{stem}-2");
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                found.push((entry.path(), entry.metadata()?.modified()?));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/audit.log");
        let options = FileOptions { path: path.clone(), size_max: Some(10), backups_max: Some(2), age_max: None };
        let mut writer = Writer::open(options).unwrap();
        for number in 0..6 {
            writer.write(&format!("line {number}\n")).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 5\n");
        assert_eq!(writer.backups().unwrap().len(), 2);
        let again = Writer::open(FileOptions { path, size_max: None, backups_max: None, age_max: None }).unwrap();
        assert_eq!(again.size, 7, "a second start goes on where the first ended");
    }
}
