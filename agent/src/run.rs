//! Puts the parts of the agent together and runs them.

use std::{
    collections::{BTreeSet, HashMap},
    os::unix::fs::PermissionsExt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::{Mutex, RwLock};
use skiff_client::{Reflector, Store, events::recorder, store::store};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AgentError, NodeBackend,
    cgroups::PodCgroups,
    config::{AgentConfig, AgentEvent, EventSinkFn, RuntimeConfig},
    container_config::{dns::DnsSettings, resources::MachineLimits},
    containerd::Containerd,
    context::Context,
    cri::Cri,
    eviction,
    images::{Ctr, ImageGc, ImageGcSettings, ImageImporter, ImageMounter, ImportReport, Puller},
    limits, log_rotation,
    node::{NodeReporter, run_lease},
    objects::{ObjectCache, Wake},
    pleg::Pleg,
    pods::{PodSet, pod_set::WakeTable, static_pods},
    probes::Prober,
    status::StatusWriter,
    volumes::{CertificateCache, VolumeHost},
};

/// Tasks get this long to end at stop; the runtime call under way is then dropped.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the agent until `token` is cancelled. Pods keep running after that.
pub async fn run(config: AgentConfig, events: EventSinkFn, token: CancellationToken) -> Result<(), AgentError> {
    let agent = Agent::start(config, events, token.clone()).await?;
    agent.wait().await;
    Ok(())
}

/// A started agent.
pub struct Agent {
    backend: Arc<NodeBackend>,
    pods: Arc<PodSet>,
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Agent {
    /// Starts the runtime and everything else. Returns once the runtime answers and all tasks
    /// run; the node registers in the background, because the API may come up later.
    pub async fn start(
        config: AgentConfig,
        events: EventSinkFn,
        token: CancellationToken,
    ) -> Result<Agent, AgentError> {
        let token = token.child_token();
        let tasks = TaskTracker::new();
        let config = prepare(config)?;
        let machine_info = skiff_host::process::machine_info();
        let cgroups = PodCgroups::new(&config.cgroup_root, machine_info.cpus)?;
        let socket = start_runtime(&config, &tasks, &token).await?;
        let cri = Cri::new(&socket)?;
        let version = cri.version().await?;
        let image_mounter = containerd_client(&config, &socket)
            .and_then(|ctr| ImageMounter::for_runtime(&version.runtime_name, &version.runtime_version, ctr));
        events(AgentEvent::RuntimeReady { version: version.runtime_version });

        let wakes = WakeTable::default();
        let wake: Wake = {
            let wakes = wakes.clone();
            Arc::new(move |uid| wakes.wake(uid))
        };
        let (event_recorder, event_sink) = recorder(config.client.clone(), "kubelet", &config.node_name);
        tasks.spawn(event_sink.run(token.clone()));
        let objects =
            Arc::new(ObjectCache::new(config.client.clone(), Arc::clone(&wake), tasks.clone(), token.clone()));
        let certificates = CertificateCache::new(
            config.client.clone(),
            config.node_name.clone(),
            Arc::clone(&wake),
            event_recorder.clone(),
            tasks.clone(),
            token.clone(),
        );
        let pleg = Pleg::new(cri.clone(), Arc::clone(&wake), tasks.clone());
        let context = Arc::new(Context {
            cgroups: cgroups.clone(),
            volumes: VolumeHost::new(config.pods_dir(), config.client.clone(), Arc::clone(&objects), certificates),
            objects,
            puller: Puller::new(cri.clone()),
            image_mounter,
            prober: Prober::new(cri.clone(), wake, event_recorder.clone(), tasks.clone(), token.clone()),
            status: StatusWriter::new(config.client.clone(), tasks.clone(), token.clone()),
            pleg: Arc::clone(&pleg),
            recorder: event_recorder,
            machine: MachineLimits {
                memory_bytes: machine_info.memory_bytes,
                cgroup_version: cgroups.version(),
                huge_page_sizes: machine_info.huge_pages.iter().map(|(size, _)| *size).collect(),
                pod_pids_max: config.pod_pids_max,
            },
            services: shared(&config, Reflector::of::<Service>(), &tasks, &token),
            dns: DnsSettings {
                cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
                cluster_domain: config.cluster_domain.clone(),
                host_resolv_conf: resolv_conf(&config.resolv_conf),
            },
            node: RwLock::default(),
            network_ready: AtomicBool::new(false),
            admitted: Mutex::new(HashMap::new()),
            events: Arc::clone(&events),
            sync_slots: Semaphore::new(limits::POD_SYNCS_MAX),
            cri,
            config,
        });
        let pods = PodSet::new(Arc::clone(&context), wakes, tasks.clone(), token.clone());
        let backend = Arc::new(NodeBackend::new(Arc::clone(&context), Arc::clone(&pods)));
        let agent = Agent { backend, pods: Arc::clone(&pods), tasks: tasks.clone(), token: token.clone() };
        let supervisor = bring_up(Arc::clone(&context), pods, events, socket, tasks.clone(), token.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = supervisor => {}
            }
        });
        Ok(agent)
    }

    /// What the kubelet's HTTPS server needs.
    pub fn backend(&self) -> Arc<NodeBackend> {
        Arc::clone(&self.backend)
    }

    /// The pods of this node.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.pods()
    }

    /// Waits until the token is cancelled, then for the tasks. Pods keep running.
    pub async fn wait(self) {
        self.token.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(component = "agent", tasks = self.tasks.len(), "tasks did not end in time");
        }
    }
}

