//! The one way objects change.
//!
//! Whatever the verb, a write ends in [`Store::guaranteed_update`]: take the
//! present state, let a transformation decide, swap by revision, and try again
//! with the new state when somebody else was faster. Creation, update and
//! deletion are transformations ([`super::write`], [`super::remove`]).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use skiff_api::{GroupResource, Object, Resource, ResourceRegistry, Revision, Status, resource::Origin};

use super::{Registry, Strategy, strategy::RequestContext};
use crate::{
    admission::Admission,
    authn::UserInfo,
    caches::{self, Caches},
    conversion,
    crd::CustomKind,
    limits,
    options::WriteOptions,
    storage::{self, Backend, KeyValue, Put, Swap, codec, handover::Encoded},
    warnings::Warnings,
};

/// Storage, caches and the behaviour of kinds together.
pub struct Store {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) resources: Arc<ResourceRegistry>,
    pub(crate) registry: Registry,
    pub(crate) admission: Vec<Arc<dyn Admission>>,
}

/// A write as it was asked for.
#[derive(Clone, Copy)]
pub struct WriteRequest<'a> {
    /// The row of the URL.
    pub row: &'a Arc<Resource>,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Empty for a create.
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub options: &'a WriteOptions,
    pub warnings: &'a Warnings,
}

/// What a transformation decided.
pub(crate) enum Change {
    /// Nothing to write.
    Keep,
    Write {
        value: Value,
        ttl_seconds: Option<u64>,
    },
    /// Remove; `last` is the final state to show the client.
    Remove {
        last: Value,
    },
}

/// What became of a write.
#[derive(Clone, Debug)]
pub enum Written {
    /// The object as it is stored now.
    Stored { object: Arc<Object>, created: bool },
    /// The object left the store; its last state.
    Removed(Arc<Object>),
}

impl Written {
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Written::Stored { object, .. } | Written::Removed(object) => object,
        }
    }

    /// Whether nothing was written because `old` was as wanted already.
    fn is_kept(&self, old: Option<&Arc<Object>>) -> bool {
        matches!((self, old), (Written::Stored { object, created: false }, Some(old)) if object.revision == old.revision)
    }
}

/// Decides what becomes of the present state; called once per attempt.
#[async_trait]
pub(crate) trait Transformation: Send {
    async fn decide(&mut self, old: Option<&Arc<Object>>) -> Result<Change, Status>;

    /// Whether the object should not exist, so that asking the store for it first is in vain.
    fn expects_absent(&self) -> bool {
        false
    }

    /// The decision of the last call was carried out.
    fn stored(&mut self, _object: &Arc<Object>) {}

    /// The decision of the last call was not carried out.
    async fn abandoned(&mut self) {}
}

impl Store {
    pub fn new(
        backend: Arc<dyn Backend>,
        caches: Arc<Caches>,
        resources: Arc<ResourceRegistry>,
        registry: Registry,
        admission: Vec<Arc<dyn Admission>>,
    ) -> Store {
        Store { backend, caches, resources, registry, admission }
    }

    /// The resource table.
    pub fn resources(&self) -> &Arc<ResourceRegistry> {
        &self.resources
    }

    /// The watch caches' stores.
    pub fn snapshot(&self) -> &skiff_client::Snapshot {
        self.caches.snapshot()
    }

    pub(crate) fn strategy(&self, row: &Resource) -> Arc<dyn Strategy> {
        self.registry.strategy_of(row.storage.as_ref().unwrap_or(&row.group_resource()))
    }

    /// The row in whose version objects of `row` are worked on: the stored one,
    /// or, for custom resources, the one asked for. Those are converted when they are stored.
    pub(crate) fn storage_row(&self, row: &Arc<Resource>) -> Arc<Resource> {
        if row.origin == Origin::Custom {
            return Arc::clone(row);
        }
        let found = match (&row.storage, &row.storage_version) {
            (Some(storage), Some((group, version))) => self.resources.lookup(group, version, &storage.resource),
            _ => None,
        };
        found.unwrap_or_else(|| Arc::clone(row))
    }

