//! What differs between kinds: defaulting, preparation, validation, warnings,
//! and a few switches. Everything else is the generic machinery in
//! [`crate::registry::store`] and [`crate::rest`].
//!
//! Order of calls for a write: decode and schema-table defaults -> `default` ->
//! mutating admission -> `default` again if admission changed something ->
//! generic metadata -> `prepare` -> `allocate` -> `validate` and `warnings` ->
//! validating admission -> storage. The machinery itself already: keeps
//! `status` on main writes and everything but `status` on `status` writes (rows
//! with a status subresource), drops `status` on create, keeps system metadata,
//! counts `generation`, checks names, labels, annotations, owners, finalizers
//! and the immutable metadata. Plain switches (create on PUT, unconditional
//! update, default finalizers, orphaning by default) are columns of the resource
//! row. A strategy states only what is left.

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use skiff_api::{Cause, Status};
use skiff_client::Snapshot;

use crate::authn::UserInfo;

/// What is being done to the object. `old` is the stored state.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    Create,
    /// PUT or PATCH of the main resource.
    Update {
        old: &'a Value,
    },
    /// PUT or PATCH of `status`.
    Status {
        old: &'a Value,
    },
    /// PUT or PATCH of another subresource that shares the kind
    /// (`finalize`, `approval`, `ephemeralcontainers`, `resize`).
    Subresource {
        name: &'a str,
        old: &'a Value,
    },
    /// Just before deletion begins or is carried out.
    Delete,
}

impl<'a> Operation<'a> {
    /// The stored state, where there is one.
    pub fn old(&self) -> Option<&'a Value> {
        match self {
            Operation::Update { old } | Operation::Status { old } | Operation::Subresource { old, .. } => Some(old),
            Operation::Create | Operation::Delete => None,
        }
    }

    pub fn is_create(&self) -> bool {
        matches!(self, Operation::Create)
    }
}

/// What a strategy may know besides the object.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    pub user: &'a UserInfo,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// API version of the request (`apps/v1`): for kinds served in several.
    pub api_version: &'a str,
    pub dry_run: bool,
    pub now: Timestamp,
    /// The watch caches of this server.
    pub snapshot: &'a Snapshot,
}

/// Something taken from a shared pool (cluster IP, node port) for an object
/// about to be written. Dropping it without `commit` gives it back.
pub trait Allocation: Send + Sync {
    /// The object is stored: keep what was taken, release what it replaced.
    fn commit(self: Box<Self>);
}

/// The difference of one kind. Every method has the generic behaviour as default.
#[async_trait]
pub trait Strategy: Send + Sync + 'static {
    /// Defaults that depend on other fields; constant ones are in the schema
    /// table. Must be idempotent: it also runs over the result of admission and patches.
    fn default(&self, _op: Operation<'_>, _object: &mut Value) {}

    /// Forces fields the user may not choose, carries over what an update may not lose.
    fn prepare(&self, _context: &RequestContext<'_>, _op: Operation<'_>, _object: &mut Value) {}

    /// Takes addresses or numbers from pools; called once per attempt after
    /// `prepare`. With `context.dry_run` nothing may stay taken.
    async fn allocate(
        &self,
        _context: &RequestContext<'_>,
        _op: Operation<'_>,
        _object: &mut Value,
    ) -> Result<Option<Box<dyn Allocation>>, Status> {
        Ok(None)
    }

    /// An object left the store: give back what `allocate` took for it.
    fn released(&self, _object: &Value) {}

    /// Field errors beyond generic metadata; `cause.field` is a path such as
    /// `spec.ports[0].name`, `cause.message` upstream's wording. Empty means valid.
    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, _object: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// Texts for `Warning` headers.
    fn warnings(&self, _context: &RequestContext<'_>, _op: Operation<'_>, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Field errors of the name itself; DNS-1123 subdomain unless overridden
    /// (see [`crate::registry::names`]). `prefix` is set for a generateName.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::registry::names::dns1123_subdomain(name, prefix)
    }

    /// Whether the change counts as a new generation. By default any change
    /// outside `metadata` and `status`, for kinds that have generations.
    fn bumps_generation(&self, old: &Value, new: &Value) -> bool {
        crate::registry::meta::spec_differs(old, new)
    }

    /// Whether objects carry `metadata.generation` at all; by default those with a `spec`.
    fn has_generation(&self, object: &Value) -> bool {
        object.get("spec").is_some()
    }

    /// Seconds of grace for a deletion. `None`: this kind is deleted at once.
    /// `requested` is the client's wish. Zero deletes now.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether, with no finalizer and no grace left, the object may leave the
    /// store. Namespaces say no until `spec.finalizers` is empty; a deletion is
    /// then only marked (and `prepare(Operation::Delete)` may set `status.phase`).
    fn may_remove(&self, _object: &Value) -> bool {
        true
    }

    /// Whether the deletion is allowed at all (an immortal namespace is not).
    fn validate_delete(&self, _context: &RequestContext<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }

    /// Seconds after which the stored object expires (events).
    fn ttl_seconds(&self, _object: &Value) -> Option<u64> {
        None
    }
}

/// The strategy of kinds that have nothing special.
pub struct DefaultStrategy;

impl Strategy for DefaultStrategy {}
