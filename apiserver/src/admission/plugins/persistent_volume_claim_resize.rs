//! PersistentVolumeClaimResize: a bound claim grows only where its class allows it.

use async_trait::async_trait;
use skiff_api::{GroupResource, Status};

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::{
        validation::numbers::parse_quantity,
        value::{flag, text},
    },
};

pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Update
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(new), Some(old)) = (&request.object, request.old_object) else { return Ok(()) };
        let size = |claim: &serde_json::Value| parse_quantity(&claim["spec"]["resources"]["requests"]["storage"]);
        if size(new) <= size(old) {
            return Ok(());
        }
        if text(&old["status"], "phase") != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = text(&old["spec"], "storageClassName");
        let found = lookup::find(request.snapshot, GroupResource::new("storage.k8s.io", "storageclasses"), "", class);
        let allowed =
            found.and_then(|class| class.value().ok()).is_some_and(|class| flag(&class, "allowVolumeExpansion"));
        if allowed {
            return Ok(());
        }
        Err(request.forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    #[tokio::test]
    async fn growth_needs_a_class_that_allows_it() {
        let class = |name: &str, allow: bool| json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "allowVolumeExpansion": allow});
        let case = Case::new().with("storage.k8s.io", "storageclasses", class("yes", true)).with(
            "storage.k8s.io",
            "storageclasses",
            class("no", false),
        );
        let claim = |class: &str, size: &str| json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": "Bound"}});
        let resource = "persistentvolumeclaims";
        assert!(
            case.update("", resource, "n", claim("yes", "2Gi"), claim("yes", "1Gi"))
                .validate(&PersistentVolumeClaimResize)
                .await
                .is_ok()
        );
        assert!(
            case.update("", resource, "n", claim("no", "2Gi"), claim("no", "1Gi"))
                .validate(&PersistentVolumeClaimResize)
                .await
                .is_err()
        );
        assert!(
            case.update("", resource, "n", claim("no", "1Gi"), claim("no", "1Gi"))
                .validate(&PersistentVolumeClaimResize)
                .await
                .is_ok()
        );
    }
}
