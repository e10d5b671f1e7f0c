//! What extends the API: definitions, aggregation, admission.

use super::build::{Describe, row};
use crate::resource::Resource;

pub(super) fn rows() -> Vec<Resource> {
    let admission = |kind, plural| {
        row("admissionregistration.k8s.io", "v1", kind, plural)
            .cluster()
            .categories(&["api-extensions"])
            .conditional_update()
    };
    vec![
        row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .cluster()
            .short(&["crd", "crds"])
            .categories(&["api-extensions"])
            .status()
            .conditional_update(),
        row("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .cluster()
            .categories(&["api-extensions"])
            .status()
            .conditional_update(),
        admission("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
        admission("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies").status(),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    ]
}
