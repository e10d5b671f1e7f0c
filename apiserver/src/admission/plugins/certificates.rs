//! The three plugins around CertificateSigningRequests: who may approve and
//! sign for a signer, and what the client signer never signs.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use skiff_api::Status;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    authz::{Attributes, Authorizer},
    registry::value::{field, list, text},
};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const POD_RESOURCE: &str = "podcertificaterequests";
const BUNDLES: &str = "clustertrustbundles";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

fn is_request(request: &AdmissionRequest<'_>, subresource: &str) -> bool {
    request.resource.group == GROUP && request.resource.resource == RESOURCE && request.subresource == subresource
}

/// Whether the user has `verb` on the signer, by its name or by its domain.
fn has_signer(authorizer: &dyn Authorizer, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let ask = |name: String| {
        let attributes = Attributes {
            user: request.user.clone(),
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        authorizer.authorize(&attributes).is_allowed()
    };
    let domain = signer.split('/').next().unwrap_or_default();
    ask(signer.to_owned()) || ask(format!("{domain}/*"))
}

fn signer_of<'a>(request: &'a AdmissionRequest<'_>) -> &'a str {
    request.old_object.map_or("", |old| text(&old["spec"], "signerName"))
}

/// Approval needs the verb `approve` on the signer.
pub struct CertificateApproval {
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Update
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let signer = signer_of(request);
        if !is_request(request, "approval") || has_signer(&*self.authorizer, request, "approve", signer) {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// Writing a certificate into the status needs the verb `sign` on the signer.
pub struct CertificateSigning {
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Update
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let pods = request.resource.group == GROUP
            && request.resource.resource == POD_RESOURCE
            && request.subresource == "status";
        if pods {
            // The status of such a request is its signer's answer and nothing else.
            let signer = signer_of(request);
            return if has_signer(&*self.authorizer, request, "sign", signer) {
                Ok(())
            } else {
                Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
            };
        }
        if !is_request(request, "status") {
            return Ok(());
        }
        let signs = match (&request.object, request.old_object) {
            (Some(new), Some(old)) => {
                field(&new["status"], "certificate") != field(&old["status"], "certificate")
                    || failed(&new["status"]) != failed(&old["status"])
            }
            _ => false,
        };
        let signer = signer_of(request);
        if !signs || has_signer(&*self.authorizer, request, "sign", signer) {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

fn failed(status: &Value) -> bool {
    list(status, "conditions").iter().any(|condition| text(condition, "type") == "Failed")
}

/// A bundle that speaks for a signer needs the verb `attest` on it.
pub struct ClusterTrustBundleAttest {
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Admission for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        matches!(operation, AdmissionOperation::Create | AdmissionOperation::Update)
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if request.resource.group != GROUP || request.resource.resource != BUNDLES {
            return Ok(());
        }
        let signer = request.object.as_ref().map_or("", |object| text(&object["spec"], "signerName"));
        if signer.is_empty() || has_signer(&*self.authorizer, request, "attest", signer) {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to attest for signerName {signer:?}")))
    }
}

/// The client signer never makes members of `system:masters`.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Create
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !is_request(request, "") {
            return Ok(());
        }
        let Some(object) = &request.object else { return Ok(()) };
        if text(&object["spec"], "signerName") != CLIENT_SIGNER {
            return Ok(());
        }
        if organizations(text(&object["spec"], "request")).iter().any(|organization| organization == MASTERS) {
            return Err(request.forbidden(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")));
        }
        Ok(())
    }
}

/// Organizations in the subject of a base64 of a PEM of a request; none when it cannot be read (validation refuses it).
fn organizations(request: &str) -> Vec<String> {
    let Ok(pem) = BASE64.decode(request) else { return Vec::new() };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return Vec::new() };
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else { return Vec::new() };
    let subject = &request.certification_request_info.subject;
    subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::Case,
        authn::UserInfo,
        authz::{Decision, PolicyRule},
    };
    use serde_json::json;

    /// Allows one verb on one signer domain.
    struct Domain(&'static str);

    impl Authorizer for Domain {
        fn authorize(&self, attributes: &Attributes) -> Decision {
            if attributes.verb == self.0 && attributes.name == "example.com/*" {
                return Decision::Allow(String::new());
            }
            Decision::NoOpinion(String::new())
        }

        fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Vec<PolicyRule> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn approval_needs_the_signer() {
        let case = Case::new();
        let csr = |signer: &str| json!({"metadata": {"name": "c"}, "spec": {"signerName": signer}});
        let plugin = CertificateApproval { authorizer: Arc::new(Domain("approve")) };
        let own = csr("example.com/a");
        assert!(case.update(GROUP, RESOURCE, "", own.clone(), own).sub("approval").validate(&plugin).await.is_ok());
        let other = csr("kubernetes.io/x");
        let error =
            case.update(GROUP, RESOURCE, "", other.clone(), other).sub("approval").validate(&plugin).await.unwrap_err();
        assert!(error.message.ends_with("user not permitted to approve requests with signerName \"kubernetes.io/x\""));
    }

    #[tokio::test]
    async fn only_a_new_certificate_is_signing() {
        let case = Case::new();
        let plugin = CertificateSigning { authorizer: Arc::new(Domain("nothing")) };
        let csr = |certificate: Option<&str>| json!({"metadata": {"name": "c"}, "spec": {"signerName": "example.com/a"}, "status": {"certificate": certificate}});
        assert!(case.update(GROUP, RESOURCE, "", csr(None), csr(None)).sub("status").validate(&plugin).await.is_ok());
        assert!(
            case.update(GROUP, RESOURCE, "", csr(Some("x")), csr(None)).sub("status").validate(&plugin).await.is_err()
        );
    }
}