/// Makes directories and turns the data directory into its real path, because mounts are found by it.
fn prepare(mut config: AgentConfig) -> Result<AgentConfig, AgentError> {
    std::fs::create_dir_all(&config.data_dir).map_err(AgentError::io("create", &config.data_dir))?;
    config.data_dir = config.data_dir.canonicalize().map_err(AgentError::io("resolve", &config.data_dir))?;
    if config.node_ips.is_empty() {
        return Err(AgentError::Config("the node has no address".to_owned()));
    }
    for directory in [config.pods_dir(), config.pod_log_dir(), config.seccomp_dir()] {
        std::fs::create_dir_all(&directory).map_err(AgentError::io("create", &directory))?;
    }
    // Volumes hold secrets; only containers that mount them may get there.
    let pods = config.pods_dir();
    std::fs::set_permissions(&pods, std::fs::Permissions::from_mode(0o750))
        .map_err(AgentError::io("set permissions of", &pods))?;
    Ok(config)
}

/// The host's resolver settings. A resolver on the host's own loopback cannot be reached from pods, so
/// the servers behind it are taken where systemd-resolved names them.
fn resolv_conf(path: &std::path::Path) -> String {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    let text = read(path);
    let servers: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim).collect();
    let is_local = |server: &&str| server.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !servers.is_empty() && servers.iter().all(is_local) {
        let behind = read(std::path::Path::new("/run/systemd/resolve/resolv.conf"));
        if !behind.is_empty() {
            return behind;
        }
        tracing::warn!(component = "agent", path = %path.display(),
            "all name servers are on this host's loopback, where pods cannot reach them");
    }
    text
}

async fn start_runtime(
    config: &AgentConfig,
    tasks: &TaskTracker,
    token: &CancellationToken,
) -> Result<std::path::PathBuf, AgentError> {
    match &config.runtime {
        RuntimeConfig::External(socket) => Ok(socket.clone()),
        RuntimeConfig::Supervised(containerd) => {
            let socket = containerd.socket.clone();
            let started = Containerd::start((**containerd).clone()).await?;
            tasks.spawn(started.supervise(token.clone()));
            Ok(socket)
        }
    }
}

