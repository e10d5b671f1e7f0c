//! PodResizeValidator: a pod grows only on a node that can do it and has the room.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{Cause, GroupResource, Status};

use super::{lookup, quota_usage};
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::{validation::numbers::parse_quantity, value::text},
};

pub struct PodResizeValidator;

#[async_trait]
impl Admission for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Update
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if (&*request.resource.group, &*request.resource.resource, request.subresource) != ("", "pods", "resize") {
            return Ok(());
        }
        let (Some(pod), Some(old)) = (&request.object, request.old_object) else { return Ok(()) };
        let node_name = text(&pod["spec"], "nodeName");
        if node_name.is_empty() || pod["spec"] == old["spec"] {
            return Ok(());
        }
        let node = lookup::find(request.snapshot, GroupResource::new("", "nodes"), "", node_name);
        let Some(node) = node else { return Err(request.forbidden(format!("node {node_name:?} not found"))) };
        let refusal = |why: String, reason: &str| {
            let mut status = request.forbidden(why);
            let cause = Cause { reason: reason.to_owned(), ..Cause::default() };
            status.details.get_or_insert_default().causes.push(cause);
            Err(status)
        };
        if let Some(system) = node.meta.labels.get("kubernetes.io/os").filter(|system| *system != "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {node_name:?} is {system:?}");
            return refusal(why, "UnsupportedPlatform");
        }
        let node = node.value().map_err(Status::internal)?;
        match lacking(&pod["spec"], &node["status"]["allocatable"]) {
            lacking if lacking.is_empty() => Ok(()),
            lacking => refusal(
                format!("node didn't have enough allocatable resources: {}", lacking.join("; ")),
                "NodeCapacity",
            ),
        }
    }
}

/// What the pod requests beyond the whole of the node.
fn lacking(spec: &Value, allocatable: &Value) -> Vec<String> {
    let requests = quota_usage::total(spec, "requests");
    let mut lacking = Vec::new();
    for name in ["cpu", "memory"] {
        let Some(requested) = requests.get(name) else { continue };
        let there = parse_quantity(&allocatable[name]).unwrap_or_default();
        if *requested > there {
            let number = |quantity: skiff_api::quantity::Quantity| match name {
                "cpu" => quantity.milli_value(),
                _ => quantity.value(),
            };
            lacking.push(format!("{name}, requested: {}, allocatable: {}", number(*requested), number(there)));
        }
    }
    lacking
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Case;

    fn pod(cpu: &str, memory: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "node",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}})
    }

    async fn resized(system: &str, to: Value) -> Result<(), (String, String)> {
        let node = json!({"metadata": {"name": "node", "labels": {"kubernetes.io/os": system}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        let case = Case::new().with("", "nodes", node);
        let bench = case.update("", "pods", "n", to, pod("1", "64Mi")).sub("resize");
        let tried = bench.validate(&PodResizeValidator).await;
        tried.map(drop).map_err(|status| (status.message, status.details.unwrap().causes[0].reason.clone()))
    }

    #[tokio::test]
    async fn a_pod_grows_no_larger_than_its_node() {
        assert_eq!(resized("linux", pod("2", "1Gi")).await, Ok(()));
        let refused = "pods \"p\" is forbidden: ";
        assert_eq!(
            resized("linux", pod("2500m", "2Gi")).await,
            Err((
                format!(
                    "{refused}node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000; \
                     memory, requested: 2147483648, allocatable: 1073741824"
                ),
                "NodeCapacity".into()
            ))
        );
        let windows = "pod resize is only supported on linux nodes, node \"node\" is \"windows\"";
        assert_eq!(
            resized("windows", pod("2", "1Gi")).await,
            Err((format!("{refused}{windows}"), "UnsupportedPlatform".into()))
        );
        assert_eq!(resized("windows", pod("1", "64Mi")).await, Ok(()), "nothing changes");
    }
}