    fn custom(&self, row: &Resource) -> Option<Arc<CustomKind>> {
        if row.origin != Origin::Custom {
            return None;
        }
        self.registry.custom_of(row.storage.as_ref()?)
    }

    /// Stored objects as readers of this row see them. Built-in kinds are converted when they are written out.
    pub(crate) async fn present(&self, row: &Resource, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
        match self.custom(row) {
            Some(kind) => kind.present(row, objects).await,
            None => Ok(objects),
        }
    }

    /// One stored object as readers of this row see it.
    pub(crate) async fn present_one(&self, row: &Resource, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
        match self.custom(row) {
            Some(kind) => kind.present_one(row, object).await,
            None => Ok(Arc::clone(object)),
        }
    }

    /// An object of a write in the form in which it is stored.
    pub(crate) async fn stored_form(&self, row: &Resource, object: Value) -> Result<Value, Status> {
        match self.custom(row) {
            Some(kind) => kind.to_storage(object).await,
            None => Ok(object),
        }
    }

    /// An object of a write in the version of another row of its resource.
    pub(crate) async fn in_version(&self, row: &Resource, object: Value) -> Result<Value, Status> {
        match self.custom(row) {
            Some(kind) => kind.in_version(row, object).await,
            None => Ok(conversion::to_row(object, row)),
        }
    }