/// What a reflector would follow: from the shared stores if it is there, with what it would leave out, else watched.
fn shared(config: &AgentConfig, reflector: Reflector, tasks: &TaskTracker, token: &CancellationToken) -> Store {
    let resource = reflector.resource.group_resource();
    if let Some(shared) = config.snapshot.as_ref().and_then(|snapshot| snapshot.store(&resource)) {
        return shared;
    }
    let (writer, reader) = store(&[]);
    tasks.spawn(reflector.run(config.client.clone(), writer, token.clone()));
    reader
}

/// Everything that needs the runtime, and then everything that needs the API.
async fn bring_up(
    context: Arc<Context>,
    pods: Arc<PodSet>,
    events: EventSinkFn,
    socket: std::path::PathBuf,
    tasks: TaskTracker,
    token: CancellationToken,
) {
    let importer = importer(&context, &events, &socket);
    let mut reporter = NodeReporter::new(Arc::clone(&context), Arc::clone(&events));
    // Archives may hold what the first pods need, so pods wait for them; the node does not.
    let (uid, ()) = tokio::join!(reporter.register(), import_archives(&context, importer.as_ref(), &tasks, &token));
    events(AgentEvent::ImagesImported);
    if let Err(error) = context.pleg.relist().await {
        tracing::warn!(component = "pleg", %error, "first look at the runtime");
    }
    tasks.spawn(Arc::clone(&context.pleg).run(token.clone()));
    tasks.spawn(log_rotation::run(Arc::clone(&context), token.clone()));

    let config = context.config.clone();
    let static_pods = static_pods::run(
        config.static_pod_dir(),
        config.node_name.clone(),
        config.client.clone(),
        Arc::clone(&pods),
        token.clone(),
    );
    tasks.spawn(async move {
        if let Err(error) = static_pods.await {
            tracing::error!(component = "static-pods", %error, "watch manifests");
        }
    });
    tasks.spawn(run_lease(config.client.clone(), config.node_name.clone(), uid, token.clone()));
    let own_pods = Reflector::of::<Pod>().fields(format!("spec.nodeName={}", config.node_name));
    tasks.spawn(Arc::clone(&pods).run(shared(&config, own_pods, &tasks, &token)));
    let gc = ImageGc::new(context.cri.clone(), ImageGcSettings::default(), config.data_dir.clone());
    tasks.spawn(eviction::run(Arc::clone(&context), Arc::clone(&pods), gc, importer, token.clone()));
    reporter.run(pods, token).await;
}

async fn import_archives(
    context: &Context,
    importer: Option<&Arc<ImageImporter>>,
    tasks: &TaskTracker,
    token: &CancellationToken,
) {
    let Some(importer) = importer else { return };
    let present = context.cri.list_images().await.unwrap_or_default();
    let present: BTreeSet<String> = present.into_iter().flat_map(|image| image.repo_tags).collect();
    importer.import_all(&present).await;
    let (importer, token) = (Arc::clone(importer), token.clone());
    tasks.spawn(async move {
        if let Err(error) = importer.watch(token).await {
            tracing::error!(component = "images", %error, "watch image archives");
        }
    });
}

fn containerd_client(config: &AgentConfig, socket: &std::path::Path) -> Option<Ctr> {
    let (program, snapshotter) = match &config.runtime {
        RuntimeConfig::Supervised(containerd) => (containerd.find_program("ctr")?, containerd.snapshotter_in_use()),
        RuntimeConfig::External(_) => (std::path::PathBuf::from("ctr"), None),
    };
    Some(Ctr { program, socket: socket.to_owned(), snapshotter })
}

fn importer(context: &Context, events: &EventSinkFn, socket: &std::path::Path) -> Option<Arc<ImageImporter>> {
    let ctr = containerd_client(&context.config, socket)?;
    let events = Arc::clone(events);
    let report = Arc::new(move |report: ImportReport| events(AgentEvent::ImageArchive(report)));
    match ImageImporter::new(context.config.image_archive_dir(), ctr, report) {
        Ok(importer) => Some(Arc::new(importer)),
        Err(error) => {
            tracing::error!(component = "images", %error, "image archives cannot be imported");
            None
        }
    }
}
