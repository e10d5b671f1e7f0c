//! The life of the service proxy on one node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use futures_util::FutureExt;
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use skiff_api::{Object, ObjectKey};
use skiff_client::{Snapshot, Store, StoreEvent};
use skiff_host::{
    netlink::{Netlink, NetlinkError},
    nftables::{Nft, NftError},
    sysctl,
};
use tokio::{
    task::JoinError,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    compile, conntrack,
    fragment::Fragment,
    input::{NodeView, ServiceInput, SliceInput},
    table::Table,
};
use crate::limits::{PROXY_MIN_INTERVAL, RETRY_MAX, RETRY_MIN, jittered};

/// What the proxy needs to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    pub node_name: String,
    /// Networks of all pods; may be empty.
    pub cluster_cidrs: Vec<IpNet>,
    pub nft: Nft,
    /// Distinguishes the tables of several instances in one network namespace; usually empty.
    pub table_suffix: String,
    /// Whether node ports answer on 127.0.0.1.
    pub localhost_node_ports: bool,
}

/// Why the rules could not be brought in line; the runner tries again.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the snapshot holds no {0}")]
    NoStore(&'static str),
    #[error("a store has closed")]
    Closed,
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Runs the proxy until cancelled. Rules stay in place after the end, so
/// services go on working while Skiff restarts.
pub async fn run(config: ProxyConfig, snapshot: Snapshot, token: CancellationToken) {
    let mut delay = RETRY_MIN;
    loop {
        let start = Instant::now();
        let outcome = tokio::select! {
            () = token.cancelled() => return,
            outcome = session(&config, &snapshot) => outcome,
        };
        let Err(error) = outcome else { return };
        if start.elapsed() > RETRY_MAX {
            delay = RETRY_MIN;
        }
        tracing::warn!(component = "proxy", %error, "packet rules are not in order, making them anew");
        tokio::select! {
            () = token.cancelled() => return,
            () = sleep(jittered(delay)) => {}
        }
        delay = (delay * 2).min(RETRY_MAX);
    }
}

/// One life of the table: made whole at first, then changed by event, until something fails.
async fn session(config: &ProxyConfig, snapshot: &Snapshot) -> Result<(), ProxyError> {
    let services = snapshot.store_of::<Service>().ok_or(ProxyError::NoStore("services"))?;
    let slices = snapshot.store_of::<EndpointSlice>().ok_or(ProxyError::NoStore("endpointslices"))?;
    let nodes = snapshot.store_of::<Node>().ok_or(ProxyError::NoStore("nodes"))?;
    let mut events = (services.subscribe(), slices.subscribe(), nodes.subscribe());
    services.wait_synced().await;
    slices.wait_synced().await;
    nodes.wait_synced().await;
    let mut proxy = Proxy::new(config, services, slices, nodes);
    proxy.install().await?;
    tracing::info!(component = "proxy", services = proxy.table.keys().count(), "packet rules are in place");
    let mut last = Instant::now();
    loop {
        tokio::select! {
            event = events.0.next() => proxy.service_event(event.ok_or(ProxyError::Closed)?),
            event = events.1.next() => proxy.slice_event(event.ok_or(ProxyError::Closed)?),
            event = events.2.next() => proxy.node_event(event.ok_or(ProxyError::Closed)?),
        }
        if proxy.pending.is_empty() {
            continue;
        }
        // Alone, a change is carried out at once; in a storm, changes gather for a moment.
        sleep_until(last + PROXY_MIN_INTERVAL).await;
        while let Some(Some(event)) = events.0.next().now_or_never() {
            proxy.service_event(event);
        }
        while let Some(Some(event)) = events.1.next().now_or_never() {
            proxy.slice_event(event);
        }
        proxy.update().await?;
        last = Instant::now();
    }
}

struct Proxy<'a> {
    config: &'a ProxyConfig,
    services: Store,
    slices: Store,
    nodes: Store,
    node: NodeView,
    /// Slices by service and name.
    index: HashMap<ObjectKey, BTreeMap<String, SliceInput>>,
    pending: BTreeSet<ObjectKey>,
    table: Table,
}

impl<'a> Proxy<'a> {
    fn new(config: &'a ProxyConfig, services: Store, slices: Store, nodes: Store) -> Self {
        let node = NodeView { name: config.node_name.clone(), zone: None, cluster_cidrs: config.cluster_cidrs.clone() };
        let mut proxy = Proxy {
            table: Table::new(&config.table_suffix, &config.cluster_cidrs, config.localhost_node_ports),
            config,
            services,
            slices,
            nodes,
            node,
            index: HashMap::new(),
            pending: BTreeSet::new(),
        };
        proxy.node = proxy.current_node();
        proxy.resync();
        proxy
    }

    fn current_node(&self) -> NodeView {
        let bare = NodeView { zone: None, ..self.node.clone() };
        let node = self.nodes.get("", &self.config.node_name).and_then(|node| node.typed::<Node>().ok());
        match node {
            Some(node) => bare.with_zone_of(&node),
            None => bare,
        }
    }

    /// Everything is to be looked at, including what is in the table only.
    fn resync(&mut self) {
        self.index.clear();
        for slice in self.slices.list(None) {
            self.index_slice(&slice);
        }
        self.pending.extend(self.services.list(None).iter().map(|service| service.key()));
        self.pending.extend(self.table.keys().cloned());
    }

