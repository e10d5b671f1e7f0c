//! Admission of POSTs that store nothing themselves (`token`, `eviction`,
//! `binding`, reviews): the plugins see them like any other creation.

use serde_json::{Value, json};
use skiff_api::{GroupVersionKind, GroupVersionResource, Status};

use super::{AdmissionOperation, AdmissionRequest};
use crate::registry::EndpointRequest;

/// Runs both passes over the body of an endpoint's request and returns what
/// the plugins made of it.
pub async fn admit(
    request: &EndpointRequest<'_>,
    resource: &GroupVersionResource,
    subresource: &str,
    kind: &GroupVersionKind,
) -> Result<Value, Status> {
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"});
    let mut admission = AdmissionRequest {
        operation: AdmissionOperation::Create,
        resource,
        kind,
        subresource,
        namespace: request.context.namespace,
        name: request.name,
        object: Some(request.body.clone()),
        old_object: None,
        options: &options,
        user: request.context.user,
        dry_run: request.context.dry_run,
        snapshot: request.context.snapshot,
        warnings: Vec::new(),
    };
    let plugins = || request.store.admission.iter().filter(|plugin| plugin.handles(AdmissionOperation::Create));
    for plugin in plugins() {
        plugin.mutate(&mut admission).await?;
    }
    for plugin in plugins() {
        plugin.validate(&mut admission).await?;
    }
    Ok(admission.object.unwrap_or_default())
}
