//! Stock kubectl against a cluster.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{eventually, host::text};

/// How long pods may take on a busy machine.
const PODS_LIMIT: Duration = Duration::from_secs(60);

/// Runs kubectl inside a host with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// Process whose network namespace is entered.
    pub host_pid: u32,
    pub program: PathBuf,
    pub kubeconfig: PathBuf,
    /// Given as `--namespace` if present.
    pub namespace: Option<String>,
}

impl Kubectl {
    /// The same for objects of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> Kubectl {
        Kubectl { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.host_pid.to_string(), "-n", "--"])
            .arg(&self.program)
            .args(self.namespace.iter().flat_map(|namespace| ["--namespace", namespace]))
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

    /// Applies a pod called `name` from the inside of its `spec`, in YAML without
    /// indentation; short grace unless it says otherwise.
    pub fn apply_pod(&self, name: &str, labels: &str, spec: &str) -> Result<String> {
        let grace =
            if spec.contains("terminationGracePeriodSeconds") { "" } else { "terminationGracePeriodSeconds: 1\n" };
        let spec: String = format!("{grace}{spec}").trim().lines().map(|line| format!("  {line}\n")).collect();
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{{labels}}}\nspec:\n{spec}"
        ))
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.run_with_input(&["apply", "-f", "-"], yaml)
    }

    /// Runs a shell script in a pod (or `deploy/name` and the like).
    pub fn exec(&self, target: &str, script: &str) -> Result<String> {
        self.run(&["exec", target, "--", "sh", "-c", script])
    }

    /// Starts a command that goes on by itself.
    pub fn start(&self, arguments: &[&str]) -> Result<Background> {
        Background::start(self.command(arguments))
    }

    /// Waits until `count` pods with this label are Ready and none else are there; returns them.
    pub fn wait_pods(&self, selector: &str, count: usize) -> Result<Vec<Value>> {
        eventually(&format!("{count} pods {selector} are Ready"), PODS_LIMIT, || {
            let pods = self.get(&["pods", "-l", selector])?["items"].as_array().cloned().unwrap_or_default();
            if pods.len() == count && pods.iter().all(is_ready) { Ok(pods) } else { bail!(describe(&pods)) }
        })
    }

    /// Waits until a pod is Ready; returns it.
    pub fn wait_pod(&self, name: &str) -> Result<Value> {
        eventually(&format!("pod {name} is Ready"), PODS_LIMIT, || {
            let pod = self.get(&["pod", name])?;
            if is_ready(&pod) { Ok(pod) } else { bail!(describe(&[pod])) }
        })
    }

    /// Waits until a pod has ended; returns it.
    pub fn wait_ended(&self, name: &str) -> Result<Value> {
        eventually(&format!("pod {name} has ended"), PODS_LIMIT, || {
            let pod = self.get(&["pod", name])?;
            let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if ended { Ok(pod) } else { bail!(describe(&[pod])) }
        })
    }
}

/// A command that runs beside the test and ends with this value.
pub struct Background {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Background {
    pub fn start(mut command: Command) -> Result<Background> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start in the background")?;
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().context("standard output")?, Arc::clone(&output));
        collect(child.stderr.take().context("standard error")?, Arc::clone(&output));
        Ok(Background { child, output })
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        self.output.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Waits until the output contains a text.
    pub fn wait_for(&self, needle: &str) -> Result<()> {
        eventually(&format!("the output contains {needle:?}"), Duration::from_secs(20), || {
            let output = self.output();
            if output.contains(needle) { Ok(()) } else { bail!(output) }
        })
    }

    /// Writes to standard input, which stays open.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("standard input is closed")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    /// Ends standard input.
    pub fn close_input(&mut self) {
        self.child.stdin = None;
    }

    /// Waits for the command to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        eventually("the command ends", Duration::from_secs(30), || {
            self.child.try_wait()?.with_context(|| format!("still running: {}", self.output()))
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if let Ok(mut text) = into.lock() {
                text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        }
    });
}

/// Whether a pod's Ready condition is true.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

fn describe(pods: &[Value]) -> String {
    let one = |pod: &Value| {
        format!("{} {} {}", pod["metadata"]["name"], pod["status"]["phase"], pod["status"]["containerStatuses"])
    };
    format!("{} pods: {}", pods.len(), pods.iter().map(one).collect::<Vec<_>>().join("; "))
}
