//! The controllers around the cluster's network: node names for cluster DNS,
//! and addresses for Services of type LoadBalancer.

use std::sync::Arc;

use skiff_client::{Controller, EventRecorder, RunnerDeps, runner};
use skiff_network::{NodeHosts, ServiceLb};
use tokio_util::sync::CancellationToken;

use super::control_plane::ControlPlane;
use crate::{config::ServerSettings, supervision::Supervision};

/// Who these controllers are; the bundled manifest `rbac` says what they may do.
const USER: &str = "system:skiff-network-controllers";

pub fn start(
    settings: &ServerSettings,
    plane: &ControlPlane,
    recorder: &EventRecorder,
    token: &CancellationToken,
    supervision: &mut Supervision,
) {
    let is_enabled = |name: &str| !settings.disabled.iter().any(|disabled| disabled == name);
    let mut controllers: Vec<Arc<dyn Controller>> = Vec::new();
    if is_enabled("coredns") {
        controllers.push(Arc::new(NodeHosts));
    }
    if is_enabled("servicelb") {
        let reserved_ports = vec![settings.port, settings.node.kubelet_port];
        controllers.push(Arc::new(ServiceLb { reserved_ports }));
    }
    let deps = RunnerDeps {
        client: plane.client(USER, "skiff-network"),
        snapshot: plane.server.snapshot(),
        recorder: recorder.with_component("service-lb-controller"),
    };
    let token = token.clone();
    supervision.spawn("network controllers", async move {
        runner::run(controllers, deps, token).await;
        Ok(())
    });
}
