//! Datastore, API server, supervisor API and their listener.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures_util::FutureExt;
use skiff_apiserver::{
    ApiServer, Config, ConnectionInfo, Handler, ProxySettings, TokenIssuer, UserInfo, audit::AuditLog,
};
use skiff_client::Client;
use skiff_kine::{Etcd, Store};
use skiff_tunnel::{SessionConfig, Sessions};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{cluster_config, etcd_listener, listener};
use crate::{
    config::ServerSettings,
    datastore::Engine,
    join::{Trusted, client_config},
    node_dialer::TunnelDialer,
    pki::ServerPki,
    progress::Progress,
    storage::{Datastore, KineBackend},
    supervision::Supervision,
    supervisor::{JoinSecrets, Supervisor},
    version,
};

/// User of the API server's certificate towards kubelets.
pub const KUBELET_CLIENT: &str = "system:kube-apiserver";
/// The supervisor's own user, allowed everything.
const SUPERVISOR: &str = "system:skiff-supervisor";
/// How long a request for a node waits for its tunnel to come back.
const TUNNEL_WAIT: Duration = Duration::from_secs(5);

/// The running control plane.
pub struct ControlPlane {
    pub server: ApiServer,
}

impl ControlPlane {
    /// Starts everything up to the point where the API answers and the objects
    /// that must exist do.
    pub async fn start(
        settings: &ServerSettings,
        pki: &Arc<ServerPki>,
        secrets: JoinSecrets,
        listener: TcpListener,
        progress: &Progress,
        supervision: &mut Supervision,
    ) -> Result<ControlPlane> {
        let datastore = open_datastore(settings, progress, supervision).await?;
        let step = progress.step("API server");
        let sessions = Arc::new(Sessions::new(SessionConfig::default(), TUNNEL_WAIT));
        let token = supervision.stage("API server", Duration::from_secs(10));
        let bootstrapped = watch::Sender::new(false);
        let mut config = config(settings, pki, datastore, &sessions)?;
        config.health_checks = skiff_apiserver::bootstrap::health_checks(&bootstrapped.subscribe());
        let server = ApiServer::new(config, token.clone())?;
        supervision.spawn("API server", {
            let server = server.clone();
            async move {
                server.run().await;
                Ok(())
            }
        });
        if let Some(options) = &settings.audit {
            let (log, writer) = AuditLog::open(options, token.clone())?;
            server.set_audit_log(log);
            supervision.spawn("audit log", async move {
                writer.await;
                Ok(())
            });
        }
        server.ready().await;
        let plane = ControlPlane { server };
        let bootstrap = skiff_apiserver::bootstrap::Bootstrap {
            client_ca_pem: pki.client_ca.certificate_pem.clone(),
            request_header_ca_pem: pki.request_header_ca.certificate_pem.clone(),
            service_cidrs: vec![settings.service_cidr],
            advertise_address: settings.advertise_address,
            advertise_port: settings.port,
        };
        plane.bootstrap(&bootstrap).await?;
        bootstrapped.send_replace(true);
        supervision.spawn("service kubernetes", {
            let (client, snapshot) = (plane.supervisor_client("skiff"), plane.server.snapshot());
            let token = token.clone();
            async move {
                bootstrap.maintain(&client, &snapshot, token).await;
                Ok(())
            }
        });
        let supervisor = Arc::new(Supervisor::new(
            Arc::clone(pki),
            secrets,
            cluster_config(settings),
            plane.supervisor_client("skiff-supervisor"),
            sessions,
            token.clone(),
        ));
        plane.serve(pki, supervisor, listener, token, supervision)?;
        step.done(&settings.local_url());
        Ok(plane)
    }

    /// A client of this process under a user of the system.
    pub fn client(&self, user: &str, user_agent: &str) -> Client {
        self.server.client(UserInfo::new(user, &[]), user_agent)
    }

    /// A client that may do everything, for the supervisor's own work.
    pub fn supervisor_client(&self, user_agent: &str) -> Client {
        self.server.client(UserInfo::new(SUPERVISOR, &["system:masters"]), user_agent)
    }

    async fn bootstrap(&self, bootstrap: &skiff_apiserver::bootstrap::Bootstrap) -> Result<()> {
        if let Some(row) = crate::deploy::addon::resource() {
            self.server.add_resource(row).await.context("serve addons")?;
        }
        bootstrap.run(&self.supervisor_client("skiff")).await.context("create the objects every cluster has")
    }

