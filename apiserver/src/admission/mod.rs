//! Admission: policy over requests that are already authenticated and authorized.
//!
//! One ordered list of plugins; each may mutate, then (after validation of the
//! object) each may refuse. Plugins read the watch caches, never the wire.

pub mod dynamic;
pub mod endpoint;
pub mod plugins;
#[cfg(test)]
pub(crate) mod testing;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{GroupVersionKind, GroupVersionResource, Status};
use skiff_client::Snapshot;

use crate::authn::UserInfo;

/// What the request does, in the words of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionOperation {
    Create,
    /// PUT, PATCH and server-side apply.
    Update,
    Delete,
    Connect,
}

impl AdmissionOperation {
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub fn as_str(self) -> &'static str {
        match self {
            AdmissionOperation::Create => "CREATE",
            AdmissionOperation::Update => "UPDATE",
            AdmissionOperation::Delete => "DELETE",
            AdmissionOperation::Connect => "CONNECT",
        }
    }
}

/// The request as plugins see it.
pub struct AdmissionRequest<'a> {
    pub operation: AdmissionOperation,
    pub resource: &'a GroupVersionResource,
    pub kind: &'a GroupVersionKind,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// May be empty for a create with generateName whose name is not yet chosen.
    pub name: &'a str,
    /// The new object (create, update, connect options); plugins may change it while mutating.
    pub object: Option<Value>,
    /// The stored object (update, delete).
    pub old_object: Option<&'a Value>,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: &'a Value,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    pub snapshot: &'a Snapshot,
    /// Texts for `Warning` headers; plugins append.
    pub warnings: Vec<String>,
}

impl AdmissionRequest<'_> {
    /// Whether this is the main resource `group/resource`.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.resource.group == group && self.resource.resource == resource
    }

    /// A refusal in upstream's form: `<resource> "<name>" is forbidden: <why>`.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.resource, self.name, why)
    }
}

/// One admission plugin.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Upstream's name, for example `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see such requests at all.
    fn handles(&self, _operation: AdmissionOperation) -> bool {
        true
    }

    /// May change `request.object` or refuse.
    async fn mutate(&self, _request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// May refuse; must not change the object. Runs after validation.
    async fn validate(&self, _request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// The object of an accepted `validate` was not stored after all (conflict,
    /// dry run, failure): undo what was charged. Quota uses it.
    async fn abandon(&self, _request: &AdmissionRequest<'_>) {}
}
