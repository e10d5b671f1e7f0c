//! The controllers of the control plane: one pure reconciler per file, and the
//! list of them.
//!
//! A reconciler reads a [`Snapshot`](skiff_client::Snapshot) and answers with
//! an [`Outcome`](skiff_client::Outcome); the runner in `client` does the rest.
//! Nothing here performs I/O.

mod claim;
mod condition;
pub mod cron_schedule;
mod deletion_rank;
mod history;
mod pod;
mod scale;
mod seen;
mod service;
mod template;
mod write;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod transcript_tests;

pub mod autoscaling;
pub mod bootstrap_signer;
pub mod certificates;
pub mod clusterrole_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod garbage_collector;
pub mod job;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod replicaset;
pub mod resource_quota;
pub mod root_ca;
pub mod service_addresses;
pub mod serviceaccount;
pub mod statefulset;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod token_secrets;
pub mod ttl_after_finished;
pub mod volume_binder;
pub mod volume_protection;

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use skiff_client::Controller;

pub use autoscaling::{AdapterMetrics, PodMetrics};
pub use certificates::CertificateAuthority;
pub use node_ipam::ClusterCidr;
pub use resource_quota::QuotaUsage;
pub use token_secrets::SecretTokens;

/// What the controllers need to know of the cluster.
#[derive(Clone)]
pub struct ControllerConfig {
    /// PEM bundle of the CA that signs the API server's certificate.
    pub root_ca_pem: String,
    /// Ranges of pod addresses, one per family; empty leaves nodes without.
    pub cluster_cidrs: Vec<ClusterCidr>,
    /// How long a node may be silent before it counts as lost.
    pub node_monitor_grace: SignedDuration,
    /// Ended pods that are kept; the oldest beyond are deleted.
    pub terminated_pods_max: usize,
    /// Evaluates what objects use of quotas; without it quotas keep no status.
    pub quota_usage: Option<Arc<dyn QuotaUsage>>,
    /// Makes tokens for Secrets; without it such Secrets stay empty.
    pub secret_tokens: Option<Arc<dyn SecretTokens>>,
    /// What pods use; without it nothing is scaled by it.
    pub pod_metrics: Option<Arc<dyn PodMetrics>>,
    /// What adapters measure; without it nothing is scaled by that.
    pub adapter_metrics: Option<Arc<dyn AdapterMetrics>>,
    /// Signs certificate requests; without it none are.
    pub certificate_authority: Option<Arc<dyn CertificateAuthority>>,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        ControllerConfig {
            root_ca_pem: String::new(),
            cluster_cidrs: Vec::new(),
            node_monitor_grace: SignedDuration::from_secs(40),
            terminated_pods_max: 12_500,
            quota_usage: None,
            secret_tokens: None,
            pod_metrics: None,
            adapter_metrics: None,
            certificate_authority: None,
        }
    }
}

/// All controllers of the control plane.
pub fn all(config: &ControllerConfig) -> Vec<Arc<dyn Controller>> {
    let mut controllers: Vec<Arc<dyn Controller>> = vec![
        Arc::new(namespace::NamespaceController),
        Arc::new(serviceaccount::ServiceAccountController),
        Arc::new(root_ca::RootCaPublisher { ca_pem: config.root_ca_pem.clone() }),
        Arc::new(deployment::DeploymentController),
        Arc::new(replicaset::ReplicaSetController::<ReplicaSet>::new()),
        Arc::new(replicaset::ReplicaSetController::<ReplicationController>::new()),
        Arc::new(daemonset::DaemonSetController::default()),
        Arc::new(statefulset::StatefulSetController),
        Arc::new(job::JobController),
        Arc::new(job::orphans::JobOrphanController),
        Arc::new(cronjob::CronJobController::default()),
        Arc::new(disruption::DisruptionController),
        Arc::new(clusterrole_aggregation::ClusterRoleAggregationController),
        Arc::new(ttl_after_finished::TtlAfterFinishedController),
        Arc::new(endpoints::EndpointsController),
        Arc::new(endpointslice::EndpointSliceController),
        Arc::new(endpointslice_mirroring::EndpointSliceMirroringController),
        Arc::new(token_cleaner::TokenCleaner),
        Arc::new(bootstrap_signer::BootstrapSigner),
        Arc::new(certificates::pods::PodCertificateCleaner),
        Arc::new(service_addresses::IpAddressController),
        Arc::new(service_addresses::ServiceCidrController),
        Arc::new(volume_binder::VolumeBinder),
        Arc::new(volume_protection::ClaimProtectionController),
        Arc::new(volume_protection::VolumeProtectionController),
        Arc::new(garbage_collector::GarbageCollector),
        Arc::new(node_lifecycle::NodeLifecycleController::new(config.node_monitor_grace)),
        Arc::new(taint_eviction::TaintEvictionController::default()),
        Arc::new(pod_gc::PodGarbageCollector::new(config.terminated_pods_max)),
    ];
    if !config.cluster_cidrs.is_empty() {
        controllers.push(Arc::new(node_ipam::NodeIpamController { cluster_cidrs: config.cluster_cidrs.clone() }));
    }
    if let Some(usage) = &config.quota_usage {
        controllers.push(Arc::new(resource_quota::ResourceQuotaController { usage: Arc::clone(usage) }));
    }
    if let Some(tokens) = &config.secret_tokens {
        let (tokens, root_ca_pem) = (Arc::clone(tokens), config.root_ca_pem.clone());
        controllers.push(Arc::new(token_secrets::TokenSecretController { tokens, root_ca_pem }));
    }
    if let Some(metrics) = &config.pod_metrics {
        let mut scaler = autoscaling::HorizontalPodAutoscalerController::new(Arc::clone(metrics));
        scaler.adapters = config.adapter_metrics.clone();
        controllers.push(Arc::new(scaler));
    }
    if let Some(authority) = &config.certificate_authority {
        controllers.push(Arc::new(certificates::CertificateController { authority: Arc::clone(authority) }));
    }
    controllers
}
