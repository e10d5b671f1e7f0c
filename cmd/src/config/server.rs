//! What a server is told, in typed form.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use skiff_apiserver::audit::AuditOptions;
use skiff_controllers::cron_schedule::Schedule;
use skiff_kine::TlsFiles;

use super::AgentSettings;
use crate::{
    datastore::Engine,
    flags::{Settings, SettingsError},
    server::{SnapshotSettings, is_name},
};

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlannelBackend {
    Vxlan,
    HostGateway,
    None,
}

impl FlannelBackend {
    /// The name in flannel's `net-conf.json`.
    pub fn name(self) -> &'static str {
        match self {
            FlannelBackend::Vxlan => "vxlan",
            FlannelBackend::HostGateway => "host-gw",
            FlannelBackend::None => "none",
        }
    }
}

/// Settings of `skiff server`.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    pub node: AgentSettings,
    pub bind_address: IpAddr,
    pub port: u16,
    pub advertise_address: IpAddr,
    pub tls_names: Vec<String>,
    pub cluster_cidr: IpNet,
    pub service_cidr: IpNet,
    pub node_ports: (u16, u16),
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub flannel_backend: FlannelBackend,
    /// Secret given by flag; otherwise one is kept in the data folder.
    pub token: Option<String>,
    pub agent_token: Option<String>,
    pub disabled: Vec<String>,
    pub runs_agent: bool,
    pub kubeconfig: PathBuf,
    pub kubeconfig_mode: u32,
    pub datastore: Engine,
    pub etcd_socket: PathBuf,
    /// Address of the etcd API for clients with its own certificates.
    pub etcd_expose: Option<SocketAddr>,
    /// Bytes in use beyond which the datastore refuses to grow.
    pub datastore_quota: Option<u64>,
    /// What is recorded of requests, if anything.
    pub audit: Option<AuditOptions>,
    /// Snapshots by the clock, if any.
    pub snapshots: Option<SnapshotSettings>,
}

impl ServerSettings {
    pub fn from(settings: &Settings) -> Result<ServerSettings, SettingsError> {
        let node = AgentSettings::from(settings)?;
        let service_cidr: IpNet = settings.required("service-cidr")?;
        let cluster_cidr: IpNet = settings.required("cluster-cidr")?;
        check_ranges(service_cidr, cluster_cidr)?;
        let cluster_dns = match settings.parsed("cluster-dns")? {
            Some(address) if service_cidr.contains(&address) => address,
            Some(address) => {
                return Err(SettingsError::new(
                    "cluster-dns",
                    format!("{address} is not in service-cidr {service_cidr}"),
                ));
            }
            None => nth_address(service_cidr, 10),
        };
        Ok(ServerSettings {
            bind_address: settings.required("bind-address")?,
            port: settings.required("https-listen-port")?,
            advertise_address: settings.parsed("advertise-address")?.unwrap_or(node.node_ip),
            tls_names: settings.many("tls-san"),
            cluster_cidr,
            service_cidr,
            node_ports: node_ports(settings)?,
            cluster_dns,
            cluster_domain: settings.required("cluster-domain")?,
            flannel_backend: flannel_backend(settings)?,
            token: secret(settings)?,
            agent_token: settings.text("agent-token").map(str::to_owned),
            disabled: disabled(settings)?,
            runs_agent: !settings.switch("disable-agent"),
            kubeconfig: settings.required("write-kubeconfig")?,
            kubeconfig_mode: file_mode(settings)?,
            datastore: datastore(settings, &node.data_dir)?,
            etcd_socket: settings.path("etcd-socket").unwrap_or_else(|| node.data_dir.join("server/kine.sock")),
            etcd_expose: settings.parsed("etcd-expose")?,
            datastore_quota: Some(settings.required("quota-backend-bytes")?).filter(|bytes| *bytes > 0),
            audit: super::api_server_args::audit(settings)?,
            snapshots: snapshots(settings, &node.data_dir)?,
            node,
        })
    }

    /// First address of the service range: the `kubernetes` Service.
    pub fn api_service_address(&self) -> IpAddr {
        nth_address(self.service_cidr, 1)
    }

    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.port)
    }

    /// Where this host's own components reach the API.
    pub fn local_url(&self) -> String {
        let address =
            if self.bind_address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { self.bind_address };
        format!("https://{}", SocketAddr::new(address, self.port))
    }

    /// Every name under which clients may reach this server.
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        names.push(format!("kubernetes.default.svc.{}", self.cluster_domain));
        names.push(self.node.node_name.clone());
        let addresses = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            "::1".parse().expect("a literal"),
            self.api_service_address(),
            self.advertise_address,
            self.node.node_ip,
        ];
        names.extend(addresses.iter().map(IpAddr::to_string));
        if !self.bind_address.is_unspecified() {
            names.push(self.bind_address.to_string());
        }
        names.extend(self.tls_names.iter().cloned());
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// The `n`th address of a range.
pub fn nth_address(range: IpNet, n: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first).wrapping_add(n))),
        IpAddr::V6(first) => IpAddr::V6(std::net::Ipv6Addr::from(u128::from(first).wrapping_add(u128::from(n)))),
    }
}

