//! The same cluster through kube-rs: typed objects, watches, server-side apply
//! and streams over websockets.
//!
//! A library cannot be entered into a host's network as a program can, so the
//! suite starts itself there with [`VARIABLE`] set, and [`main`] does the work.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, Discovery, ResourceExt,
    api::{
        ApiResource, AttachParams, DeleteParams, DynamicObject, GroupVersionKind, ListParams, LogParams, Patch,
        PatchParams, PostParams,
    },
    runtime::{WatchStreamExt, conditions, reflector, wait::await_condition, watcher},
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
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
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

    list_without_types(client, namespace).await?;

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

/// Kinds found at run time: objects in lists of built-in kinds do not say what they are, custom ones do, and either
/// way the client reads, watches and applies them.
async fn list_without_types(client: Client, namespace: &str) -> Result<()> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let pod = GroupVersionKind::gvk("", "v1", "Pod");
    let (pod, _) = discovery.resolve_gvk(&pod).context("pods are discovered")?;
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &pod);
    let selected = ListParams::default().labels("app=typed");
    let listed = pods.list(&selected).await?;
    ensure!(listed.types.kind == "PodList" && listed.items.len() == 3, "{:?}", listed.types);
    ensure!(listed.items.iter().all(|pod| pod.data["spec"]["nodeName"] == "agent"), "all of each object is there");
    ensure!(listed.items.iter().all(|pod| pod.types.as_ref().is_none_or(|types| types.kind == "Pod")));
    let metadata = pods.list_metadata(&selected).await?;
    ensure!(metadata.items.iter().all(|pod| pod.metadata.labels.is_some()) && metadata.items.len() == 3);
    let got = pods.get(&listed.items[0].name_any()).await?;
    ensure!(got.types.is_some_and(|types| types.kind == "Pod"), "an object alone says what it is");

    // Lists first, then watches: both forms end in one cache.
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let writer = reflector::store::Writer::new(pod.clone());
        let reader = writer.as_reader();
        let stream = watcher(pods.clone(), config.labels("app=typed"));
        let mut stream = reflector(writer, stream).applied_objects().boxed();
        while reader.len() < 3 {
            stream.try_next().await?.context("the watch ended")?;
        }
    }

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = Patch::Apply(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "buoys.kube-rs.example.com"},
        "spec": {"group": "kube-rs.example.com", "scope": "Namespaced", "names": {"kind": "Buoy", "plural": "buoys"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}
    }));
    definitions.patch("buoys.kube-rs.example.com", &PatchParams::apply("suite"), &definition).await?;
    await_condition(definitions.clone(), "buoys.kube-rs.example.com", conditions::is_crd_established()).await?;
    let buoy = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-rs.example.com", "v1", "Buoy"));
    let buoys: Api<DynamicObject> = Api::namespaced_with(client, namespace, &buoy);
    let apply = DynamicObject::new("red", &buoy).data(json!({"color": "red"}));
    buoys.patch("red", &PatchParams::apply("suite"), &Patch::Apply(apply)).await?;
    let listed = buoys.list(&ListParams::default()).await?;
    let types = listed.items[0].types.as_ref().context("custom objects say what they are")?;
    ensure!(types.kind == "Buoy" && listed.items[0].data["color"] == "red", "{:?}", listed.items);
    definitions.delete("buoys.kube-rs.example.com", &DeleteParams::default()).await?;
    Ok(())
}
