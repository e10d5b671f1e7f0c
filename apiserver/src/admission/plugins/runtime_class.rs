//! RuntimeClass: a pod's runtime must exist; it brings overhead and a place to run.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{GroupResource, Status};

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{child, entries, field, items_mut, list, set, text},
};

pub struct RuntimeClass;

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        operation == AdmissionOperation::Create
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let Some(mut pod) = request.object.take() else { return Ok(()) };
        let result = apply(request, &mut pod);
        request.object = Some(pod);
        result
    }
}

fn apply(request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    let spec = child(pod, "spec");
    let name = text(spec, "runtimeClassName").to_owned();
    let given = field(spec, "overhead").is_some_and(|overhead| overhead.as_object().is_some_and(|map| !map.is_empty()));
    if name.is_empty() {
        if given {
            return Err(
                request.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
            );
        }
        return Ok(());
    }
    let found = lookup::find(request.snapshot, GroupResource::new("node.k8s.io", "runtimeclasses"), "", &name);
    let Some(class) = found.and_then(|class| class.value().ok()) else {
        return Err(request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    let fixed = &class["overhead"]["podFixed"];
    if given && spec["overhead"] != *fixed {
        return Err(request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
    }
    if fixed.is_object() {
        set(spec, "overhead", fixed.clone());
    }
    let scheduling = &class["scheduling"];
    for (key, value) in entries(scheduling, "nodeSelector") {
        let selector = child(spec, "nodeSelector");
        if field(selector, key).is_some_and(|have| have != value) {
            return Err(request.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                plain(value),
                plain(&selector[key.as_str()])
            )));
        }
        set(selector, key, value.clone());
    }
    for toleration in list(scheduling, "tolerations") {
        let tolerations = items_mut(spec, "tolerations");
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    Ok(())
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    #[tokio::test]
    async fn a_class_brings_overhead_and_scheduling() {
        let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "r"}, "handler": "h",
            "overhead": {"podFixed": {"cpu": "10m"}}, "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "t"}]}});
        let case = Case::new().with("node.k8s.io", "runtimeclasses", class);
        let pod = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
        let made =
            case.create("", "pods", "n", pod(json!({"runtimeClassName": "r"}))).mutate(&RuntimeClass).await.unwrap();
        assert_eq!(
            made["spec"],
            json!({"runtimeClassName": "r", "overhead": {"cpu": "10m"}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "t"}]})
        );
        let error = case
            .create("", "pods", "n", pod(json!({"runtimeClassName": "x"})))
            .mutate(&RuntimeClass)
            .await
            .unwrap_err();
        assert_eq!(error.message, "pods \"p\" is forbidden: pod rejected: RuntimeClass \"x\" not found");
        assert!(
            case.create("", "pods", "n", pod(json!({"overhead": {"cpu": "1"}}))).mutate(&RuntimeClass).await.is_err()
        );
        let clash = pod(json!({"runtimeClassName": "r", "nodeSelector": {"a": "c"}}));
        assert!(case.create("", "pods", "n", clash).mutate(&RuntimeClass).await.is_err());
    }
}
