//! The cluster as DNS looks it up: by service, by namespace, by address.
//!
//! Lookups take slices of the question's wire form and allocate nothing. One
//! task writes ([`follow`]), everyone reads.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use skiff_api::{Object, ObjectKey};
use skiff_client::{Store, StoreEvent, Subscription};

use super::records::ServiceRecord;

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What an address leads back to: an endpoint's label, or the service itself.
pub type ReverseRecord = (ObjectKey, Option<String>);

#[derive(Default)]
struct Content {
    /// By the wire form of `name.namespace` (without root).
    services: HashMap<Box<[u8]>, Arc<ServiceRecord>>,
    /// By label.
    namespaces: HashSet<Box<[u8]>>,
    reverse: HashMap<IpAddr, Vec<ReverseRecord>>,
    /// Namespaces by address of a running pod, where pods are verified.
    pods: HashMap<IpAddr, HashSet<String>>,
}

/// The lookup index; shared by `Arc`.
#[derive(Default)]
pub struct ClusterIndex {
    content: RwLock<Content>,
    is_synced: AtomicBool,
    /// Counts changes; the serial of the zone.
    serial: AtomicU64,
}

impl ClusterIndex {
    /// Whether everything has been seen once.
    pub fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Acquire)
    }

    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed) as u32
    }

    /// A service by the wire form of its name and namespace labels.
    pub fn service(&self, key: &[u8]) -> Option<Arc<ServiceRecord>> {
        self.content.read().services.get(key).cloned()
    }

    pub fn has_namespace(&self, label: &[u8]) -> bool {
        self.content.read().namespaces.contains(label)
    }

    /// The names an address has, services first.
    pub fn names_of(&self, address: IpAddr) -> Vec<ReverseRecord> {
        self.content.read().reverse.get(&address).cloned().unwrap_or_default()
    }

    /// Whether a pod of the namespace has the address.
    pub fn has_pod(&self, address: IpAddr, namespace: &[u8]) -> bool {
        let content = self.content.read();
        content.pods.get(&address).is_some_and(|all| all.iter().any(|have| have.as_bytes() == namespace))
    }

    pub fn set_service(&self, key: &ObjectKey, record: Option<ServiceRecord>) {
        let wire = service_key(key);
        let mut content = self.content.write();
        if let Some(old) = content.services.remove(&wire) {
            for (address, _) in old.addresses() {
                if let Some(names) = content.reverse.get_mut(&address) {
                    names.retain(|(owner, _)| owner != key);
                    if names.is_empty() {
                        content.reverse.remove(&address);
                    }
                }
            }
        }
        if let Some(record) = record {
            for (address, label) in record.addresses() {
                let names = content.reverse.entry(address).or_default();
                let entry = (key.clone(), label.map(str::to_owned));
                if let Err(at) =
                    names.binary_search_by(|have| (have.1.is_some(), have).cmp(&(entry.1.is_some(), &entry)))
                {
                    names.insert(at, entry);
                }
            }
            content.services.insert(wire, Arc::new(record));
        }
        drop(content);
        self.serial.fetch_add(1, Ordering::Relaxed);
    }

    pub fn set_namespaces<'a>(&self, names: impl Iterator<Item = &'a str>) {
        self.content.write().namespaces = names.map(|name| name.as_bytes().into()).collect();
    }

    fn set_namespace(&self, name: &str, exists: bool) {
        let mut content = self.content.write();
        if exists {
            content.namespaces.insert(name.as_bytes().into());
        } else {
            content.namespaces.remove(name.as_bytes());
        }
    }

    fn set_pods(&self, pods: &[Arc<Object>]) {
        let mut all: HashMap<IpAddr, HashSet<String>> = HashMap::new();
        for pod in pods {
            for address in pod_addresses(pod) {
                all.entry(address).or_default().insert(pod.meta.namespace.clone());
            }
        }
        self.content.write().pods = all;
    }

    #[cfg(test)]
    pub(super) fn set_synced_for_tests(&self) {
        self.set_synced();
    }

    fn set_synced(&self) {
        self.is_synced.store(true, Ordering::Release);
    }
}

