//! The life of the DNS server: configuration, sockets, faces, reload.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ::http::StatusCode;
use arc_swap::ArcSwap;
use skiff_client::Snapshot;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    cache::Cache,
    chain::Server,
    corefile::{self, Corefile, CorefileError},
    forward::Forward,
    hosts::Hosts,
    http::{self, Handler},
    index::ClusterIndex,
    kubernetes::Kubernetes,
    message::{Query, record_type},
    metrics::{Metrics, Samples},
    name::Name,
    server::{self, Responder, Servers},
    setup::{self, Config, ServerConfig},
    sources::{SourceError, Watches},
    watch::FileWatch,
};

/// When the loop question is asked: after sockets are surely open.
const LOOP_QUESTION_AFTER: Duration = Duration::from_secs(1);

/// What to run.
pub struct RunConfig {
    pub corefile: PathBuf,
    /// For zones that name no port.
    pub port: u16,
    /// Stores to answer from, in place of watches of our own.
    pub snapshot: Option<Snapshot>,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("watch configuration files: {0}")]
    Watch(io::Error),
}

/// Runs until cancelled and then for as long as `lameduck` says, so that clients
/// that have not heard yet still get answers. Returns early only if it cannot begin.
pub async fn run(config: RunConfig, stop: CancellationToken) -> Result<(), DnsError> {
    let token = CancellationToken::new();
    let _guard = token.clone().drop_guard();
    let (corefile, parsed) = load(&config)?;
    let servers: Servers = Arc::new(ArcSwap::from_pointee(Vec::new()));
    let (responder, owner) = server::responder(Arc::clone(&servers));
    let mut running = Running {
        watches: Watches::new(config.snapshot.clone(), token.clone()),
        servers,
        responder,
        indexes: Arc::default(),
        open: BTreeSet::new(),
        faces: BTreeSet::new(),
        tasks: JoinSet::new(),
        token: token.clone(),
    };
    running.tasks.spawn(owner.run(token.clone()));
    running.adopt(&parsed).await?;
    tracing::info!(component = "dns", servers = parsed.servers.len(), "serving");
    let mut files = FileWatch::new().map_err(DnsError::Watch)?;
    let mut lameduck = lameduck(&parsed);
    let mut watched = watched_files(&corefile, &parsed);
    files.extend(watched.iter().map(AsRef::as_ref), corefile.directories.iter().map(AsRef::as_ref));
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                sleep(lameduck).await;
                return Ok(());
            }
            changed = files.changed() => changed.map_err(DnsError::Watch)?,
        }
        match load(&config) {
            Ok((corefile, parsed)) => {
                watched = watched_files(&corefile, &parsed);
                files.extend(watched.iter().map(AsRef::as_ref), corefile.directories.iter().map(AsRef::as_ref));
                match running.adopt(&parsed).await {
                    Ok(()) => {
                        lameduck = self::lameduck(&parsed);
                        tracing::info!(component = "dns", "configuration read again");
                    }
                    Err(error) => tracing::error!(component = "dns", %error, "new configuration is not usable"),
                }
            }
            Err(error) => {
                tracing::error!(component = "dns", %error, "new configuration is not valid, keeping the old one")
            }
        }
    }
}

fn load(config: &RunConfig) -> Result<(Corefile, Config), CorefileError> {
    let corefile = corefile::load(&config.corefile)?;
    let parsed = setup::setup(&corefile, config.port)?;
    for warning in &parsed.warnings {
        tracing::warn!(component = "dns", "{warning}");
    }
    Ok((corefile, parsed))
}

fn lameduck(config: &Config) -> Duration {
    config.health.iter().map(|(_, wait)| *wait).max().unwrap_or_default()
}

fn watched_files(corefile: &Corefile, config: &Config) -> Vec<PathBuf> {
    // Without the reload plugin the Corefile is read once; hosts files are always followed.
    let own = corefile.files.iter().filter(|_| config.has_reload);
    own.chain(&config.files).cloned().collect()
}

struct Running {
    watches: Watches,
    servers: Servers,
    responder: Responder,
    indexes: Arc<ArcSwap<Vec<Arc<ClusterIndex>>>>,
    /// Open DNS addresses.
    open: BTreeSet<(IpAddr, u16)>,
    /// Open HTTP addresses.
    faces: BTreeSet<SocketAddr>,
    tasks: JoinSet<()>,
    token: CancellationToken,
}

impl Running {
    /// Takes over a configuration: new plugins at once, new sockets as needed.
    async fn adopt(&mut self, config: &Config) -> Result<(), DnsError> {
        let (mut servers, mut indexes) = (Vec::new(), Vec::new());
        for server in &config.servers {
            let server = self.build(server, &mut indexes)?;
            servers.push(Arc::new(server));
        }
        self.ask_for_loops(&servers);
        self.indexes.store(Arc::new(indexes));
        self.servers.store(Arc::new(servers));
        for server in &config.servers {
            let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
            let addresses = if server.bind.is_empty() { &everywhere[..] } else { &server.bind };
            for address in addresses {
                self.open(*address, server.port).await?;
            }
        }
        self.open_faces(config).await
    }

