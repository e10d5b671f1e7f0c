//! Questions the server answers: authentication and authorization reviews.

use super::build::review;
use crate::resource::Resource;

pub(super) fn rows() -> Vec<Resource> {
    let authn = |kind, plural| review("authentication.k8s.io", kind, plural);
    let authz = |kind, plural| review("authorization.k8s.io", kind, plural);
    vec![
        authn("SelfSubjectReview", "selfsubjectreviews"),
        authn("TokenReview", "tokenreviews"),
        Resource { namespaced: true, ..authz("LocalSubjectAccessReview", "localsubjectaccessreviews") },
        authz("SelfSubjectAccessReview", "selfsubjectaccessreviews"),
        authz("SelfSubjectRulesReview", "selfsubjectrulesreviews"),
        authz("SubjectAccessReview", "subjectaccessreviews"),
    ]
}
