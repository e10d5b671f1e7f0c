//! Aggregation: group versions that other API servers serve.
//!
//! An APIService names a group version and, for one that is not served here,
//! the Service behind it. Requests for it pass authentication and authorization
//! like any other and are then forwarded, with the user's identity in headers
//! that the front-proxy certificate vouches for. One task per remote APIService
//! asks its server for discovery and keeps the condition `Available`; what it
//! learns is merged into our own discovery and OpenAPI documents.
//!
//! Invariants: whether a request is forwarded is decided by the stored object
//! at that moment, never by a copy that may lag; a remote server's documents
//! are bounded and never make our own unavailable.

pub(crate) mod availability;
mod call;
pub(crate) mod discovery;
pub(crate) mod limits;
pub(crate) mod openapi;
pub(crate) mod priorities;
mod probe;
mod registration;
mod remote;
mod trust;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use skiff_api::{GroupResource, GroupVersionResource};
use skiff_client::{Client, Snapshot};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{proxy::NodeDialer, registry::value::field, request_info::RequestInfo};

pub(crate) use remote::{Remote, ServiceReference};
pub(crate) use trust::client_config;

const API_SERVICES: GroupResource = GroupResource::new("apiregistration.k8s.io", "apiservices");
const API_SERVICES_V1: GroupVersionResource = GroupVersionResource::new("apiregistration.k8s.io", "v1", "apiservices");

/// What is known of a remote group version beside its object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Learned {
    pub group: String,
    pub version: String,
    /// Groups and versions of higher numbers come first.
    pub group_priority: i64,
    pub version_priority: i64,
    /// The last resource list its server gave; `Null` before the first.
    pub resources: Value,
    /// The last check failed.
    pub stale: bool,
    /// Where its OpenAPI v3 document is, as its server says.
    pub openapi_v3: Option<String>,
    /// Its part of OpenAPI v2; `Null` when there is none.
    pub openapi_v2: Arc<Value>,
}

/// Follows APIServices and forwards what they claim.
pub(crate) struct Aggregator {
    snapshot: Snapshot,
    dialer: Option<Arc<dyn NodeDialer>>,
    identity: Option<Arc<CertifiedKey>>,
    /// Parsed objects by name; replaced when the object's revision differs.
    remotes: RwLock<HashMap<String, Arc<Remote>>>,
    learned: RwLock<BTreeMap<String, Learned>>,
    /// Rises with every change of `learned`.
    version: AtomicU64,
    /// Group versions beside the built-in ones and custom resources'.
    added: Mutex<Vec<(String, String)>>,
    added_changed: Notify,
    /// Probes and upgraded connections.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Aggregator {
    /// Without a dialer nothing is forwarded; without an identity remote servers see an anonymous caller.
    pub fn new(
        snapshot: Snapshot,
        dialer: Option<Arc<dyn NodeDialer>>,
        identity: Option<Arc<CertifiedKey>>,
        stop: CancellationToken,
    ) -> Aggregator {
        Aggregator {
            snapshot,
            dialer,
            identity,
            remotes: RwLock::default(),
            learned: RwLock::default(),
            version: AtomicU64::new(1),
            added: Mutex::default(),
            added_changed: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Works until the token is cancelled; `client` acts as the aggregator.
    pub async fn run(self: &Arc<Self>, client: Client) {
        let registration = registration::run(self, &client);
        let probes = probe::run(self, &client);
        tokio::select! {
            () = async { tokio::join!(registration, probes); } => {}
            () = self.stop.cancelled() => {}
        }
        self.tasks.close();
        let _ = tokio::time::timeout(crate::limits::DRAIN_TIMEOUT, self.tasks.wait()).await;
    }

    /// A group version that is served here though it is neither built in nor a custom resource's.
    pub fn add_local(&self, group: &str, version: &str) {
        let mut added = self.added.lock();
        let entry = (group.to_owned(), version.to_owned());
        if !added.contains(&entry) {
            added.push(entry);
            self.added_changed.notify_one();
        }
    }

    /// The remote server of a request, if another server is to answer it.
    pub fn target(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        if info.is_resource {
            return self.remote(&info.group, &info.version);
        }
        let (group, version) = group_version_of(&info.path)?;
        self.remote(group, version)
    }

    fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        // The core group is never served elsewhere, and nearly every request is for it.
        if group.is_empty() {
            return None;
        }
        let name = format!("{version}.{group}");
        let object = self.snapshot.store(&API_SERVICES)?.get("", &name)?;
        if let Some(known) = self.remotes.read().get(&name)
            && known.revision == object.revision
        {
            return known.is_remote().then(|| Arc::clone(known));
        }
        let remote = Arc::new(Remote::parse(&object, self.identity.as_ref()).ok()?);
        let mut remotes = self.remotes.write();
        if remotes.len() >= limits::REMOTES_CACHED_MAX {
            remotes.clear();
        }
        remotes.insert(name, Arc::clone(&remote));
        remote.is_remote().then_some(remote)
    }

    /// Rises whenever merged documents must be made anew.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All remote group versions.
    pub fn learned(&self) -> Vec<Learned> {
        self.learned.read().values().cloned().collect()
    }

    /// Whether each remote group version is unavailable, as Prometheus text.
    pub fn metrics(&self) -> String {
        const NAME: &str = "aggregator_unavailable_apiservice";
        let mut out = format!("# HELP {NAME} APIServices that are not available.\n# TYPE {NAME} gauge\n");
        for (name, learned) in self.learned.read().iter() {
            out.push_str(&format!("{NAME}{{name=\"{name}\"}} {}\n", u8::from(learned.stale)));
        }
        out
    }

    fn change_learned(&self, change: impl FnOnce(&mut BTreeMap<String, Learned>) -> bool) {
        if change(&mut self.learned.write()) {
            self.version.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Group and version of `/apis/G/V`, `/apis/G/V/` and `/openapi/v3/apis/G/V`.
fn group_version_of(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
    let (group, rest) = path.strip_prefix("/apis/")?.split_once('/')?;
    let version = rest.strip_suffix('/').unwrap_or(rest);
    (!group.is_empty() && !version.is_empty() && !version.contains('/')).then_some((group, version))
}

/// Whether an APIService is served by another server.
fn is_remote(object: &Value) -> bool {
    field(&object["spec"], "service").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_a_group_version_belong_to_its_server() {
        assert_eq!(group_version_of("/apis/g.example/v1"), Some(("g.example", "v1")));
        assert_eq!(group_version_of("/apis/g.example/v1/"), Some(("g.example", "v1")));
        assert_eq!(group_version_of("/openapi/v3/apis/g.example/v1"), Some(("g.example", "v1")));
        for path in ["/apis", "/apis/g.example", "/apis/g.example/", "/openapi/v3", "/api/v1", "/healthz"] {
            assert_eq!(group_version_of(path), None, "{path}");
        }
    }
}
