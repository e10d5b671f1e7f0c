//! The list of built-in kinds that differ from the generic behaviour.

use std::sync::Arc;

use super::{
    Dependencies, Registry,
    admissionregistration::{AdmissionPolicyBindingStrategy, AdmissionPolicyStrategy, WebhookConfigurationStrategy},
    apps,
    authentication::{reviews, token_request},
    authorization, autoscaling, batch, certificates, coordination,
    core::{self, service_ip::ServicePools},
    discovery, flowcontrol, networking, node_and_aggregation, policy, rbac, resource, scheduling, storage,
};

/// Every built-in strategy, endpoint and view.
pub fn registry(dependencies: &Dependencies) -> Registry {
    let mut registry = Registry::default();
    core_kinds(&mut registry, dependencies);
    workloads(&mut registry);
    access(&mut registry, dependencies);
    others(&mut registry);
    registry
}

fn core_kinds(r: &mut Registry, dependencies: &Dependencies) {
    let pools = Arc::new(ServicePools::new(&dependencies.service_cidrs, dependencies.node_ports.clone()));
    r.strategy("", "pods", core::pod::PodStrategy);
    r.strategy("", "podtemplates", core::pod_template::PodTemplateStrategy);
    r.strategy("", "services", core::service::ServiceStrategy::new(pools));
    r.strategy("", "endpoints", core::endpoints::EndpointsStrategy);
    r.strategy("", "namespaces", core::namespace::NamespaceStrategy);
    r.strategy("", "configmaps", core::config_map::ConfigMapStrategy);
    r.strategy("", "secrets", core::secret::SecretStrategy);
    r.strategy("", "nodes", core::node::NodeStrategy);
    r.strategy("", "serviceaccounts", core::service_account::ServiceAccountStrategy);
    r.strategy("", "events", core::event::EventStrategy);
    r.strategy("", "limitranges", core::limit_range::LimitRangeStrategy);
    r.strategy("", "resourcequotas", core::resource_quota::ResourceQuotaStrategy);
    r.strategy("", "persistentvolumes", core::persistent_volume::PersistentVolumeStrategy);
    r.strategy("", "persistentvolumeclaims", core::persistent_volume_claim::PersistentVolumeClaimStrategy);
    r.strategy("", "replicationcontrollers", core::replication_controller::ReplicationControllerStrategy);
    r.view("", "replicationcontrollers", "scale", apps::scale::ScaleView);
    r.endpoint("", "pods", "binding", core::pod::binding::BindingEndpoint);
    r.endpoint("", "bindings", "", core::pod::binding::BindingEndpoint);
    r.endpoint("", "pods", "eviction", core::pod::eviction::EvictionEndpoint);
    let issuer = Arc::clone(&dependencies.token_issuer);
    r.endpoint("", "serviceaccounts", "token", token_request::TokenRequestEndpoint { issuer });
}

fn workloads(r: &mut Registry) {
    r.strategy("apps", "deployments", apps::deployment::DeploymentStrategy);
    r.strategy("apps", "replicasets", apps::replica_set::ReplicaSetStrategy);
    r.strategy("apps", "daemonsets", apps::daemon_set::DaemonSetStrategy);
    r.strategy("apps", "statefulsets", apps::stateful_set::StatefulSetStrategy);
    r.strategy("apps", "controllerrevisions", apps::controller_revision::ControllerRevisionStrategy);
    r.strategy("batch", "jobs", batch::job::JobStrategy);
    r.strategy("batch", "cronjobs", batch::cron_job::CronJobStrategy);
    r.strategy("autoscaling", "horizontalpodautoscalers", autoscaling::HorizontalPodAutoscalerStrategy);
    r.strategy("policy", "poddisruptionbudgets", policy::PodDisruptionBudgetStrategy);
    for resource in ["deployments", "replicasets", "statefulsets"] {
        r.view("apps", resource, "scale", apps::scale::ScaleView);
    }
}

fn access(r: &mut Registry, dependencies: &Dependencies) {
    const RBAC: &str = rbac::escalation::GROUP;
    let authorizer = &dependencies.authorizer;
    r.strategy(RBAC, "roles", rbac::role::RoleStrategy::new(false, Arc::clone(authorizer)));
    r.strategy(RBAC, "clusterroles", rbac::role::RoleStrategy::new(true, Arc::clone(authorizer)));
    r.strategy(RBAC, "rolebindings", rbac::binding::BindingStrategy::new(false, Arc::clone(authorizer)));
    r.strategy(RBAC, "clusterrolebindings", rbac::binding::BindingStrategy::new(true, Arc::clone(authorizer)));

    const AUTHORIZATION: &str = "authorization.k8s.io";
    for (resource, review) in [
        ("subjectaccessreviews", authorization::Review::Subject),
        ("selfsubjectaccessreviews", authorization::Review::SelfSubject),
        ("localsubjectaccessreviews", authorization::Review::Local),
    ] {
        let authorizer = Arc::clone(authorizer);
        r.endpoint(AUTHORIZATION, resource, "", authorization::AccessReviewEndpoint { authorizer, review });
    }
    let rules = authorization::RulesReviewEndpoint { authorizer: Arc::clone(authorizer) };
    r.endpoint(AUTHORIZATION, "selfsubjectrulesreviews", "", rules);

    const AUTHENTICATION: &str = "authentication.k8s.io";
    let token_review = reviews::TokenReviewEndpoint {
        authenticator: Arc::clone(&dependencies.authenticator),
        audiences: dependencies.token_issuer.audiences().to_vec(),
    };
    r.endpoint(AUTHENTICATION, "tokenreviews", "", token_review);
    r.endpoint(AUTHENTICATION, "selfsubjectreviews", "", reviews::SelfSubjectReviewEndpoint);
}

