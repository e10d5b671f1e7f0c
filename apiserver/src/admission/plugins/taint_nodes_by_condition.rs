//! TaintNodesByCondition: a new node takes no pods before it has said that it is ready.

use async_trait::async_trait;
use serde_json::json;
use skiff_api::Status;

use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{child, items_mut, list, text},
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Create
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "nodes") {
            return Ok(());
        }
        let Some(node) = &mut request.object else { return Ok(()) };
        let tainted = list(&node["spec"], "taints")
            .iter()
            .any(|taint| text(taint, "key") == NOT_READY && text(taint, "effect") == "NoSchedule");
        if !tainted {
            items_mut(child(node, "spec"), "taints").push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;

    #[tokio::test]
    async fn a_new_node_is_tainted_once() {
        let case = Case::new();
        let node = case
            .create("", "nodes", "", json!({"metadata": {"name": "a"}}))
            .mutate(&TaintNodesByCondition)
            .await
            .unwrap();
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        let again = case.create("", "nodes", "", node.clone()).mutate(&TaintNodesByCondition).await.unwrap();
        assert_eq!(again, node);
    }
}