    pub(crate) fn context<'a>(&'a self, request: &WriteRequest<'a>, api_version: &'a str) -> RequestContext<'a> {
        RequestContext {
            user: request.user,
            namespace: request.namespace,
            api_version,
            dry_run: request.options.dry_run,
            now: jiff::Timestamp::now(),
            snapshot: self.caches.snapshot(),
        }
    }

    /// The present state of an object, in its storage version; 404 when there is none.
    pub async fn get(&self, row: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.caches.catch_up().await?;
        self.cached(row, namespace, name).ok_or_else(|| Status::not_found(&row.group, &row.plural, name))
    }

    /// What the cache holds now, without waiting.
    pub(crate) fn cached(&self, row: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.caches.get(storage_of(row).ok()?)?.store().get(namespace, name)
    }

    async fn read(&self, key: &str) -> Result<Option<Arc<Object>>, Status> {
        self.backend.get(key).await?.map(|kv| decode(&kv)).transpose()
    }

    /// Changes one object by compare-and-swap until it works, the
    /// transformation refuses, or the attempts are used up.
    pub(crate) async fn guaranteed_update(
        &self,
        request: &WriteRequest<'_>,
        transformation: &mut dyn Transformation,
    ) -> Result<Written, Status> {
        let row = request.row;
        let key = storage::object_key(storage_of(row)?, request.namespace, request.name);
        let mut current = self.cached(row, request.namespace, request.name);
        let mut from_cache = true;
        if current.is_none() && !transformation.expects_absent() {
            (current, from_cache) = (self.read(&key).await?, false);
        }
        for _ in 0..limits::UPDATE_ATTEMPTS_MAX {
            let change = match transformation.decide(current.as_ref()).await {
                Ok(change) => change,
                Err(error) => {
                    transformation.abandoned().await;
                    // The cache may have been behind: an error counts only against the present state.
                    if from_cache {
                        let fresh = self.read(&key).await?;
                        from_cache = false;
                        if revision(fresh.as_ref()) != revision(current.as_ref()) {
                            current = fresh;
                            continue;
                        }
                    }
                    return Err(error);
                }
            };
            match self.carry_out(request, &key, current.as_ref(), change).await {
                Ok(Ok(written)) => {
                    // What was not compared and swapped says nothing of the present state: a change that
                    // is none to the cache's object may be one to an object written a moment ago.
                    if from_cache && (request.options.dry_run || written.is_kept(current.as_ref())) {
                        let fresh = self.read(&key).await?;
                        from_cache = false;
                        if revision(fresh.as_ref()) != revision(current.as_ref()) {
                            transformation.abandoned().await;
                            current = fresh;
                            continue;
                        }
                    }
                    transformation.stored(written.object());
                    return Ok(written);
                }
                Ok(Err(present)) => {
                    transformation.abandoned().await;
                    (current, from_cache) = (present.as_ref().map(decode).transpose()?, false);
                }
                Err(error) => {
                    transformation.abandoned().await;
                    return Err(error);
                }
            }
        }
        Err(Status::conflict(&row.group, &row.plural, request.name, super::write::MODIFIED))
    }

    /// Writes a decision; the inner error is the state that was found instead.
    async fn carry_out(
        &self,
        request: &WriteRequest<'_>,
        key: &str,
        old: Option<&Arc<Object>>,
        change: Change,
    ) -> Result<Result<Written, Option<KeyValue>>, Status> {
        let expected = old.map(|old| old.revision);
        let dry_run = request.options.dry_run;
        match (change, old) {
            (Change::Keep, Some(old)) => Ok(Ok(Written::Stored { object: Arc::clone(old), created: false })),
            (Change::Keep, None) => Err(Status::not_found(&request.row.group, &request.row.plural, request.name)),
            (Change::Write { value, ttl_seconds }, _) => {
                let encoded = Arc::new(Encoded::new(&value).map_err(Status::internal)?);
                let bytes = encoded.bytes();
                if let Some(old) = old
                    && (dry_run || *old.json() == at(bytes, old.revision)?)
                {
                    let object = encoded.at(old.revision).map_err(Status::internal)?;
                    return Ok(Ok(Written::Stored { object, created: false }));
                }
                if dry_run {
                    let object = Object::from_json(bytes.clone()).map_err(Status::internal)?;
                    return Ok(Ok(Written::Stored { object: Arc::new(object), created: true }));
                }
                self.caches.handover().offer(&encoded);
                let ttl = ttl_seconds.map(std::time::Duration::from_secs);
                match self.backend.put(Put { key, expected, value: bytes.clone(), ttl }).await? {
                    Swap::Done(revision) => {
                        let object = encoded.at(revision).map_err(Status::internal)?;
                        Ok(Ok(Written::Stored { object, created: expected.is_none() }))
                    }
                    Swap::Conflict(present) => {
                        self.caches.handover().take(bytes);
                        Ok(Err(present))
                    }
                }
            }
            (Change::Remove { last }, Some(old)) => {
                let mut revision = old.revision;
                if !dry_run {
                    match self.backend.delete(key, old.revision).await? {
                        Swap::Done(at) => revision = at,
                        Swap::Conflict(present) => return Ok(Err(present)),
                    }
                }
                let json = codec::encode_at(&last, revision);
                Ok(Ok(Written::Removed(Arc::new(Object::from_json(json).map_err(Status::internal)?))))
            }
            (Change::Remove { .. }, None) => {
                Err(Status::not_found(&request.row.group, &request.row.plural, request.name))
            }
        }
    }

    /// Waits until the caches show `revision`.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        if revision > self.caches.revision() {
            let current = self.backend.current_revision().await?;
            if revision > current {
                return Err(caches::too_large(revision, current));
            }
        }
        self.caches.wait_for(revision).await
    }
}

fn at(bytes: &Bytes, revision: Revision) -> Result<Bytes, Status> {
    codec::at_revision(bytes, revision).map_err(Status::internal)
}

fn revision(object: Option<&Arc<Object>>) -> Option<Revision> {
    object.map(|object| object.revision)
}

fn decode(kv: &KeyValue) -> Result<Arc<Object>, Status> {
    codec::decode(&kv.value, kv.revision).map(Arc::new).map_err(Status::internal)
}

/// The store of a row; review kinds have none.
pub(crate) fn storage_of(row: &Resource) -> Result<&GroupResource, Status> {
    row.storage.as_ref().ok_or_else(|| Status::method_not_allowed(&row.group, &row.plural, "this operation"))
}