fn others(r: &mut Registry) {
    r.strategy("coordination.k8s.io", "leases", coordination::LeaseStrategy);
    r.strategy("discovery.k8s.io", "endpointslices", discovery::EndpointSliceStrategy);
    r.strategy("scheduling.k8s.io", "priorityclasses", scheduling::PriorityClassStrategy);
    r.strategy("storage.k8s.io", "storageclasses", storage::StorageClassStrategy);
    r.strategy("storage.k8s.io", "csidrivers", storage::CsiDriverStrategy);
    r.strategy("storage.k8s.io", "csinodes", storage::CsiNodeStrategy);
    r.strategy("storage.k8s.io", "volumeattachments", storage::VolumeAttachmentStrategy);
    r.strategy("storage.k8s.io", "volumeattributesclasses", storage::VolumeAttributesClassStrategy);
    r.strategy("storage.k8s.io", "csistoragecapacities", storage::CsiStorageCapacityStrategy);
    const RESOURCE: &str = "resource.k8s.io";
    r.strategy(RESOURCE, "deviceclasses", resource::DeviceClassStrategy);
    r.strategy(RESOURCE, "resourceclaims", resource::ResourceClaimStrategy);
    r.strategy(RESOURCE, "resourceclaimtemplates", resource::ResourceClaimTemplateStrategy);
    r.strategy(RESOURCE, "resourceslices", resource::ResourceSliceStrategy);
    r.strategy(RESOURCE, "devicetaintrules", resource::DeviceTaintRuleStrategy);
    let migration = resource::StorageVersionMigrationStrategy;
    r.strategy("storagemigration.k8s.io", "storageversionmigrations", migration);
    r.strategy("node.k8s.io", "runtimeclasses", node_and_aggregation::RuntimeClassStrategy);
    r.strategy("apiregistration.k8s.io", "apiservices", node_and_aggregation::ApiServiceStrategy);
    const CERTIFICATES: &str = "certificates.k8s.io";
    r.strategy(CERTIFICATES, "certificatesigningrequests", certificates::CertificateSigningRequestStrategy);
    r.strategy(CERTIFICATES, "clustertrustbundles", super::cluster_trust_bundle::ClusterTrustBundleStrategy);
    r.strategy(CERTIFICATES, "podcertificaterequests", super::pod_certificate_request::PodCertificateRequestStrategy);

    const NETWORKING: &str = "networking.k8s.io";
    r.strategy(NETWORKING, "ingresses", networking::ingress::IngressStrategy);
    r.strategy(NETWORKING, "ingressclasses", networking::ingress::IngressClassStrategy);
    r.strategy(NETWORKING, "networkpolicies", networking::network_policy::NetworkPolicyStrategy);
    r.strategy(NETWORKING, "servicecidrs", networking::addresses::ServiceCidrStrategy);
    r.strategy(NETWORKING, "ipaddresses", networking::addresses::IpAddressStrategy);

    const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
    r.strategy(FLOW_CONTROL, "flowschemas", flowcontrol::FlowSchemaStrategy);
    r.strategy(FLOW_CONTROL, "prioritylevelconfigurations", flowcontrol::PriorityLevelStrategy);

    r.strategy(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        super::apiextensions::CustomResourceDefinitionStrategy,
    );
    const ADMISSION: &str = "admissionregistration.k8s.io";
    r.strategy(ADMISSION, "mutatingwebhookconfigurations", WebhookConfigurationStrategy { mutating: true });
    r.strategy(ADMISSION, "validatingwebhookconfigurations", WebhookConfigurationStrategy { mutating: false });
    for resource in ["validatingadmissionpolicies", "mutatingadmissionpolicies"] {
        r.strategy(ADMISSION, resource, AdmissionPolicyStrategy);
    }
    for resource in ["validatingadmissionpolicybindings", "mutatingadmissionpolicybindings"] {
        r.strategy(ADMISSION, resource, AdmissionPolicyBindingStrategy);
    }
}
