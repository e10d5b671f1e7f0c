//! Puts a server together and runs it: what can fail for a user's reason is
//! tried first and in order, each step is shown, and what was started is
//! stopped in the opposite order.

mod adapter_metrics;
mod certificates;
mod control_plane;
mod etcd_listener;
mod listener;
mod network;
mod node_role;
mod pod_metrics;
mod quota;
mod scheduled_snapshots;
mod secret_tokens;
mod secrets;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use skiff_bundled_manifests::Variables;
use skiff_client::events;
use skiff_scheduler::SchedulerConfig;

use crate::{
    config::{FlannelBackend, ServerSettings},
    deploy::{self, DeployController},
    kubeconfig, memory, node,
    payload::{self, Binaries},
    pki::{self, ServerPki, ServerPkiOptions},
    progress::Progress,
    supervision::{Supervision, stop_signal},
    supervisor::ClusterConfig,
    system_image::{self, UpstreamImages},
};
use control_plane::ControlPlane;
pub use scheduled_snapshots::{SnapshotSettings, is_name};

/// Runs a server until it is told to stop or a component fails.
pub async fn run(settings: ServerSettings, progress: Progress) -> Result<()> {
    let binaries = prepare(&settings, &progress)?;
    let step = progress.step("Certificates and join token");
    let listener = listener::bind(&settings).await?;
    let server_dir = settings.node.data_dir.join("server");
    let options = ServerPkiOptions { api_server_names: settings.certificate_names() };
    let pki = Arc::new(ServerPki::load_or_create(&server_dir.join("tls"), &options)?);
    let secrets = secrets::load_or_create(
        &server_dir,
        settings.token.as_deref(),
        settings.agent_token.as_deref(),
        &pki.server_ca.certificate_pem,
    )?;
    step.done(&server_dir.join("tls").display().to_string());

    let mut supervision = Supervision::default();
    let ended = async {
        let plane = ControlPlane::start(&settings, &pki, secrets, listener, &progress, &mut supervision).await?;
        write_kubeconfig(&settings, &pki)?;
        start_controllers(&settings, &pki, &plane, &progress, &mut supervision).await?;
        if let Some(binaries) = binaries {
            let (client, nodes) = (plane.supervisor_client("skiff-supervisor"), plane.server.snapshot());
            let name = settings.node.node_name.clone();
            let token = supervision.stage("node role", Duration::from_secs(1));
            supervision.spawn("node role", async move {
                tokio::select! {
                    ended = node_role::run(client, nodes, &name) => ended,
                    () = token.cancelled() => Ok(()),
                }
            });
            node::start_on_server(&settings, &pki, &plane.server, binaries, &progress, &mut supervision).await?;
        }
        anyhow::Ok(())
    };
    let started = tokio::select! {
        started = ended => started,
        signal = stop_signal() => {
            progress.line(&format!("{} received, stopping", signal?));
            supervision.stop().await;
            return Ok(());
        }
    };
    let result = match started {
        Err(error) => Err(error),
        Ok(()) => {
            progress.line(&ready_message(&settings, &progress));
            tokio::select! {
                signal = stop_signal() => {
                    progress.line(&format!("{} received, stopping; pods keep running", signal?));
                    Ok(())
                }
                error = supervision.failed() => Err(error),
            }
        }
    };
    supervision.stop().await;
    result
}

/// What must be right before anything is written.
fn prepare(settings: &ServerSettings, progress: &Progress) -> Result<Option<Binaries>> {
    if !node::is_root() {
        bail!("skiff server must run as root (it starts containers and sets up the network)");
    }
    if !settings.runs_agent {
        return Ok(None);
    }
    let binaries = payload::prepare(&settings.node.data_dir, settings.node.prefer_host_binaries, progress)?;
    binaries.check_node()?;
    node::check_host()?;
    Ok(Some(binaries))
}

fn write_kubeconfig(settings: &ServerSettings, pki: &ServerPki) -> Result<()> {
    let text = kubeconfig::render(&settings.local_url(), &pki.server_ca.certificate_pem, &pki.admin);
    pki::write_atomic(&settings.kubeconfig, text.as_bytes(), settings.kubeconfig_mode)?;
    Ok(())
}

/// Facts that joining nodes ask for.
fn cluster_config(settings: &ServerSettings) -> ClusterConfig {
    ClusterConfig {
        version: crate::version::VERSION.to_owned(),
        cluster_cidr: settings.cluster_cidr.to_string(),
        service_cidr: settings.service_cidr.to_string(),
        cluster_dns: settings.cluster_dns.to_string(),
        cluster_domain: settings.cluster_domain.clone(),
        flannel_backend: settings.flannel_backend.name().to_owned(),
        node_ports: settings.node_ports,
        kubelet_client_name: control_plane::KUBELET_CLIENT.to_owned(),
    }
}

