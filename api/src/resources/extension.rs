//! What extends the API: definitions, aggregation, admission.

use super::build::{Describe, row};
use crate::{printers::access, resource::Resource};

pub(super) fn rows() -> Vec<Resource> {
    let admission = |kind, plural| {
        row("admissionregistration.k8s.io", "v1", kind, plural)
            .cluster()
            .categories(&["api-extensions"])
            .conditional_update()
    };
    vec![
        row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .columns(access::roles())
            .cluster()
            .short(&["crd", "crds"])
            .categories(&["api-extensions"])
            .status()
            .conditional_update(),
        row("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .columns(access::api_services())
            .cluster()
            .categories(&["api-extensions"])
            .status()
            .conditional_update(),
        admission("MutatingAdmissionPolicy", "mutatingadmissionpolicies").columns(access::mutating_policies()),
        admission("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
            .columns(access::policy_bindings()),
        admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations").columns(access::webhooks()),
        admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .columns(access::validating_policies())
            .status(),
        admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
            .columns(access::policy_bindings()),
        admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations").columns(access::webhooks()),
    ]
}
