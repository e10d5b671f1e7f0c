//! PodTopologyLabels: a pod learns the zone and region of its node when it is bound.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{GroupResource, Status};

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{child, set, text},
};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub struct PodTopologyLabels;

#[async_trait]
impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        matches!(operation, AdmissionOperation::Create | AdmissionOperation::Update)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let pods = request.resource.group.is_empty() && request.resource.resource == "pods";
        let binds = request.operation == AdmissionOperation::Update && request.subresource == "binding";
        let created = request.operation == AdmissionOperation::Create && request.subresource.is_empty();
        if !pods || !(binds || created) {
            return Ok(());
        }
        let Some(pod) = &mut request.object else { return Ok(()) };
        let node = text(&pod["spec"], "nodeName").to_owned();
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = lookup::find(request.snapshot, GroupResource::new("", "nodes"), "", &node) else {
            return Ok(());
        };
        for label in LABELS {
            if let Some(value) = node.meta.labels.get(label) {
                let labels = child(child(pod, "metadata"), "labels");
                set(labels, label, Value::from(value.as_str()));
            }
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
    async fn a_bound_pod_gets_the_zone_of_its_node() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": {LABELS[0]: "z"}}});
        let case = Case::new().with("", "nodes", node);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a"}});
        let bound =
            case.update("", "pods", "n", pod.clone(), pod).sub("binding").mutate(&PodTopologyLabels).await.unwrap();
        assert_eq!(bound["metadata"]["labels"], json!({LABELS[0]: "z"}));
    }
}
