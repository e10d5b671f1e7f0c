//! Admission: policy over requests that are already authenticated and authorized.
//!
//! One ordered list of plugins; each may mutate, then (after validation of the
//! object) each may refuse. Plugins read the watch caches, never the wire.

pub mod dynamic;
pub mod endpoint;
pub mod plugins;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{GroupVersionKind, GroupVersionResource, Resource, Status};
use skiff_client::Snapshot;

use crate::{
    authn::UserInfo,
    registry::{Operation, store::Store, write},
    warnings::Warnings,
    wire,
};

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
    /// None for bodies that are not stored (reviews, bindings, options of streams).
    pub home: Option<Home<'a>>,
    /// Texts for `Warning` headers; plugins append.
    pub warnings: Vec<String>,
    /// For the audit log; plugins append.
    pub annotations: Vec<(String, String)>,
    pub reinvocation: Reinvocation,
}

/// Where the objects of a request are stored, and in which versions.
#[derive(Clone, Copy)]
pub struct Home<'a> {
    pub store: &'a Store,
    /// The row of the URL.
    pub asked: &'a Arc<Resource>,
    /// The row in whose version the objects of the request are.
    pub working: &'a Arc<Resource>,
}

/// Who has seen the object before somebody changed it, over the two mutating passes.
#[derive(Default)]
pub struct Reinvocation {
    /// This is the second pass.
    pub again: bool,
    /// The object was changed by a webhook or a policy: all mutators see it once more.
    pub wanted: bool,
    pub policies: Invoked,
    pub webhooks: Invoked,
}

/// Webhooks or policies that want to know when the object changes after they saw it.
#[derive(Default)]
pub struct Invoked {
    seen: Vec<String>,
    due: Vec<String>,
    left: Option<Value>,
}

impl Invoked {
    /// Somebody changed the object: whoever saw it before is to see it again.
    pub fn changed(&mut self) {
        self.due.append(&mut self.seen);
    }

    pub fn saw(&mut self, who: String) {
        self.seen.push(who);
    }

    /// Whether a plugin's turn has come for somebody: in the first pass for all.
    pub fn is_due(&self, again: bool, who: &str) -> bool {
        !again || self.due.iter().any(|due| due == who)
    }

    /// The plugin begins. What the built-in plugins changed meanwhile counts as a change.
    pub fn enter(&mut self, again: bool, object: Option<&Value>) {
        if again && !self.seen.is_empty() && self.left.as_ref() != object {
            self.changed();
        }
    }

    /// The plugin is done.
    pub fn leave(&mut self, object: Option<&Value>) {
        self.left = if self.seen.is_empty() { None } else { object.cloned() };
    }
}

/// The mutating pass of a chain, and a second one when webhooks or policies changed the object.
/// What the plugins note is handed on whether they refuse or not.
pub async fn mutate(
    plugins: &[Arc<dyn Admission>],
    request: &mut AdmissionRequest<'_>,
    notes: &Warnings,
) -> Result<(), Status> {
    let outcome = mutate_once_or_twice(plugins, request).await;
    request.report(notes);
    outcome
}

async fn mutate_once_or_twice(
    plugins: &[Arc<dyn Admission>],
    request: &mut AdmissionRequest<'_>,
) -> Result<(), Status> {
    let operation = request.operation;
    loop {
        for plugin in plugins.iter().filter(|plugin| plugin.handles(operation)) {
            plugin.mutate(request).await?;
        }
        if request.reinvocation.again || !request.reinvocation.wanted {
            return Ok(());
        }
        request.reinvocation.again = true;
    }
}

/// The validating pass of a chain.
pub async fn validate(
    plugins: &[Arc<dyn Admission>],
    request: &mut AdmissionRequest<'_>,
    notes: &Warnings,
) -> Result<(), Status> {
    let operation = request.operation;
    let mut outcome = Ok(());
    for plugin in plugins.iter().filter(|plugin| plugin.handles(operation)) {
        outcome = plugin.validate(request).await;
        if outcome.is_err() {
            break;
        }
    }
    request.report(notes);
    outcome
}

impl AdmissionRequest<'_> {
    /// Hands on what the plugins noted.
    fn report(&mut self, to: &Warnings) {
        to.extend(self.warnings.drain(..));
        for (key, value) in self.annotations.drain(..) {
            to.annotate(key, value);
        }
    }

    /// Gives the object the defaults and the canonical form of its kind.
    pub fn settle(&mut self) {
        let (Some(home), Some(object)) = (self.home, &mut self.object) else { return };
        if let Some(root) = &home.working.schema {
            wire::settle(root, object);
        }
        let op = self.old_object.map_or(Operation::Create, |old| write::operation(self.subresource, old));
        home.store.strategy(home.working).default(op, object);
    }

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
    /// dry run, failure): undo what was charged. Quota uses it. Of the object only
    /// name, namespace and uid are there.
    async fn abandon(&self, _request: &AdmissionRequest<'_>) {}
}
