//! From nothing to a working cluster.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Result, ensure};
use serde_json::Value;
use skiff_tests::{Cluster, host::text};

pub fn both_nodes_become_ready(cluster: &mut Cluster) -> Result<()> {
    let nodes = cluster.kubectl().run(&["get", "nodes", "--no-headers"])?;
    ensure!(nodes.lines().count() == 2 && nodes.lines().all(|line| line.contains(" Ready ")), "{nodes}");
    let server = nodes.lines().find(|line| line.starts_with("server ")).unwrap_or_default();
    ensure!(server.contains("control-plane"), "the server shows its role: {nodes}");
    let log = fs::read_to_string(cluster.server.folder.join("log"))?;
    for expected in [" 1. ", "Ready", "kubeconfig", "kubectl get"] {
        ensure!(log.contains(expected), "the start says {expected:?}: {log}");
    }
    Ok(())
}

pub fn the_kubeconfig_is_private(cluster: &mut Cluster) -> Result<()> {
    let mode = fs::metadata(cluster.kubeconfig())?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "mode is {mode:o}");
    let mode = fs::metadata(cluster.server.folder.join("data/server/node-token"))?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "mode of the token is {mode:o}");
    Ok(())
}

pub fn cluster_dns_runs(cluster: &mut Cluster) -> Result<()> {
    let pods = cluster.kubectl().in_namespace("kube-system").wait_pods("k8s-app=kube-dns", 1)?;
    ensure!(pods[0]["status"]["phase"] == "Running", "{}", pods[0]["status"]);
    let address = cluster.kubectl().in_namespace("kube-system").get(&["service", "kube-dns"])?;
    ensure!(address["spec"]["clusterIP"] == "10.43.0.10", "{address}");
    Ok(())
}

pub fn bundled_manifests_are_shown_as_addons(cluster: &mut Cluster) -> Result<()> {
    let addons = cluster.kubectl().run(&["get", "addons.skiff.io", "-A", "-o", "name"])?;
    for name in ["coredns", "flannel"] {
        ensure!(addons.contains(name), "{name} is missing: {addons}");
    }
    Ok(())
}

pub fn skiff_kubectl_is_preset_to_the_cluster(cluster: &mut Cluster) -> Result<()> {
    let nodes = text("skiff kubectl", cluster.skiff(&["kubectl", "get", "nodes", "-o", "name"]).output()?)?;
    ensure!(nodes == "node/agent\nnode/server\n", "{nodes}");
    Ok(())
}

pub fn the_version_is_machine_readable(cluster: &mut Cluster) -> Result<()> {
    let version: Value =
        serde_json::from_str(&text("skiff version", cluster.skiff(&["version", "-o", "json"]).output()?)?)?;
    let served: Value = serde_json::from_str(&cluster.kubectl().run(&["get", "--raw", "/version"])?)?;
    ensure!(version["version"] == served["gitVersion"], "{version} is not {served}");
    ensure!(version["commit"] == served["gitCommit"], "{version} is not {served}");
    ensure!(version["kubernetes"].as_str().is_some_and(|version| version.starts_with("v1.37.")), "{version}");
    Ok(())
}
