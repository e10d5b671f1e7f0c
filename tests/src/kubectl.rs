//! Stock kubectl against a cluster.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host::text;

/// Runs kubectl inside a host with a kubeconfig.
pub struct Kubectl {
    /// Process whose network namespace is entered.
    pub host_pid: u32,
    pub program: PathBuf,
    pub kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.host_pid.to_string(), "-n", "--"])
            .arg(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.kubeconfig.parent().unwrap_or(&self.kubeconfig));
        command
    }

    /// Raw result, for tests of failures.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).stdin(Stdio::null()).output().context("run kubectl")
    }

    /// Standard output; failure is an error that shows standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        text(&format!("kubectl {}", arguments.join(" ")), self.output(arguments)?)
    }

    /// Like [`Kubectl::run`] with something on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        child.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
        text(&format!("kubectl {}", arguments.join(" ")), child.wait_with_output()?)
    }

    /// `kubectl get … -o json`.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], arguments].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.run_with_input(&["apply", "-f", "-"], yaml)
    }
}
