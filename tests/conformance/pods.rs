//! Pods as tests need them: build, run to completion, read logs, execute.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::join;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::AttachParams};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::{
    api::{core, merge, name},
    context::{Context, brief, eventually},
};

/// How long a pod may take to start or to end.
pub const POD_LIMIT: Duration = Duration::from_secs(120);

/// A container of busybox that runs a script.
pub fn shell(context: &Context, script: &str) -> Value {
    json!({"name": "main", "image": context.busybox, "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script]})
}

/// A container that answers over HTTP on 8080 and UDP on 8081.
pub fn netexec(context: &Context) -> Value {
    json!({"name": "main", "image": context.agnhost, "imagePullPolicy": "IfNotPresent",
        "args": ["netexec", "--http-port", "8080", "--udp-port", "8081"]})
}

/// A container that does nothing until it is told to end.
pub fn pause(context: &Context) -> Value {
    json!({"name": "main", "image": context.agnhost, "imagePullPolicy": "IfNotPresent", "args": ["pause"]})
}

/// A pod of containers that runs once.
pub fn pod(name: &str, containers: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"name": name}}, "spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers}})
}

/// An object with something laid over it.
pub fn with(mut base: Value, over: Value) -> Value {
    merge(&mut base, &over);
    base
}

/// State of a container by name.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut statuses = all.iter().filter_map(|list| pod["status"][*list].as_array()).flatten();
    statuses.find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

/// Whether a condition of the object is true.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions.filter(|condition| condition["type"] == kind);
    conditions.next().unwrap_or(&Value::Null)
}

impl Context {
    pub async fn create_pod(&self, namespace: &str, pod: &Value) -> Result<Value> {
        self.create(&core(namespace, "pods"), pod).await
    }

    /// Creates a pod and waits until it is ready.
    pub async fn start_pod(&self, namespace: &str, pod: &Value) -> Result<Value> {
        let created = self.create_pod(namespace, pod).await?;
        self.wait_ready(namespace, name(&created)).await
    }

    pub async fn wait_ready(&self, namespace: &str, pod: &str) -> Result<Value> {
        self.wait_pod(namespace, pod, "is ready", is_ready).await
    }

    pub async fn wait_pod(
        &self,
        namespace: &str,
        pod: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let path = format!("{}/{pod}", core(namespace, "pods"));
        match self.until_within(&path, what, POD_LIMIT, wanted).await {
            Ok(pod) => Ok(pod),
            Err(error) => Err(error.context(self.pod_events(namespace, pod).await)),
        }
    }

    /// What events say of a pod, for failures.
    async fn pod_events(&self, namespace: &str, pod: &str) -> String {
        let path = format!("{}?fieldSelector=involvedObject.name={pod}", core(namespace, "events"));
        let events = self.list(&path).await.unwrap_or_default();
        let texts: Vec<String> =
            events.iter().map(|event| format!("{}: {}", event["reason"], event["message"])).collect();
        format!("events: {}", texts.join("; "))
    }

    /// Waits for the end of a pod, whatever it is.
    pub async fn wait_end(&self, namespace: &str, pod: &str) -> Result<Value> {
        let ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        self.wait_pod(namespace, pod, "has ended", ended).await
    }

    pub async fn log(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        self.text(&format!("{}/{pod}/log?container={container}", core(namespace, "pods"))).await
    }

    /// Runs a pod to its successful end; returns the log of container `main`.
    pub async fn output(&self, namespace: &str, pod: &Value) -> Result<String> {
        let created = self.create_pod(namespace, pod).await?;
        let ended = self.wait_end(namespace, name(&created)).await?;
        let log = self.log(namespace, name(&created), "main").await?;
        ensure!(ended["status"]["phase"] == "Succeeded", "{}; log: {log}", brief(&ended));
        Ok(log)
    }

    /// Runs a pod and compares the lines of its output.
    pub async fn expect_output(&self, namespace: &str, pod: &Value, wanted: &[&str]) -> Result<()> {
        let output = self.output(namespace, pod).await?;
        for line in wanted {
            ensure!(output.contains(line), "no {line:?} in {output:?}");
        }
        Ok(())
    }

    /// Waits until the log of container `main` contains a text.
    pub async fn wait_log(&self, namespace: &str, pod: &str, container: &str, wanted: &str) -> Result<()> {
        eventually(&format!("the log of {pod}/{container} has {wanted:?}"), POD_LIMIT, || async {
            let log = self.log(namespace, pod, container).await?;
            if log.contains(wanted) { Ok(()) } else { bail!("it is {log:?}") }
        })
        .await
    }

    /// Runs a shell script in a container; failure is an error.
    pub async fn exec(&self, namespace: &str, pod: &str, container: &str, script: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let options = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
        let work = async {
            let mut process = pods.exec(pod, ["sh", "-c", script], &options).await?;
            let status = process.take_status().context("status of exec")?;
            let (mut out, mut err) = (String::new(), String::new());
            let mut stdout = process.stdout().context("stdout of exec")?;
            let mut stderr = process.stderr().context("stderr of exec")?;
            let (a, b) = join(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err)).await;
            a?;
            b?;
            let status = status.await.context("no status")?;
            if status.status.as_deref() != Some("Success") {
                bail!("{script:?} in {pod}: {}: {out}{err}", status.message.unwrap_or_default());
            }
            Ok(out)
        };
        tokio::time::timeout(Duration::from_secs(40), work)
            .await
            .with_context(|| format!("exec {script:?} in {pod}"))?
    }

    /// Names of the nodes that pods can run on.
    pub async fn nodes(&self) -> Result<Vec<Value>> {
        let nodes = self.list("/api/v1/nodes").await?;
        Ok(nodes
            .into_iter()
            .filter(|node| is_ready(node) && node["spec"]["unschedulable"] != true)
            .filter(|node| node["spec"]["taints"].as_array().is_none_or(Vec::is_empty))
            .collect())
    }
}
