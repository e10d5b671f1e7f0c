//! The same cluster through kube-rs: typed objects, watches, server-side apply
//! and streams over websockets.
//!
//! A library cannot be entered into a host's network as a program can, so the
//! suite starts itself there with [`VARIABLE`] set, and [`main`] does the work.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, conditions, wait::await_condition, watcher},
};
use serde_json::json;
use skiff_tests::{Cluster, host::text, image::BUSYBOX};
use tokio::io::AsyncReadExt;

/// Names the namespace to work in.
pub const VARIABLE: &str = "SKIFF_TESTS_KUBE_RS";

pub fn kube_rs_deploys_watches_patches_and_streams(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("kube-rs", |cluster, kubectl| {
        let mut command = cluster.server.command(std::env::current_exe()?);
        let output = command.env(VARIABLE, "kube-rs").env("KUBECONFIG", &kubectl.kubeconfig).output()?;
        text("the kube-rs client", output).map(drop)
    })
}

/// The part that runs in the server's network.
pub fn main(namespace: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let limit = std::time::Duration::from_secs(180);
    let work = async { tokio::time::timeout(limit, exercise(namespace)).await.context("took too long")? };
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn exercise(namespace: &str) -> Result<()> {
    let client = Client::try_from(Config::infer().await?)?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let deployment: Deployment = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "typed"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "typed"}}, "template": {
            "metadata": {"labels": {"app": "typed"}},
            "spec": {"terminationGracePeriodSeconds": 1, "nodeName": "agent", "containers": [
                {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", "echo hello; exec sleep infinity"]}]}}}
    }))?;
    let created = deployments.create(&PostParams::default(), &deployment).await?;
    ensure!(created.uid().is_some() && created.resource_version().is_some(), "the answer is complete");
    await_condition(deployments.clone(), "typed", conditions::is_deployment_completed()).await?;

    // A watch sees what a server-side apply brings about.
    let mut events = watcher(pods.clone(), watcher::Config::default().labels("app=typed")).applied_objects().boxed();
    let apply =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "typed"}, "spec": {"replicas": 3}});
    deployments.patch("typed", &PatchParams::apply("suite").force(), &Patch::Apply(apply)).await?;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 3 {
        seen.insert(events.try_next().await?.context("the watch ended")?.name_any());
    }
    await_condition(deployments.clone(), "typed", conditions::is_deployment_completed()).await?;
    let listed = pods.list(&ListParams::default().labels("app=typed").limit(2)).await?;
    ensure!(listed.items.len() == 2 && listed.metadata.continue_.is_some(), "lists come in pieces");

    let name = listed.items[0].name_any();
    await_condition(pods.clone(), &name, conditions::is_pod_running()).await?;
    let log = pods.logs(&name, &LogParams::default()).await?;
    ensure!(log == "hello\n", "{log:?}");
    let parameters = AttachParams::default().stderr(false);
    let mut process = pods.exec(&name, ["sh", "-c", "echo streamed; exit 5"], &parameters).await?;
    let status = process.take_status().context("status")?;
    let mut output = String::new();
    process.stdout().context("standard output")?.read_to_string(&mut output).await?;
    let status = status.await.context("the status arrives")?;
    ensure!(output == "streamed\n", "{output:?}");
    ensure!(status.reason.as_deref() == Some("NonZeroExitCode"), "{status:?}");

    deployments.delete("typed", &DeleteParams::foreground()).await?;
    let uid = created.uid().unwrap_or_default();
    await_condition(deployments, "typed", conditions::is_deleted(&uid)).await?;
    ensure!(
        pods.list(&ListParams::default().labels("app=typed")).await?.items.is_empty(),
        "foreground deletion is complete"
    );
    Ok(())
}
