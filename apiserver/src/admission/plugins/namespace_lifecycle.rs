//! NamespaceLifecycle: nothing new in namespaces that are missing or going
//! away, and three namespaces that never go.

use std::time::Duration;

use async_trait::async_trait;
use skiff_api::{Cause, GroupResource, Status};

use super::lookup::find_soon;
use crate::admission::{Admission, AdmissionOperation, AdmissionRequest};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// How long a namespace that was just created elsewhere may take to show up here.
const PATIENCE: Duration = Duration::from_millis(100);

pub struct NamespaceLifecycle;

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation != AdmissionOperation::Connect
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if request.is("", "namespaces") {
            if request.operation == AdmissionOperation::Delete && IMMORTAL.contains(&request.name) {
                return Err(request.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        // Reviews must work while a namespace dies; deletion and updates of what is there always do.
        if request.namespace.is_empty()
            || request.operation != AdmissionOperation::Create
            || request.is("authorization.k8s.io", "localsubjectaccessreviews")
        {
            return Ok(());
        }
        let namespaces = GroupResource::new("", "namespaces");
        let Some(namespace) = find_soon(request.snapshot, namespaces, "", request.namespace, PATIENCE).await else {
            return Err(Status::not_found("", "namespaces", request.namespace));
        };
        if namespace.meta.is_deleting() { Err(terminating(request)) } else { Ok(()) }
    }
}

fn terminating(request: &AdmissionRequest<'_>) -> Status {
    let namespace = request.namespace;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = request.forbidden(why);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    #[tokio::test]
    async fn creates_need_a_living_namespace() {
        let living = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
        let dying = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let case = Case::new().with("", "namespaces", living).with("", "namespaces", dying);
        let pod = json!({"metadata": {"name": "p"}});
        assert!(case.create("", "pods", "n", pod.clone()).mutate(&NamespaceLifecycle).await.is_ok());
        let missing = case.create("", "pods", "x", pod.clone()).mutate(&NamespaceLifecycle).await.unwrap_err();
        assert_eq!(missing.message, "namespaces \"x\" not found");
        let refused = case.create("", "pods", "d", pod).mutate(&NamespaceLifecycle).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: unable to create new content in namespace d because it is being terminated"
        );
        assert_eq!(refused.details.unwrap().causes[0].reason, "NamespaceTerminating");
    }

    #[tokio::test]
    async fn three_namespaces_are_immortal() {
        let case = Case::new();
        for name in IMMORTAL {
            assert_eq!(case.delete("", "namespaces", "", name).mutate(&NamespaceLifecycle).await.unwrap_err().code, 403);
        }
        assert!(case.delete("", "namespaces", "", "other").mutate(&NamespaceLifecycle).await.is_ok());
    }
}
