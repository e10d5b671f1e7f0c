//! DefaultIngressClass: an ingress that names no class gets the default one.

use async_trait::async_trait;
use skiff_api::{GroupResource, Status};

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{child, field, set, text_at},
};

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
const OLD_CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub struct DefaultIngressClass;

#[async_trait]
impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Create
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("networking.k8s.io", "ingresses") {
            return Ok(());
        }
        let Some(ingress) = &mut request.object else { return Ok(()) };
        let named = field(&ingress["spec"], "ingressClassName").is_some()
            || !text_at(ingress, &["metadata", "annotations", OLD_CLASS_ANNOTATION]).is_empty();
        if named {
            return Ok(());
        }
        let classes = lookup::list(request.snapshot, GroupResource::new("networking.k8s.io", "ingressclasses"), None);
        let defaults =
            classes.iter().filter(|class| class.meta.annotations.get(DEFAULT).is_some_and(|value| value == "true"));
        let newest = defaults.max_by(|a, b| {
            a.meta.creation_timestamp.cmp(&b.meta.creation_timestamp).then_with(|| b.meta.name.cmp(&a.meta.name))
        });
        if let Some(class) = newest {
            set(child(ingress, "spec"), "ingressClassName", class.meta.name.clone());
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
    async fn the_default_class_is_filled_in() {
        let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "x", "annotations": {DEFAULT: "true"}}});
        let case = Case::new().with("networking.k8s.io", "ingressclasses", class);
        let ingress = case
            .create("networking.k8s.io", "ingresses", "n", json!({"metadata": {"name": "i"}}))
            .mutate(&DefaultIngressClass)
            .await
            .unwrap();
        assert_eq!(ingress["spec"]["ingressClassName"], "x");
    }
}