    fn build(&mut self, config: &ServerConfig, indexes: &mut Vec<Arc<ClusterIndex>>) -> Result<Server, DnsError> {
        let mut kubernetes = Vec::new();
        for config in &config.kubernetes {
            let index = self.watches.index_for(config)?;
            indexes.push(Arc::clone(&index));
            kubernetes.push(Kubernetes { config: config.clone(), index });
        }
        let hosts = config.hosts.iter().map(|config| {
            let (hosts, warning) = Hosts::load(config.clone());
            if let Some(warning) = warning {
                tracing::warn!(component = "dns", "{warning}");
            }
            hosts
        });
        let loop_name = || format!("{}.{}.", rand::random::<u32>(), rand::random::<u32>()).parse::<Name>().ok();
        Ok(Server {
            zones: config.zones.clone(),
            port: config.port,
            has_log: config.has_log,
            has_errors: config.has_errors,
            has_loadbalance: config.has_loadbalance,
            cache: config.cache.clone().map(Cache::new),
            rewrites: config.rewrites.clone(),
            templates: config.templates.clone(),
            hosts: hosts.collect(),
            kubernetes,
            forwards: config.forwards.iter().map(|config| Arc::new(Forward::new(config.clone()))).collect(),
            loop_name: config.has_loop.then(loop_name).flatten(),
            metrics: Metrics::default(),
        })
    }

    /// Asks upstream for a name that only we would recognise.
    fn ask_for_loops(&mut self, servers: &[Arc<Server>]) {
        for server in servers {
            let Some(name) = server.loop_name.clone() else { continue };
            for forward in server.forwards.iter().filter(|forward| forward.accepts(&name)) {
                let (forward, query) = (Arc::clone(forward), Query::new(0, name.clone(), record_type::HINFO, true));
                self.tasks.spawn(async move {
                    sleep(LOOP_QUESTION_AFTER).await;
                    forward.ask(&query).await;
                });
            }
        }
    }

    async fn open(&mut self, address: IpAddr, port: u16) -> Result<(), DnsError> {
        if self.open.contains(&(address, port)) {
            return Ok(());
        }
        let failed = |source| DnsError::Listen { address: SocketAddr::new(address, port), source };
        let listener = server::listen_tcp(address, port).await.map_err(failed)?;
        server::serve_udp(address, port, &self.responder).map_err(failed)?;
        self.tasks.spawn(server::serve_tcp(listener, port, self.responder.clone(), self.token.clone()));
        self.open.insert((address, port));
        Ok(())
    }

    async fn open_faces(&mut self, config: &Config) -> Result<(), DnsError> {
        let health: Handler = Arc::new(|path| match path {
            "/health" => (StatusCode::OK, "OK".to_owned()),
            _ => (StatusCode::NOT_FOUND, String::new()),
        });
        let indexes = Arc::clone(&self.indexes);
        let ready: Handler = Arc::new(move |path| match path {
            "/ready" if indexes.load().iter().all(|index| index.is_synced()) => (StatusCode::OK, "OK".to_owned()),
            "/ready" => (StatusCode::SERVICE_UNAVAILABLE, "kubernetes".to_owned()),
            _ => (StatusCode::NOT_FOUND, String::new()),
        });
        let servers = Arc::clone(&self.servers);
        let metrics: Handler = Arc::new(move |path| match path {
            "/metrics" => (StatusCode::OK, render_metrics(&servers.load())),
            _ => (StatusCode::NOT_FOUND, String::new()),
        });
        for (address, _) in &config.health {
            self.open_face(*address, &health).await?;
        }
        for address in &config.ready {
            self.open_face(*address, &ready).await?;
        }
        for address in &config.metrics {
            self.open_face(*address, &metrics).await?;
        }
        Ok(())
    }

    async fn open_face(&mut self, address: SocketAddr, handler: &Handler) -> Result<(), DnsError> {
        if self.faces.contains(&address) {
            return Ok(());
        }
        let listener = http::listen(address).await.map_err(|source| DnsError::Listen { address, source })?;
        self.tasks.spawn(http::serve(listener, Arc::clone(handler), self.token.clone()));
        self.faces.insert(address);
        Ok(())
    }
}

fn render_metrics(servers: &[Arc<Server>]) -> String {
    use std::{fmt::Write, sync::atomic::Ordering};
    let mut samples = Samples::default();
    for server in servers {
        let label = format!("dns://:{}", server.port);
        let zone = server.zones.first().map(ToString::to_string).unwrap_or_default();
        server.metrics.write(&label, &zone, &mut samples);
        if let Some(cache) = &server.cache {
            let labels = format!("{{server=\"{label}\",zones=\"{zone}\",view=\"\"}}");
            let (hits, misses) = (cache.hits.load(Ordering::Relaxed), cache.misses.load(Ordering::Relaxed));
            let _ = writeln!(samples.cache, "coredns_cache_hits_total{labels} {hits}");
            let _ = writeln!(samples.cache, "coredns_cache_misses_total{labels} {misses}");
            let _ = writeln!(samples.cache, "coredns_cache_entries{labels} {}", cache.len());
        }
    }
    samples.finish()
}
