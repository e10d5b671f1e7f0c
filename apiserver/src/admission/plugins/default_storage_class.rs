//! DefaultStorageClass: a claim that names no class gets the default one.

use std::sync::Arc;

use async_trait::async_trait;
use skiff_api::{GroupResource, Object, Status};
use skiff_client::Snapshot;

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{child, field, set, text_at},
};

const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const OLD_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub struct DefaultStorageClass;

#[async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Create
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let Some(claim) = &mut request.object else { return Ok(()) };
        let named = field(&claim["spec"], "storageClassName").is_some()
            || !text_at(claim, &["metadata", "annotations", OLD_CLASS_ANNOTATION]).is_empty();
        if !named && let Some(class) = default_class(request.snapshot) {
            set(child(claim, "spec"), "storageClassName", class.meta.name.clone());
        }
        Ok(())
    }
}

/// The annotated class; the newest when there are several, then by name.
fn default_class(snapshot: &Snapshot) -> Option<Arc<Object>> {
    let is_default = |class: &Arc<Object>| {
        DEFAULT.iter().any(|key| class.meta.annotations.get(*key).is_some_and(|value| value == "true"))
    };
    let classes = lookup::list(snapshot, GroupResource::new("storage.k8s.io", "storageclasses"), None);
    let order = |a: &Arc<Object>, b: &Arc<Object>| {
        a.meta.creation_timestamp.cmp(&b.meta.creation_timestamp).then_with(|| b.meta.name.cmp(&a.meta.name))
    };
    classes.into_iter().filter(is_default).max_by(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    #[tokio::test]
    async fn the_newest_default_class_is_taken() {
        let class = |name: &str, default: &str, time: &str| {
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name,
                "creationTimestamp": time, "annotations": {DEFAULT[0]: default}}})
        };
        let case = Case::new()
            .with("storage.k8s.io", "storageclasses", class("old", "true", "2026-01-01T00:00:00Z"))
            .with("storage.k8s.io", "storageclasses", class("new", "true", "2026-01-02T00:00:00Z"))
            .with("storage.k8s.io", "storageclasses", class("newest", "false", "2026-01-03T00:00:00Z"));
        let claim = case
            .create("", "persistentvolumeclaims", "n", json!({"metadata": {"name": "c"}}))
            .mutate(&DefaultStorageClass)
            .await
            .unwrap();
        assert_eq!(claim["spec"]["storageClassName"], "new");
        let none = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": ""}});
        let claim =
            case.create("", "persistentvolumeclaims", "n", none.clone()).mutate(&DefaultStorageClass).await.unwrap();
        assert_eq!(claim, none, "an empty class is a choice");
    }
}
