//! Resources and subresources that are not objects in the store: reviews
//! (`subjectaccessreviews`), actions (`pods/binding`, `pods/eviction`,
//! `serviceaccounts/token`) and views (`deployments/scale`).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;

use super::strategy::RequestContext;
use crate::{registry::store::Store, warnings::Warnings};

/// A POST to an [`Endpoint`]: already authenticated, authorized and decoded.
pub struct EndpointRequest<'a> {
    pub context: RequestContext<'a>,
    /// Name in the URL; empty for reviews.
    pub name: &'a str,
    /// The decoded and defaulted body.
    pub body: Value,
    /// What is noted on the way.
    pub warnings: &'a Warnings,
    /// The stores: every write of an endpoint goes through here.
    pub store: &'a Arc<Store>,
}

/// What an endpoint answers.
pub struct EndpointResponse {
    /// HTTP code: 201 for what creates, 200 for what answers.
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

/// A create-only resource or subresource.
#[async_trait]
pub trait Endpoint: Send + Sync + 'static {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status>;
}

/// A subresource that shows and edits part of an object as another kind
/// (`scale`): GET, PUT, PATCH and apply work on the view.
pub trait View: Send + Sync + 'static {
    /// The view of an object, complete with `apiVersion`, `kind` and `metadata`.
    fn show(&self, object: &Value) -> Result<Value, Status>;

    /// Where the field lies in the object that the view shows as `spec.replicas`.
    fn replicas_path(&self) -> Vec<&str>;

    /// Carries an edited view over into the object.
    fn edit(&self, view: &Value, object: &mut Value) -> Result<(), Status>;
}