    /// The supervisor's paths in front of the API's, on one listener.
    fn serve(
        &self,
        pki: &ServerPki,
        supervisor: Arc<Supervisor>,
        listener: TcpListener,
        token: CancellationToken,
        supervision: &mut Supervision,
    ) -> Result<()> {
        let tls = listener::tls(pki)?;
        let api = self.server.handler();
        let tunnels = Arc::clone(&supervisor);
        let handler: Handler = Arc::new(move |request, connection: Arc<ConnectionInfo>| {
            if !Supervisor::owns(request.uri().path()) {
                return api(request, connection);
            }
            let supervisor = Arc::clone(&supervisor);
            async move { supervisor.handle(request, &connection.client_certificates).await }.boxed()
        });
        supervision.spawn("listener", async move {
            skiff_apiserver::serve(listener, tls, handler, token).await;
            tunnels.tasks.close();
            tunnels.tasks.wait().await;
            Ok(())
        });
        Ok(())
    }
}

/// Opens the datastore: a store of our own, or an etcd that others run.
async fn open_datastore(
    settings: &ServerSettings,
    progress: &Progress,
    supervision: &mut Supervision,
) -> Result<Datastore> {
    let Engine::Etcd(endpoints) = &settings.datastore else {
        return Ok(Datastore::Store(open_store(settings, progress, supervision).await?));
    };
    if settings.etcd_expose.is_some() {
        anyhow::bail!("--etcd-expose: the datastore is an etcd already, with an address of its own");
    }
    let step = progress.step("Datastore");
    let etcd = Etcd::open(endpoints).await?;
    step.done(&settings.datastore.to_string());
    Ok(Datastore::Etcd(etcd))
}

/// Opens the store and its etcd API; both end last.
async fn open_store(settings: &ServerSettings, progress: &Progress, supervision: &mut Supervision) -> Result<Store> {
    let step = progress.step("Datastore");
    // First of all, so that a mistake in the address shows before anything runs.
    let exposed = match settings.etcd_expose {
        Some(address) => {
            let folder = settings.node.data_dir.join("server/tls/etcd");
            Some(etcd_listener::bind(address, &folder, &settings.certificate_names()).await?)
        }
        None => None,
    };
    let mut options = settings.datastore.store_options()?;
    options.quota = settings.datastore_quota;
    let store = Store::open(options).await?;
    let token = supervision.stage("datastore", Duration::from_secs(10));
    supervision.spawn("datastore", {
        let (store, token) = (store.clone(), token.clone());
        async move {
            token.cancelled().await;
            Ok(store.close().await?)
        }
    });
    if let Some(listener) = exposed {
        progress.line(&format!("etcd API on {}", listener.url()));
        let serving = listener.serve(store.clone(), token.clone());
        supervision.spawn("exposed etcd API", async move { Ok(serving.await?) });
    }
    if let Some(snapshots) = settings.snapshots.clone() {
        let taking = snapshots.run(store.clone(), settings.node.node_name.clone(), token.clone());
        supervision.spawn("scheduled snapshots", async move {
            taking.await;
            Ok(())
        });
    }
    let (socket, served) = (settings.etcd_socket.clone(), store.clone());
    supervision.spawn("etcd API", async move {
        skiff_kine::grpc::serve_unix(served, &socket, token).await.context("serve the etcd API")
    });
    step.done(&settings.datastore.to_string());
    Ok(store)
}

fn config(
    settings: &ServerSettings,
    pki: &ServerPki,
    datastore: Datastore,
    sessions: &Arc<Sessions>,
) -> Result<Config> {
    let issuer = format!("https://kubernetes.default.svc.{}", settings.cluster_domain);
    let audiences = vec![issuer.clone(), "skiff".to_owned()];
    let token_issuer = TokenIssuer::new(issuer, audiences, &pki.service_account_key_pem, &[])
        .context("read the service-account key")?;
    let kubelet_tls =
        client_config(&Trusted::Authority(pki.server_ca.certificate_pem.clone()), Some(&pki.kubelet_client))
            .map_err(anyhow::Error::msg)?;
    let own_node = settings.runs_agent.then(|| settings.node.node_name.clone());
    Ok(Config {
        backend: Arc::new(KineBackend(datastore)),
        client_ca: listener::certificates(&pki.client_ca.certificate_pem)?,
        request_header_ca: listener::certificates(&pki.request_header_ca.certificate_pem)?,
        request_header_names: vec!["system:auth-proxy".to_owned()],
        anonymous: true,
        tokens: Vec::new(),
        token_issuer: Arc::new(token_issuer),
        service_cidrs: vec![settings.service_cidr],
        node_ports: settings.node_ports.0..=settings.node_ports.1,
        server_address: format!("{}:{}", settings.advertise_address, settings.port),
        version: version::info(),
        proxy: Some(ProxySettings {
            dialer: Arc::new(TunnelDialer { own_node, sessions: Arc::clone(sessions) }),
            kubelet_tls: Arc::new(kubelet_tls),
            aggregator_identity: Some(crate::pki::tls_key(&pki.auth_proxy)?),
        }),
        health_checks: Vec::new(),
    })
}