/// The endpoint that is given, or else the file in the data folder.
fn datastore(settings: &Settings, data_dir: &Path) -> Result<Engine, SettingsError> {
    let tls = TlsFiles {
        ca: settings.path("datastore-cafile"),
        certificate: settings.path("datastore-certfile"),
        key: settings.path("datastore-keyfile"),
    };
    let file = format!("sqlite://{}", data_dir.join("server/db/state.db").display());
    let endpoint = settings.text("datastore-endpoint").unwrap_or(&file);
    Engine::parse(endpoint, tls).map_err(|error| SettingsError::new("datastore-endpoint", error.to_string()))
}

fn check_ranges(services: IpNet, pods: IpNet) -> Result<(), SettingsError> {
    if services.contains(&pods) || pods.contains(&services) {
        return Err(SettingsError::new("service-cidr", format!("{services} overlaps cluster-cidr {pods}")));
    }
    let bits = services.max_prefix_len() - services.prefix_len();
    if !(4..=20).contains(&bits) {
        let message = format!("{services}: the range must hold 16 to 1048576 addresses");
        return Err(SettingsError::new("service-cidr", message));
    }
    if pods.prefix_len() > 24 && pods.addr().is_ipv4() {
        return Err(SettingsError::new("cluster-cidr", format!("{pods}: every node takes a /24 of it")));
    }
    Ok(())
}

fn node_ports(settings: &Settings) -> Result<(u16, u16), SettingsError> {
    let text: String = settings.required("service-node-port-range")?;
    let parse = || {
        let (from, to) = text.split_once('-')?;
        let range = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        (range.0 > 0 && range.0 <= range.1).then_some(range)
    };
    parse().ok_or_else(|| {
        SettingsError::new("service-node-port-range", format!("{text:?} is not of the form 30000-32767"))
    })
}

fn flannel_backend(settings: &Settings) -> Result<FlannelBackend, SettingsError> {
    match settings.text("flannel-backend") {
        Some("vxlan") | None => Ok(FlannelBackend::Vxlan),
        Some("host-gw") => Ok(FlannelBackend::HostGateway),
        Some("none") => Ok(FlannelBackend::None),
        Some(other) => Err(SettingsError::new("flannel-backend", format!("{other:?} is not vxlan, host-gw or none"))),
    }
}

fn disabled(settings: &Settings) -> Result<Vec<String>, SettingsError> {
    let names = settings.many("disable");
    for name in &names {
        if !["coredns", "flannel", "servicelb"].contains(&name.as_str()) {
            let message = format!("{name:?} is not bundled; coredns, flannel and servicelb are");
            return Err(SettingsError::new("disable", message));
        }
    }
    Ok(names)
}

fn snapshots(settings: &Settings, data_dir: &Path) -> Result<Option<SnapshotSettings>, SettingsError> {
    if settings.switch("etcd-disable-snapshots") {
        return Ok(None);
    }
    let text: String = settings.required("etcd-snapshot-schedule-cron")?;
    let schedule = Schedule::parse(&text)
        .map_err(|reason| SettingsError::new("etcd-snapshot-schedule-cron", format!("{text:?}: {reason}")))?;
    let name: String = settings.required("etcd-snapshot-name")?;
    if !is_name(&name) {
        return Err(SettingsError::new(
            "etcd-snapshot-name",
            format!("{name:?}: a name is no path and does not begin with a dot"),
        ));
    }
    Ok(Some(SnapshotSettings {
        schedule,
        retention: settings.required("etcd-snapshot-retention")?,
        folder: settings.path("etcd-snapshot-dir").unwrap_or_else(|| data_dir.join("server/db/snapshots")),
        name,
        compress: settings.switch("etcd-snapshot-compress"),
    }))
}

fn file_mode(settings: &Settings) -> Result<u32, SettingsError> {
    let text: String = settings.required("write-kubeconfig-mode")?;
    u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
        SettingsError::new("write-kubeconfig-mode", format!("{text:?} is not an octal mode such as 0600"))
    })
}

/// The token given by `--token` or `--token-file`.
pub(super) fn secret(settings: &Settings) -> Result<Option<String>, SettingsError> {
    match (settings.text("token"), settings.path("token-file")) {
        (Some(_), Some(_)) => Err(SettingsError::new("token-file", "give either --token or --token-file")),
        (Some(token), None) => Ok(Some(token.to_owned())),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| SettingsError::new("token-file", format!("read {}: {error}", path.display())))?;
            Ok(Some(text.trim().to_owned()))
        }
        (None, None) => Ok(None),
    }
}