async fn start_controllers(
    settings: &ServerSettings,
    pki: &Arc<ServerPki>,
    plane: &ControlPlane,
    progress: &Progress,
    supervision: &mut Supervision,
) -> Result<()> {
    let step = progress.step("Controllers, scheduler and bundled manifests");
    let token = supervision.stage("controllers", Duration::from_secs(5));
    let client = plane.client("system:kube-controller-manager", "kube-controller-manager");
    let (recorder, sink) = events::recorder(client.clone(), "kube-controller-manager", "");
    supervision.spawn("event recorder", {
        let token = token.clone();
        async move {
            sink.run(token).await;
            Ok(())
        }
    });
    supervision.spawn("memory", {
        let token = token.clone();
        async move {
            memory::give_back(token).await;
            Ok(())
        }
    });
    let (adapters, asking) = adapter_metrics::adapters(client.clone(), token.clone());
    supervision.spawn("metrics adapters", async move {
        asking.await;
        Ok(())
    });
    let cluster_cidr = skiff_controllers::ClusterCidr::parse(&settings.cluster_cidr.to_string(), None);
    let config = skiff_controllers::ControllerConfig {
        root_ca_pem: pki.server_ca.certificate_pem.clone(),
        cluster_cidrs: cluster_cidr.into_iter().collect(),
        quota_usage: Some(Arc::new(quota::AdmissionQuotaUsage)),
        secret_tokens: Some(Arc::new(secret_tokens::BoundTokens(plane.server.token_issuer()))),
        pod_metrics: Some(Arc::new(pod_metrics::KubeletMetrics(plane.server.resource_metrics()))),
        adapter_metrics: Some(Arc::new(adapters)),
        certificate_authority: Some(Arc::new(certificates::ClusterSigner {
            pki: Arc::clone(pki),
            authorizer: plane.server.authorizer(),
        })),
        ..Default::default()
    };
    let deps = skiff_client::runner::RunnerDeps {
        client: client.clone(),
        snapshot: plane.server.snapshot(),
        recorder: recorder.clone(),
    };
    supervision.spawn("controllers", {
        let token = token.clone();
        async move {
            skiff_client::runner::run(skiff_controllers::all(&config), deps, token).await;
            Ok(())
        }
    });
    network::start(settings, plane, &recorder, &token, supervision);
    let scheduler_client = plane.client("system:kube-scheduler", "kube-scheduler");
    supervision.spawn("scheduler", {
        let (snapshot, recorder, token) = (plane.server.snapshot(), recorder.clone(), token.clone());
        async move {
            skiff_scheduler::run(SchedulerConfig::default(), scheduler_client, snapshot, recorder, token).await;
            Ok(())
        }
    });
    let folder = settings.node.data_dir.join("server/manifests");
    write_manifests(settings, &folder)?;
    let deployer = DeployController {
        folder,
        client: plane.supervisor_client("deploy@skiff"),
        registry: plane.server.resources(),
        recorder: recorder.with_component("deploy"),
    };
    supervision.spawn("deploy controller", async move { Ok(deployer.run(token).await?) });
    step.done("");
    Ok(())
}

fn write_manifests(settings: &ServerSettings, folder: &std::path::Path) -> Result<()> {
    let images = settings.node.data_dir.join("agent/images");
    let own = system_image::write(&images)?.reference;
    let registry = settings.node.system_default_registry.as_deref();
    let variables = Variables {
        cluster_dns: vec![settings.cluster_dns.to_string()],
        cluster_domain: settings.cluster_domain.clone(),
        system_image: registry.map_or(own, |registry| UpstreamImages(registry).coredns()),
        cluster_cidrs: vec![settings.cluster_cidr.to_string()],
        flannel_backend: settings.flannel_backend.name().to_owned(),
    };
    let mut disabled = settings.disabled.clone();
    if settings.flannel_backend == FlannelBackend::None && !disabled.iter().any(|name| name == "flannel") {
        disabled.push("flannel".to_owned());
    }
    deploy::write_bundled(folder, &variables, &disabled).context("write bundled manifests")
}

fn ready_message(settings: &ServerSettings, progress: &Progress) -> String {
    let what = if settings.runs_agent {
        format!("node {} is Ready", settings.node.node_name)
    } else {
        "the control plane is ready".to_owned()
    };
    let default = settings.kubeconfig == std::path::Path::new("/etc/skiff/skiff.yaml");
    let environment = if default { String::new() } else { format!("KUBECONFIG={} ", settings.kubeconfig.display()) };
    format!(
        "\nSkiff is up: {what} after {:.1} s.\n  kubeconfig   {}\n  next         {environment}skiff kubectl get nodes,pods -A\n  join a node  skiff agent --server https://{}:{} --token \"$(cat {})\"\n",
        progress.elapsed_seconds(),
        settings.kubeconfig.display(),
        settings.advertise_address,
        settings.port,
        settings.node.data_dir.join("server/node-token").display(),
    )
}
