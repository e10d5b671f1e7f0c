//! DefaultTolerationSeconds: a pod survives a broken node for five minutes,
//! unless it says something else.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{child, items_mut, list, text},
};

const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        matches!(operation, AdmissionOperation::Create | AdmissionOperation::Update)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = &mut request.object else { return Ok(()) };
        for key in KEYS {
            if !list(&pod["spec"], "tolerations").iter().any(|toleration| tolerates(toleration, key)) {
                items_mut(child(pod, "spec"), "tolerations").push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
            }
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let have = text(toleration, "key");
    (have.is_empty() || have == key) && matches!(text(toleration, "effect"), "" | "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;

    #[tokio::test]
    async fn missing_tolerations_are_added() {
        let case = Case::new();
        let run = |tolerations: Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"tolerations": tolerations}});
            let bench = case.create("", "pods", "n", pod);
            async move {
                bench.mutate(&DefaultTolerationSeconds).await.unwrap()["spec"]["tolerations"].as_array().unwrap().len()
            }
        };
        assert_eq!(run(json!([])).await, 2);
        assert_eq!(run(json!([{"operator": "Exists"}])).await, 1);
        assert_eq!(
            run(json!([{"key": KEYS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}])).await,
            2
        );
        assert_eq!(run(json!([{"key": KEYS[0], "operator": "Exists", "effect": "NoSchedule"}])).await, 3);
    }
}
