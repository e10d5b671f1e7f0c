//! StorageObjectInUseProtection: claims and volumes carry a finalizer that
//! keeps them while a pod or a claim uses them.

use async_trait::async_trait;
use skiff_api::Status;

use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{child, items_mut},
};

pub struct StorageObjectInUseProtection;

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Create
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let finalizer = if request.is("", "persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else if request.is("", "persistentvolumes") {
            "kubernetes.io/pv-protection"
        } else {
            return Ok(());
        };
        let Some(object) = &mut request.object else { return Ok(()) };
        let finalizers = items_mut(child(object, "metadata"), "finalizers");
        if !finalizers.iter().any(|have| have == finalizer) {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    #[tokio::test]
    async fn claims_and_volumes_are_protected() {
        let case = Case::new();
        for (resource, want) in [
            ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
            ("persistentvolumes", "kubernetes.io/pv-protection"),
        ] {
            let object = case
                .create("", resource, "", json!({"metadata": {"name": "c"}}))
                .mutate(&StorageObjectInUseProtection)
                .await
                .unwrap();
            assert_eq!(object["metadata"]["finalizers"], json!([want]));
        }
    }
}
