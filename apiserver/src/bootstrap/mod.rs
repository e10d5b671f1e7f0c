//! Objects that every cluster has: namespaces, default access rules, system
//! priority classes, the way to the API itself.
//!
//! All of them are data in tables and are written like anything else, through
//! a client. A run is idempotent: what is missing is created, what upstream
//! reconciles at start (access rules, unless their owner opted out) regains
//! what it lost, everything else is left as its owner made it.

pub mod flow_control;
pub mod kubernetes_service;
pub mod rbac;
mod reconcile;
mod roles;

use std::{net::IpAddr, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_api::{GroupVersionResource, Reason};
use skiff_client::{Client, ClientError};
use tokio::sync::watch;

use crate::{
    health::{HealthCheck, Hook},
    limits,
    registry::{
        scheduling::{SYSTEM_CLUSTER_CRITICAL, SYSTEM_NODE_CRITICAL},
        value::{name, namespace},
    },
};
use reconcile::Merge;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Under which names upstream's health endpoints tell that these objects are there.
const HOOKS: [&str; 4] = [
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
];

/// The checks of a server in which [`Bootstrap::run`] was done once.
pub fn health_checks(done: &watch::Receiver<bool>) -> Vec<Arc<dyn HealthCheck>> {
    HOOKS.into_iter().map(|name| Arc::new(Hook::new(name, done.clone())) as Arc<dyn HealthCheck>).collect()
}

/// What the objects depend on.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// PEM of the CA that signs client certificates.
    pub client_ca_pem: String,
    /// PEM of the CA that signs front proxies; empty when there is none.
    pub request_header_ca_pem: String,
    /// Primary first.
    pub service_cidrs: Vec<IpNet>,
    /// Where nodes and pods reach this API server.
    pub advertise_address: IpAddr,
    pub advertise_port: u16,
}

/// An object that must exist, and what happens when it already does.
struct Wanted {
    resource: GroupVersionResource,
    object: Value,
    merge: Merge,
}

impl Wanted {
    /// Only made when missing.
    fn once(group: &'static str, version: &'static str, resource: &'static str, object: Value) -> Wanted {
        Wanted { resource: GroupVersionResource::new(group, version, resource), object, merge: reconcile::keep }
    }
}

impl Bootstrap {
    /// Writes what is missing, several at once so that they share commits of the store; `client` must be allowed to do everything.
    pub async fn run(&self, client: &Client) -> Result<(), ClientError> {
        let client = &client.with_user_agent("skiff-bootstrap");
        ensure_all(client, namespaces()).await?;
        let mut wanted = rbac::objects();
        wanted.extend(priority_classes());
        wanted.extend(flow_control::objects());
        wanted.push(self.authentication());
        wanted.extend(self.service_cidr());
        ensure_all(client, wanted).await?;
        self.ensure_kubernetes_service(client).await
    }

    /// What extension API servers need to recognise users and the front proxy.
    fn authentication(&self) -> Wanted {
        let mut data = json!({"client-ca-file": self.client_ca_pem});
        if !self.request_header_ca_pem.is_empty() {
            data["requestheader-client-ca-file"] = json!(self.request_header_ca_pem);
            data["requestheader-allowed-names"] = json!("[\"system:auth-proxy\"]");
            data["requestheader-username-headers"] = json!("[\"X-Remote-User\"]");
            data["requestheader-uid-headers"] = json!("[\"X-Remote-Uid\"]");
            data["requestheader-group-headers"] = json!("[\"X-Remote-Group\"]");
            data["requestheader-extra-headers-prefix"] = json!("[\"X-Remote-Extra-\"]");
        }
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        });
        Wanted { resource: GroupVersionResource::new("", "v1", "configmaps"), object, merge: reconcile::data }
    }

    /// The default range of service addresses, as an object.
    fn service_cidr(&self) -> Option<Wanted> {
        if self.service_cidrs.is_empty() {
            return None;
        }
        let cidrs: Vec<String> = self.service_cidrs.iter().map(IpNet::to_string).collect();
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs},
        });
        Some(Wanted::once("networking.k8s.io", "v1", "servicecidrs", object))
    }
}

fn namespaces() -> Vec<Wanted> {
    let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    NAMESPACES.into_iter().map(|name| Wanted::once("", "v1", "namespaces", namespace(name))).collect()
}

fn priority_classes() -> Vec<Wanted> {
    let texts = [
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        "Used for system critical pods that must not be moved from their current node.",
    ];
    [SYSTEM_CLUSTER_CRITICAL, SYSTEM_NODE_CRITICAL]
        .into_iter()
        .zip(texts)
        .map(|((name, value), text)| {
            let object = json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "description": text, "preemptionPolicy": "PreemptLowerPriority",
            });
            Wanted::once("scheduling.k8s.io", "v1", "priorityclasses", object)
        })
        .collect()
}

async fn ensure_all(client: &Client, wanted: Vec<Wanted>) -> Result<(), ClientError> {
    stream::iter(wanted)
        .map(|wanted| async move { ensure(client, &wanted).await })
        .buffer_unordered(limits::BOOTSTRAP_CONCURRENCY)
        .try_collect()
        .await
}

/// Creates the object, or merges it into the one that is there.
async fn ensure(client: &Client, wanted: &Wanted) -> Result<(), ClientError> {
    let (resource, object) = (&wanted.resource, &wanted.object);
    let namespace = Some(namespace(object)).filter(|namespace| !namespace.is_empty());
    let found = match client.get(resource, namespace, name(object)).await {
        Ok(found) => found,
        Err(error) if is(&error, Reason::NotFound) => {
            return match client.create(resource, namespace, object).await {
                Ok(_) => Ok(()),
                // Another server of the cluster was faster.
                Err(error) if is(&error, Reason::AlreadyExists) => Ok(()),
                Err(error) => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    let existing = found.value()?;
    let Some(merged) = (wanted.merge)(&existing, object) else { return Ok(()) };
    match client.update(resource, namespace, name(object), None, &merged).await {
        Err(error) if !is(&error, Reason::Conflict) => Err(error),
        _ => Ok(()),
    }
}

fn is(error: &ClientError, reason: Reason) -> bool {
    matches!(error, ClientError::Api(status) if status.is(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap() -> Bootstrap {
        Bootstrap {
            client_ca_pem: "CLIENT".into(),
            request_header_ca_pem: "PROXY".into(),
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            advertise_address: "192.0.2.1".parse().unwrap(),
            advertise_port: 6443,
        }
    }

    #[test]
    fn the_front_proxy_is_announced_with_its_headers() {
        let data = bootstrap().authentication().object["data"].clone();
        assert_eq!(data["client-ca-file"], "CLIENT");
        assert_eq!(data["requestheader-extra-headers-prefix"], "[\"X-Remote-Extra-\"]");
        let alone = Bootstrap { request_header_ca_pem: String::new(), ..bootstrap() };
        assert_eq!(alone.authentication().object["data"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn every_wanted_object_is_named_and_typed() {
        let mut all = rbac::objects();
        all.extend(priority_classes());
        all.extend(flow_control::objects());
        all.extend(namespaces());
        for wanted in &all {
            let object = &wanted.object;
            assert!(!name(object).is_empty() && object["kind"].is_string() && object["apiVersion"].is_string());
        }
        let mut names: Vec<String> = all
            .iter()
            .map(|wanted| {
                format!("{}/{}/{}", wanted.resource.resource, namespace(&wanted.object), name(&wanted.object))
            })
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "no object twice");
    }
}
