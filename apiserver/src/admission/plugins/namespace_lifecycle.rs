//! NamespaceLifecycle: nothing new in namespaces that are missing or going
//! away, and three namespaces that never go.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use skiff_api::{Cause, GroupResource, Status};
use tokio::time::Instant;

use super::lookup::{find_soon, wait_until};
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    limits,
};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// How long a namespace that was just created elsewhere may take to show up here.
const PATIENCE: Duration = Duration::from_millis(100);
/// A deletion that this server accepted shows in its cache after so long at most.
const DELETION_VISIBLE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct NamespaceLifecycle {
    /// Namespaces deleted a moment ago, which the cache may still show as living.
    deleted: Mutex<Vec<(String, Instant)>>,
}

impl NamespaceLifecycle {
    fn note_deletion(&self, name: &str) {
        let mut deleted = self.deleted.lock();
        deleted.retain(|(_, at)| at.elapsed() < DELETION_VISIBLE);
        if deleted.len() < limits::RECENT_DELETIONS_MAX {
            deleted.push((name.to_owned(), Instant::now()));
        }
    }

    fn was_just_deleted(&self, name: &str) -> bool {
        self.deleted.lock().iter().any(|(have, at)| have == name && at.elapsed() < DELETION_VISIBLE)
    }
}

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
            if request.operation == AdmissionOperation::Delete && !request.dry_run {
                self.note_deletion(request.name);
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
        if self.was_just_deleted(request.namespace) {
            let gone =
                |namespace: Option<&skiff_api::Object>| namespace.is_none_or(|namespace| namespace.meta.is_deleting());
            wait_until(request.snapshot, namespaces.clone(), "", request.namespace, PATIENCE, gone).await;
        }
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
        assert!(case.create("", "pods", "n", pod.clone()).mutate(&NamespaceLifecycle::default()).await.is_ok());
        let missing =
            case.create("", "pods", "x", pod.clone()).mutate(&NamespaceLifecycle::default()).await.unwrap_err();
        assert_eq!(missing.message, "namespaces \"x\" not found");
        let refused = case.create("", "pods", "d", pod).mutate(&NamespaceLifecycle::default()).await.unwrap_err();
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
            assert_eq!(
                case.delete("", "namespaces", "", name).mutate(&NamespaceLifecycle::default()).await.unwrap_err().code,
                403
            );
        }
        assert!(case.delete("", "namespaces", "", "other").mutate(&NamespaceLifecycle::default()).await.is_ok());
    }
}