/// Wire form of `name.namespace`, as it stands in a question.
fn service_key(key: &ObjectKey) -> Box<[u8]> {
    let mut wire = Vec::with_capacity(key.name.len() + key.namespace.len() + 2);
    for label in [&key.name, &key.namespace] {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.make_ascii_lowercase();
    wire.into_boxed_slice()
}

/// The stores an index is made of.
pub struct Sources {
    pub services: Store,
    pub slices: Store,
    pub namespaces: Store,
    /// Only where pods are verified.
    pub pods: Option<Store>,
    /// Endpoints are called after their pods.
    pub pod_names: bool,
    /// Namespaces to answer for; empty means all.
    pub only: Vec<String>,
}

/// Keeps an index current until the stores close. Marks it synced once all has been seen.
pub async fn follow(sources: Sources, index: Arc<ClusterIndex>) {
    let mut events = (sources.services.subscribe(), sources.slices.subscribe(), sources.namespaces.subscribe());
    let mut pod_events = sources.pods.as_ref().map(Store::subscribe);
    sources.services.wait_synced().await;
    sources.slices.wait_synced().await;
    sources.namespaces.wait_synced().await;
    if let Some(pods) = &sources.pods {
        pods.wait_synced().await;
        index.set_pods(&pods.list(None));
    }
    let mut follower = Follower { sources, index, slices: BTreeMap::new() };
    follower.resync_namespaces();
    follower.resync_services();
    follower.index.set_synced();
    loop {
        let is_open = tokio::select! {
            event = events.0.next() => follower.on_service(event),
            event = events.1.next() => follower.on_slice(event),
            event = events.2.next() => follower.on_namespace(event),
            event = next_of(&mut pod_events) => follower.on_pod(event),
        };
        if is_open.is_none() {
            return;
        }
    }
}

async fn next_of(events: &mut Option<Subscription>) -> Option<StoreEvent> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

struct Follower {
    sources: Sources,
    index: Arc<ClusterIndex>,
    /// Names of slices by service.
    slices: BTreeMap<ObjectKey, HashSet<String>>,
}

impl Follower {
    fn serves(&self, namespace: &str) -> bool {
        self.sources.only.is_empty() || self.sources.only.iter().any(|only| only == namespace)
    }

    fn resync_namespaces(&mut self) {
        let all = self.sources.namespaces.list(None);
        let names = all.iter().map(|object| object.meta.name.as_str()).filter(|name| self.serves(name));
        self.index.set_namespaces(names);
    }

    fn resync_services(&mut self) {
        let mut keys: HashSet<ObjectKey> = std::mem::take(&mut self.slices).into_keys().collect();
        for slice in self.sources.slices.list(None) {
            if let Some(key) = service_of(&slice) {
                self.slices.entry(key).or_default().insert(slice.meta.name.clone());
            }
        }
        keys.extend(self.slices.keys().cloned());
        keys.extend(self.sources.services.list(None).iter().map(|service| service.key()));
        for key in keys {
            self.update(&key);
        }
    }

    fn update(&self, key: &ObjectKey) {
        if !self.serves(&key.namespace) {
            return;
        }
        let service = self.sources.services.get(&key.namespace, &key.name);
        let service = service.and_then(|service| decode::<Service>(&service));
        let slices: Vec<EndpointSlice> = self
            .slices
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(|name| decode(&*self.sources.slices.get(&key.namespace, name)?))
            .collect();
        let record =
            service.and_then(|service| ServiceRecord::compile(&service, slices.iter(), self.sources.pod_names));
        self.index.set_service(key, record);
    }

    fn on_service(&mut self, event: Option<StoreEvent>) -> Option<()> {
        match event? {
            StoreEvent::Applied { new, .. } => self.update(&new.key()),
            StoreEvent::Deleted(last) => self.update(&last.key()),
            StoreEvent::Resync => self.resync_services(),
        }
        Some(())
    }

    fn on_slice(&mut self, event: Option<StoreEvent>) -> Option<()> {
        match event? {
            StoreEvent::Applied { new, old } => {
                let (before, after) = (old.as_deref().and_then(service_of), service_of(&new));
                if let Some(before) = before.filter(|before| Some(before) != after.as_ref()) {
                    self.forget_slice(&before, &new.meta.name);
                }
                if let Some(after) = after {
                    self.slices.entry(after.clone()).or_default().insert(new.meta.name.clone());
                    self.update(&after);
                }
            }
            StoreEvent::Deleted(last) => {
                if let Some(service) = service_of(&last) {
                    self.forget_slice(&service, &last.meta.name);
                }
            }
            StoreEvent::Resync => self.resync_services(),
        }
        Some(())
    }

    fn forget_slice(&mut self, service: &ObjectKey, name: &str) {
        if let Some(names) = self.slices.get_mut(service) {
            names.remove(name);
            if names.is_empty() {
                self.slices.remove(service);
            }
        }
        self.update(service);
    }

    fn on_namespace(&mut self, event: Option<StoreEvent>) -> Option<()> {
        match event? {
            StoreEvent::Applied { new, .. } if self.serves(&new.meta.name) => {
                self.index.set_namespace(&new.meta.name, true);
            }
            StoreEvent::Applied { .. } => {}
            StoreEvent::Deleted(last) => self.index.set_namespace(&last.meta.name, false),
            StoreEvent::Resync => self.resync_namespaces(),
        }
        Some(())
    }

    /// Pod addresses change rarely compared with how often pods do; only then the set is made anew.
    fn on_pod(&mut self, event: Option<StoreEvent>) -> Option<()> {
        let is_changed = match event? {
            StoreEvent::Applied { new, old } => {
                pod_addresses(&new) != old.as_deref().map(pod_addresses).unwrap_or_default()
            }
            StoreEvent::Deleted(_) | StoreEvent::Resync => true,
        };
        if let Some(pods) = self.sources.pods.as_ref().filter(|_| is_changed) {
            self.index.set_pods(&pods.list(None));
        }
        Some(())
    }
}

fn service_of(slice: &Object) -> Option<ObjectKey> {
    let service = slice.meta.labels.get(LABEL_SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.meta.namespace.clone(), service.clone()))
}

/// Decodes without keeping the typed form: it is needed once, and there are many objects.
fn decode<T: DeserializeOwned>(object: &Object) -> Option<T> {
    serde_json::from_slice(object.json())
        .inspect_err(|error| tracing::error!(component = "dns", ?object, %error, "object does not decode"))
        .ok()
}

/// Addresses of a pod that has not ended.
fn pod_addresses(pod: &Object) -> Vec<IpAddr> {
    let Some(pod) = decode::<Pod>(pod) else { return Vec::new() };
    let Some(status) = &pod.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    ips.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect()
}
