//! The admission plugins, in upstream's order.

pub mod certificates;
pub mod default_ingress_class;
pub mod default_storage_class;
pub mod default_toleration_seconds;
pub mod limit_ranger;
pub mod lookup;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod persistent_volume_claim_resize;
pub mod pod_resize;
pub mod pod_security;
mod pod_security_checks;
pub mod pod_topology_labels;
pub mod priority;
pub mod quota_usage;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod storage_object_in_use_protection;
pub mod taint_nodes_by_condition;

use std::sync::Arc;

use super::{
    Admission,
    dynamic::{
        mutating::MutatingPolicies,
        validating::ValidatingPolicies,
        webhooks::{MutatingWebhooks, ValidatingWebhooks},
    },
};
use crate::registry::Dependencies;

/// Every plugin that is on by default.
///
/// Policies and webhooks see what the built-in plugins made of the object, and
/// quota is charged last, for what is really stored.
pub fn plugins(dependencies: &Dependencies) -> Vec<Arc<dyn Admission>> {
    let (authorizer, webhooks) = (&dependencies.authorizer, &dependencies.webhooks);
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle::default()),
        Arc::new(limit_ranger::LimitRanger),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction { authorizer: Arc::clone(authorizer) }),
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity),
        Arc::new(priority::Priority),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_storage_class::DefaultStorageClass),
        Arc::new(storage_object_in_use_protection::StorageObjectInUseProtection),
        Arc::new(persistent_volume_claim_resize::PersistentVolumeClaimResize),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(certificates::CertificateApproval { authorizer: Arc::clone(authorizer) }),
        Arc::new(certificates::CertificateSigning { authorizer: Arc::clone(authorizer) }),
        Arc::new(certificates::ClusterTrustBundleAttest { authorizer: Arc::clone(authorizer) }),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(default_ingress_class::DefaultIngressClass),
        Arc::new(pod_topology_labels::PodTopologyLabels),
        Arc::new(pod_resize::PodResizeValidator),
        Arc::new(MutatingPolicies::new(Arc::clone(authorizer), Arc::clone(&dependencies.resources))),
        Arc::new(MutatingWebhooks::new(webhooks.clone(), Arc::clone(authorizer))),
        Arc::new(ValidatingPolicies::new(Arc::clone(authorizer), Arc::clone(&dependencies.resources))),
        Arc::new(ValidatingWebhooks::new(webhooks.clone(), Arc::clone(authorizer))),
        Arc::new(resource_quota::ResourceQuota::default()),
    ]
}
