//! Who may do what, and how much: RBAC, disruption, priority, fairness, leases.

use super::build::{Describe, row};
use crate::{
    printers::{access, cluster, workloads},
    resource::{Resource, Verbs},
};

pub(super) fn rows() -> Vec<Resource> {
    let rbac = |kind, plural| row("rbac.authorization.k8s.io", "v1", kind, plural).create_on_update();
    let flow = |kind, plural| row("flowcontrol.apiserver.k8s.io", "v1", kind, plural).cluster().status();
    let certificates = |kind, plural| row("certificates.k8s.io", "v1", kind, plural);
    vec![
        rbac("ClusterRoleBinding", "clusterrolebindings").columns(access::bindings()).cluster(),
        rbac("ClusterRole", "clusterroles").columns(access::roles()).cluster(),
        rbac("RoleBinding", "rolebindings").columns(access::bindings()),
        rbac("Role", "roles").columns(access::roles()),
        row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .columns(workloads::disruption_budgets())
            .short(&["pdb"])
            .status()
            .conditional_update(),
        row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .columns(cluster::priority_classes())
            .cluster()
            .short(&["pc"]),
        flow("FlowSchema", "flowschemas").columns(access::flow_schemas()),
        flow("PriorityLevelConfiguration", "prioritylevelconfigurations").columns(access::priority_levels()),
        row("coordination.k8s.io", "v1", "Lease", "leases")
            .columns(cluster::leases())
            .create_on_update()
            .conditional_update(),
        certificates("CertificateSigningRequest", "certificatesigningrequests")
            .columns(access::signing_requests())
            .cluster()
            .short(&["csr"])
            .status()
            .same_kind("approval", Verbs::GET_PATCH_UPDATE)
            .select("spec.signerName"),
        certificates("ClusterTrustBundle", "clustertrustbundles")
            .columns(access::trust_bundles())
            .cluster()
            .conditional_update()
            .select("spec.signerName"),
        certificates("PodCertificateRequest", "podcertificaterequests")
            .columns(access::pod_certificate_requests())
            .status()
            .select("spec.signerName")
            .select("spec.podName")
            .select("spec.nodeName"),
    ]
}
