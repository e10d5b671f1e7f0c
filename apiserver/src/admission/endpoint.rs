//! Admission of POSTs that store nothing themselves (`token`, `eviction`,
//! `binding`, reviews): the plugins see them like any other creation.

use serde_json::{Value, json};
use skiff_api::{GroupVersionKind, GroupVersionResource, Status};

use super::{AdmissionOperation, AdmissionRequest, Reinvocation, mutate, validate};
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
        home: None,
        warnings: Vec::new(),
        annotations: Vec::new(),
        reinvocation: Reinvocation::default(),
    };
    mutate(&request.store.admission, &mut admission, request.warnings).await?;
    validate(&request.store.admission, &mut admission, request.warnings).await?;
    Ok(admission.object.unwrap_or_default())
}
