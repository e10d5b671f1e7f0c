//! Who may do what, and how much: RBAC, disruption, priority, fairness, leases.

use super::build::{Describe, row};
use crate::resource::{Resource, Verbs};

pub(super) fn rows() -> Vec<Resource> {
    let rbac = |kind, plural| row("rbac.authorization.k8s.io", "v1", kind, plural).create_on_update();
    let flow = |kind, plural| row("flowcontrol.apiserver.k8s.io", "v1", kind, plural).cluster().status();
    let certificates = |kind, plural| row("certificates.k8s.io", "v1", kind, plural);
    vec![
        rbac("ClusterRoleBinding", "clusterrolebindings").cluster(),
        rbac("ClusterRole", "clusterroles").cluster(),
        rbac("RoleBinding", "rolebindings"),
        rbac("Role", "roles"),
        row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .status()
            .conditional_update(),
        row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").cluster().short(&["pc"]),
        flow("FlowSchema", "flowschemas"),
        flow("PriorityLevelConfiguration", "prioritylevelconfigurations"),
        row("coordination.k8s.io", "v1", "Lease", "leases").create_on_update().conditional_update(),
        certificates("CertificateSigningRequest", "certificatesigningrequests")
            .cluster()
            .short(&["csr"])
            .status()
            .same_kind("approval", Verbs::GET_PATCH_UPDATE)
            .select("spec.signerName"),
        certificates("ClusterTrustBundle", "clustertrustbundles")
            .cluster()
            .conditional_update()
            .select("spec.signerName"),
        certificates("PodCertificateRequest", "podcertificaterequests")
            .status()
            .select("spec.signerName")
            .select("spec.podName")
            .select("spec.nodeName"),
    ]
}
