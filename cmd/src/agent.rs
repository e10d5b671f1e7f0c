//! Puts an agent together and runs it: joins, opens the tunnel, becomes a node.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use skiff_client::{
    Client, Snapshot,
    https::{HttpsTransport, Identity, ServerAddresses, Trust},
    reflector::Reflector,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::AgentSettings,
    join::{self, JoinRequest, Membership},
    memory,
    node::{self, Cluster, NodeIdentity},
    payload,
    pki::KeyAndCertificate,
    progress::Progress,
    supervision::{Supervision, stop_signal},
    system_image, tunnel_client,
};

/// Runs an agent until it is told to stop or a component fails.
pub async fn run(settings: AgentSettings, progress: Progress) -> Result<()> {
    if !node::is_root() {
        bail!("skiff agent must run as root (it starts containers and sets up the network)");
    }
    let server_url = settings.server_url.clone().ok_or_else(|| {
        anyhow!("--server is missing: give the URL of a server, for example --server https://10.0.0.1:6443")
    })?;
    let binaries = payload::prepare(&settings.data_dir, settings.prefer_host_binaries, &progress)?;
    binaries.check_node()?;
    node::check_host()?;
    let stop = CancellationToken::new();
    let mut supervision = Supervision::default();
    let starting = async {
        let step = progress.step(format!("Joining {server_url}"));
        let request = JoinRequest {
            server_url,
            token: settings.token.clone(),
            node_name: settings.node_name.clone(),
            node_ip: settings.node_ip,
            folder: settings.data_dir.join("agent"),
        };
        let membership = join::join(&request, &step, &stop).await?;
        step.done(&format!("cluster {}", membership.config.version));
        start(&settings, membership, binaries, &progress, &mut supervision).await
    };
    let started = tokio::select! {
        started = starting => started,
        signal = stop_signal() => {
            progress.line(&format!("{} received, stopping", signal?));
            supervision.stop().await;
            return Ok(());
        }
    };
    let result = match started {
        Err(error) => Err(error),
        Ok(()) => {
            let seconds = progress.elapsed_seconds();
            progress.line(&format!("\nNode {} is Ready after {seconds:.1} s.\n", settings.node_name));
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

async fn start(
    settings: &AgentSettings,
    membership: Membership,
    binaries: payload::Binaries,
    progress: &Progress,
    supervision: &mut Supervision,
) -> Result<()> {
    let cluster = Cluster::from_config(&membership.config).context("read the server's answer")?;
    let token = supervision.stage("tunnel", Duration::from_secs(5));
    supervision.spawn("tunnel", {
        let (endpoint, authority) = (membership.endpoint.clone(), membership.server_ca_pem.clone());
        let identity = membership.kubelet_client.clone();
        let reachable = tunnel_client::Reachable {
            kubelet_port: settings.kubelet_port,
            pods: cluster.cluster_cidr,
            node_ip: settings.node_ip,
        };
        let token = token.clone();
        async move { tunnel_client::run(endpoint, authority, identity, reachable, token).await.map_err(anyhow::Error::msg) }
    });
    supervision.spawn("memory", {
        let token = token.clone();
        async move {
            memory::give_back(token).await;
            Ok(())
        }
    });
    let proxy_client = client(&membership, &membership.proxy_client, "kube-proxy")?;
    let snapshot = watch(proxy_client, supervision, &token);
    let image = system_image::write(&settings.data_dir.join("agent/images"))?;
    let identity = NodeIdentity {
        client: client(&membership, &membership.kubelet_client, "kubelet")?,
        serving: membership.kubelet_serving.clone(),
        client_ca_pem: membership.client_ca_pem.clone(),
        system_image: image.reference,
    };
    node::start(settings, &cluster, identity, snapshot, binaries, progress, supervision).await
}

fn client(membership: &Membership, identity: &KeyAndCertificate, user_agent: &str) -> Result<Client> {
    let transport = HttpsTransport::new(
        std::sync::Arc::new(ServerAddresses::new(vec![membership.endpoint.address.clone()])),
        &membership.endpoint.host,
        Trust::Roots(membership.server_ca_pem.clone().into_bytes()),
        Identity::Certificate {
            chain_pem: identity.certificate_pem.clone().into_bytes(),
            key_pem: identity.key_pem.clone().into_bytes(),
        },
    )?;
    Ok(Client::new(transport, user_agent))
}

/// What the network of a node reads, kept current by watches.
fn watch(client: Client, supervision: &mut Supervision, token: &CancellationToken) -> Snapshot {
    use k8s_openapi::api::{
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
    };
    let snapshot = Snapshot::new();
    let reflectors = [
        ("watch of nodes", skiff_api::GroupResource::of::<Node>(), Reflector::of::<Node>()),
        ("watch of services", skiff_api::GroupResource::of::<Service>(), Reflector::of::<Service>()),
        ("watch of endpoint slices", skiff_api::GroupResource::of::<EndpointSlice>(), Reflector::of::<EndpointSlice>()),
    ];
    for (name, resource, reflector) in reflectors {
        let (writer, store) = skiff_client::store::store(&[]);
        snapshot.insert(resource, store);
        let (client, token) = (client.clone(), token.clone());
        supervision.spawn(name, async move {
            reflector.run(client, writer, token).await;
            Ok(())
        });
    }
    snapshot
}
