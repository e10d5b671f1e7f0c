//! Following a real file: growth, rotation, the end of the container, and stopping.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::*;
use crate::server::backend::{BackendError, Container, PodRef, Sandbox, StreamSet};

/// A backend whose only container ends when the token is cancelled.
struct Ends(CancellationToken);

#[async_trait]
impl StreamingBackend for Ends {
    async fn exited(&self, _: &str) {
        self.0.cancelled().await;
    }
    async fn container(&self, _: &PodRef, _: &str) -> Result<Container, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
    async fn sandbox(&self, _: &PodRef) -> Result<Sandbox, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
    async fn logs(&self, _: &PodRef, _: &str, _: bool) -> Result<LogSource, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
    async fn exec_url(&self, _: &str, _: &[String], _: StreamSet) -> Result<String, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
    async fn attach_url(&self, _: &str, _: StreamSet) -> Result<String, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
    async fn port_forward_url(&self, _: &str, _: &[u16]) -> Result<String, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
    async fn pods(&self) -> Result<Vec<u8>, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
    async fn metrics(&self, _: &str) -> Option<Vec<u8>> {
        None
    }
    async fn stats(&self, _: bool) -> Result<Vec<u8>, BackendError> {
        Err(BackendError::Internal("not used here".into()))
    }
}

struct World {
    directory: tempfile::TempDir,
    ended: CancellationToken,
    token: CancellationToken,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        World { directory, ended: CancellationToken::new(), token: CancellationToken::new() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("0.log")
    }

    fn write(&self, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path()).expect("opens");
        writeln!(file, "2026-01-02T00:00:01Z stdout F {text}").expect("writes");
    }

    async fn read(&self, options: LogOptions) -> Reader {
        let source = LogSource { path: self.path(), container_id: "c".into() };
        let backend = Arc::new(Ends(self.ended.clone()));
        Reader::open(source, options, backend, self.token.clone()).await.expect("opens")
    }
}

async fn expect(reader: &mut Reader, text: &str) {
    let mut got = Vec::new();
    while got.len() < text.len() {
        let piece = timeout(Duration::from_secs(5), reader.next()).await.expect("in time").expect("reads");
        got.extend_from_slice(&piece.expect("more to come"));
    }
    assert_eq!(String::from_utf8_lossy(&got), text);
}

async fn expect_end(reader: &mut Reader) {
    let end = timeout(Duration::from_secs(5), reader.next()).await.expect("in time").expect("reads");
    assert_eq!(end, None);
}

#[tokio::test]
async fn following_sees_new_lines_and_ends_with_the_container() {
    let world = World::new();
    world.write("one");
    let mut reader = world.read(LogOptions { follow: true, ..LogOptions::default() }).await;
    expect(&mut reader, "one\n").await;
    world.write("two");
    expect(&mut reader, "two\n").await;
    world.write("last");
    world.ended.cancel();
    expect(&mut reader, "last\n").await;
    expect_end(&mut reader).await;
}

#[tokio::test]
async fn following_goes_on_in_the_new_file_after_rotation() {
    let world = World::new();
    world.write("one");
    let mut reader = world.read(LogOptions { follow: true, ..LogOptions::default() }).await;
    expect(&mut reader, "one\n").await;
    let rotated = world.directory.path().join("0.log.20260102-000000");
    fs::rename(world.path(), &rotated).expect("renames");
    // The runtime writes to the old file until it is told to open the new one.
    let mut old = OpenOptions::new().append(true).open(&rotated).expect("opens");
    writeln!(old, "2026-01-02T00:00:01Z stdout F late").expect("writes");
    expect(&mut reader, "late\n").await;
    world.write("new");
    expect(&mut reader, "new\n").await;
    world.write("newer");
    expect(&mut reader, "newer\n").await;
}

#[tokio::test]
async fn following_a_container_that_has_ended_reads_all_and_ends() {
    let world = World::new();
    for i in 0..20_000 {
        world.write(&format!("line {i}"));
        if i == 10 {
            break;
        }
    }
    world.ended.cancel();
    let mut reader = world.read(LogOptions { follow: true, tail_lines: Some(2), ..LogOptions::default() }).await;
    expect(&mut reader, "line 9\nline 10\n").await;
    expect_end(&mut reader).await;
}

#[tokio::test]
async fn stopping_ends_a_follower() {
    let world = World::new();
    world.write("one");
    let mut reader = world.read(LogOptions { follow: true, ..LogOptions::default() }).await;
    expect(&mut reader, "one\n").await;
    world.token.cancel();
    expect_end(&mut reader).await;
}

#[tokio::test]
async fn a_limit_ends_a_follower_too() {
    let world = World::new();
    world.write("one");
    let options = LogOptions { follow: true, limit_bytes: Some(2), ..LogOptions::default() };
    let mut reader = world.read(options).await;
    expect(&mut reader, "on").await;
    expect_end(&mut reader).await;
}
