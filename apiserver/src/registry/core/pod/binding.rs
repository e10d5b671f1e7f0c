//! `pods/binding` (and the old `bindings`): gives a pod its node.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use super::strategy::seconds;
use crate::{
    options::WriteOptions,
    registry::{
        endpoint::{Endpoint, EndpointRequest, EndpointResponse},
        store::WriteRequest,
        validation::{Errors, Path},
        value::{child, entries, field, items_mut, list, name, set, text},
        write::Edited,
    },
    warnings::Warnings,
};

/// Answers POST of a Binding.
pub struct BindingEndpoint;

#[async_trait]
impl Endpoint for BindingEndpoint {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status> {
        let body = &request.body;
        let pod_name = if request.name.is_empty() { name(body) } else { request.name };
        if !name(body).is_empty() && name(body) != pod_name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        validate(body)?;
        let row = request
            .store
            .resources()
            .lookup("", "v1", "pods")
            .ok_or_else(|| Status::internal("the resource table has no pods"))?;
        let options = WriteOptions { dry_run: request.context.dry_run, ..WriteOptions::default() };
        let warnings = Warnings::default();
        let now = seconds(request.context.now);
        let write = WriteRequest {
            row: &row,
            subresource: "binding",
            namespace: request.context.namespace,
            name: pod_name,
            user: request.context.user,
            options: &options,
            warnings: &warnings,
        };
        let edit = |old: Option<&Value>| {
            let mut pod = old.cloned().ok_or_else(|| Status::not_found("", "pods", pod_name))?;
            bind(&mut pod, body, &now)?;
            Ok(Edited { object: pod, applied: false })
        };
        request.store.update(&write, &edit).await?;
        let mut body = json!(Status::success(None));
        body["code"] = 201.into();
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}

fn validate(binding: &Value) -> Result<(), Status> {
    let mut errors = Errors::new();
    let path = Path::new("target");
    let target = &binding["target"];
    if !matches!(text(target, "kind"), "" | "Node") {
        errors.not_supported(&path.child("kind"), text(target, "kind"), &["Node", "<empty>"]);
    }
    if text(target, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "Binding", name(binding), errors.into_causes())) }
}

/// Puts the pod on the node, unless it is dying, gated or already somewhere.
fn bind(pod: &mut Value, binding: &Value, now: &str) -> Result<(), Status> {
    let pod_name = name(pod).to_owned();
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", &pod_name, why));
    if let Some(uid) = field(&binding["metadata"], "uid").and_then(Value::as_str)
        && uid != text(&pod["metadata"], "uid")
        && !uid.is_empty()
    {
        let have = text(&pod["metadata"], "uid");
        return conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"));
    }
    if field(&pod["metadata"], "deletionTimestamp").is_some() {
        return conflict(format!("pod {pod_name} is being deleted, cannot be assigned to a host"));
    }
    let node = text(&pod["spec"], "nodeName");
    if !node.is_empty() {
        return conflict(format!("pod {pod_name} is already assigned to node {node:?}"));
    }
    if !list(&pod["spec"], "schedulingGates").is_empty() {
        return conflict(format!("pod {pod_name} has non-empty .spec.schedulingGates"));
    }
    set(child(pod, "spec"), "nodeName", text(&binding["target"], "name"));
    for kind in ["annotations", "labels"] {
        for (key, value) in entries(&binding["metadata"], kind) {
            set(child(child(pod, "metadata"), kind), key, value.clone());
        }
    }
    let conditions = items_mut(child(pod, "status"), "conditions");
    conditions.retain(|condition| text(condition, "type") != "PodScheduled");
    conditions
        .push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let mut pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}});
        let binding =
            json!({"metadata": {"name": "p", "uid": "u", "annotations": {"a": "b"}}, "target": {"name": "n"}});
        bind(&mut pod, &binding, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n");
        assert_eq!(pod["metadata"]["annotations"]["a"], "b");
        assert_eq!(pod["status"]["conditions"].as_array().unwrap().len(), 1);
        let error = bind(&mut pod, &binding, "").unwrap_err();
        assert_eq!(error.code, 409);
        assert!(error.message.ends_with("pod p is already assigned to node \"n\""));
    }

    #[test]
    fn dying_and_gated_pods_are_not_bound() {
        let binding = json!({"target": {"name": "n"}});
        for pod in [
            json!({"metadata": {"name": "p", "deletionTimestamp": "x"}}),
            json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "g"}]}}),
        ] {
            assert_eq!(bind(&mut pod.clone(), &binding, "").unwrap_err().code, 409);
        }
        assert!(validate(&json!({"target": {"kind": "Pod"}})).is_err());
    }
}
