//! kubectl as a child process with a namespace of the test.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::context::{Context, LIMIT};

/// Runs kubectl in a new namespace.
pub struct Kubectl {
    program: PathBuf,
    pub namespace: String,
}

impl Kubectl {
    pub async fn new(context: &Context) -> Result<Kubectl> {
        Ok(Kubectl { program: context.kubectl.clone(), namespace: context.namespace().await? })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Discovery is cached in the home folder: tests that run beside each other do not share it.
        command.args(["--namespace", &self.namespace]).args(words).env("HOME", self.home()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn home(&self) -> PathBuf {
        std::env::temp_dir().join(format!("kubectl-{}", self.namespace))
    }

    /// A folder of this test.
    pub fn folder(&self) -> Result<PathBuf> {
        let folder = self.home();
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Standard output of a command that must succeed.
    pub async fn run(&self, words: &[&str]) -> Result<String> {
        let (code, text) = self.outcome(words, None).await?;
        if code != 0 {
            bail!("kubectl {}: exit code {code}: {text}", words.join(" "));
        }
        Ok(text)
    }

    /// The same with a manifest on standard input.
    pub async fn with_input(&self, words: &[&str], manifest: &Value) -> Result<String> {
        let (code, text) = self.outcome(words, Some(manifest)).await?;
        if code != 0 {
            bail!("kubectl {}: exit code {code}: {text}", words.join(" "));
        }
        Ok(text)
    }

    /// Exit code, and output: standard error too when it failed.
    pub async fn outcome(&self, words: &[&str], manifest: Option<&Value>) -> Result<(i32, String)> {
        let mut command = self.command(words);
        command.stdin(if manifest.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().with_context(|| format!("run {}", self.program.display()))?;
        if let (Some(manifest), Some(mut input)) = (manifest, child.stdin.take()) {
            input.write_all(manifest.to_string().as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        Ok((output.status.code().unwrap_or(-1), text))
    }

    /// A command that goes on until the value is dropped.
    pub fn start(&self, words: &[&str]) -> Result<Running> {
        let mut child = self.command(words).stdin(Stdio::null()).spawn().context("run kubectl")?;
        let lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
        Ok(Running { _child: child, lines })
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        // Only a cache; there may be none.
        let _ = std::fs::remove_dir_all(self.home());
    }
}

/// A command that runs beside the test.
pub struct Running {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next line it prints.
    pub async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await.context("nothing is printed")??;
        line.context("the command has ended")
    }
}

/// GET over an open connection; the answer must be JSON.
pub async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<Value> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.context("no answer")??;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let begin = text.find('{').with_context(|| text.clone())?;
    let end = text.rfind('}').with_context(|| text.clone())?;
    serde_json::from_str(&text[begin..=end]).with_context(|| text.clone())
}