    fn service_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Applied { new, .. } => drop(self.pending.insert(new.key())),
            StoreEvent::Deleted(last) => drop(self.pending.insert(last.key())),
            StoreEvent::Resync => self.resync(),
        }
    }

    fn slice_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Applied { new, old } => {
                if let Some(old) = old {
                    self.forget_slice(&old);
                }
                self.index_slice(&new);
            }
            StoreEvent::Deleted(last) => self.forget_slice(&last),
            StoreEvent::Resync => self.resync(),
        }
    }

    fn node_event(&mut self, event: StoreEvent) {
        let is_own = match &event {
            StoreEvent::Applied { new, .. } => new.meta.name == self.config.node_name,
            StoreEvent::Deleted(_) => false,
            StoreEvent::Resync => true,
        };
        if is_own {
            let node = self.current_node();
            if node != self.node {
                self.node = node;
                self.resync();
            }
        }
    }

    fn index_slice(&mut self, object: &Object) {
        let Some(slice) = slice_of(object) else { return };
        let Some(service) = SliceInput::service_name(&slice) else { return };
        let key = ObjectKey::new(object.meta.namespace.clone(), service);
        self.index.entry(key.clone()).or_default().insert(object.meta.name.clone(), SliceInput::of(&slice));
        self.pending.insert(key);
    }

    fn forget_slice(&mut self, object: &Object) {
        let Some(slice) = slice_of(object) else { return };
        let Some(service) = SliceInput::service_name(&slice) else { return };
        let key = ObjectKey::new(object.meta.namespace.clone(), service);
        if let Some(slices) = self.index.get_mut(&key) {
            slices.remove(&object.meta.name);
            if slices.is_empty() {
                self.index.remove(&key);
            }
        }
        self.pending.insert(key);
    }

    fn compile(&self, key: &ObjectKey) -> Option<Fragment> {
        let service = self.services.get(&key.namespace, &key.name)?;
        let service = match service.typed::<Service>() {
            Ok(service) => ServiceInput::of(&service)?,
            Err(error) => {
                tracing::error!(component = "proxy", service = %key, %error, "service does not decode");
                return None;
            }
        };
        let slices: Vec<&SliceInput> = self.index.get(key).into_iter().flat_map(BTreeMap::values).collect();
        Some(compile(&service, &slices, &self.node))
    }

    fn take_pending(&mut self) -> BTreeMap<ObjectKey, Option<Fragment>> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_iter().map(|key| (key.clone(), self.compile(&key))).collect()
    }

    /// Makes the whole table, in place of whatever is there.
    async fn install(&mut self) -> Result<(), ProxyError> {
        let fragments = self.take_pending();
        let change = self.table.replace(fragments);
        self.table.commit(change);
        let (nft, script) = (self.config.nft.clone(), self.table.full_script());
        tokio::task::spawn_blocking(move || nft.apply(&script)).await??;
        if self.config.localhost_node_ports {
            // The table's first rule set keeps 127.0.0.0/8 closed to others.
            if let Err(error) = sysctl::set("net/ipv4/conf/all/route_localnet", "1") {
                tracing::warn!(component = "proxy", %error, "node ports will not answer on 127.0.0.1");
            }
        }
        let frontends = self
            .table
            .keys()
            .filter_map(|key| self.table.fragment(key))
            .flat_map(|fragment| conntrack::changed(None, Some(fragment)))
            .collect();
        forget_flows(frontends).await
    }

    /// Carries out what is pending.
    async fn update(&mut self) -> Result<(), ProxyError> {
        let fragments = self.take_pending();
        let frontends = fragments
            .iter()
            .flat_map(|(key, new)| conntrack::changed(self.table.fragment(key), new.as_ref()))
            .collect();
        let change = self.table.replace(fragments);
        if !change.script.is_empty() {
            let (nft, script) = (self.config.nft.clone(), change.script.clone());
            tokio::task::spawn_blocking(move || nft.apply(&script)).await??;
        }
        self.table.commit(change);
        forget_flows(frontends).await
    }
}

fn slice_of(object: &Object) -> Option<std::sync::Arc<EndpointSlice>> {
    match object.typed::<EndpointSlice>() {
        Ok(slice) => Some(slice),
        Err(error) => {
            tracing::error!(component = "proxy", ?object, %error, "endpoint slice does not decode");
            None
        }
    }
}

/// Deletes flows that lead elsewhere than their frontend now does.
async fn forget_flows(frontends: conntrack::Frontends) -> Result<(), ProxyError> {
    if frontends.is_empty() {
        return Ok(());
    }
    let forget = move || -> Result<usize, NetlinkError> {
        let addresses: HashSet<IpAddr> =
            Netlink::route()?.addresses()?.into_iter().map(|address| address.net.addr()).collect();
        let mut netlink = Netlink::netfilter()?;
        let flows = netlink.flows()?;
        let stale = conntrack::stale(&flows, &frontends, &addresses);
        stale.iter().try_for_each(|flow| netlink.delete_flow(flow))?;
        Ok(stale.len())
    };
    match tokio::task::spawn_blocking(forget).await? {
        Ok(0) => {}
        Ok(count) => tracing::debug!(component = "proxy", count, "stale UDP flows deleted"),
        // Rules are in place; only flows already open may linger until they time out.
        Err(error) => tracing::warn!(component = "proxy", %error, "stale UDP flows could not be deleted"),
    }
    Ok(())
}
