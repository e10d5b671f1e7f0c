//! Custom resources: definitions become rows, stores and strategies while the
//! server runs.
//!
//! One task follows the definitions. A definition whose names are free gets
//! its watch cache first, then its rows (nobody can see a resource that has no
//! cache), then the condition `Established`. A definition being deleted loses
//! its objects first, then its finalizer, then its rows.

pub(crate) mod check;
mod conditions;
pub(crate) mod field_path;
mod formats;
mod kind;
mod nulls;
mod patterns;
mod review;
pub(crate) mod rules;
pub(crate) mod schema_validation;
mod strategy;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Resource, Status, resource::Origin};
use skiff_client::StoreEvent;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use conditions::Taken;

use crate::{
    authn::UserInfo,
    options::{DeleteOptions, WriteOptions},
    registry::{
        Custom, meta, own_user,
        store::{Store, WriteRequest},
    },
    warnings::Warnings,
    webhook::Webhooks,
};

pub(crate) use formats::KNOWN as FORMATS;
pub(crate) use kind::CustomKind;
pub(crate) use strategy::{CustomScale, CustomStrategy};

/// Keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Pause before a definition that could not be handled is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Objects of a dying definition deleted at the same time.
const CLEANUP_CONCURRENCY: usize = 8;

/// The store of a definition's objects.
fn storage(definition: &Value) -> GroupResource {
    let text = |value: &Value| Cow::Owned(value.as_str().unwrap_or_default().to_owned());
    let spec = &definition["spec"];
    GroupResource { group: text(&spec["group"]), resource: text(&spec["names"]["plural"]) }
}

const DEFINITIONS: GroupResource = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");

/// A definition that is served.
struct Served {
    resource: GroupResource,
    /// Of its spec with the names it got.
    fingerprint: u64,
}

/// What the task knows between two events.
#[derive(Default)]
struct Followed<'a> {
    served: HashMap<String, Served>,
    /// Definitions whose objects are being deleted. Nobody waits for these: one whose conversion webhook is gone takes
    /// its time.
    dying: HashSet<String>,
    clean_ups: FuturesUnordered<BoxFuture<'a, (String, bool)>>,
}

fn fingerprint(spec: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    spec.to_string().hash(&mut hasher);
    hasher.finish()
}

/// False, and a line in the log, when a definition must be tried again.
fn handled(definition: &str, result: Result<(), Status>) -> bool {
    if let Err(error) = &result {
        tracing::warn!(component = "custom-resources", definition, %error, "handle definition");
    }
    result.is_ok()
}

/// Follows the definitions.
pub(crate) struct CustomResources {
    store: Arc<Store>,
    webhooks: Webhooks,
    user: UserInfo,
    /// All definitions known at start are served.
    ready: watch::Sender<bool>,
}

impl CustomResources {
    pub fn new(store: Arc<Store>, webhooks: Webhooks) -> CustomResources {
        CustomResources { store, webhooks, user: own_user(), ready: watch::Sender::new(false) }
    }

    /// Tells when the definitions known at start are served.
    pub fn is_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Waits until the definitions known at start are served.
    pub async fn ready(&self) {
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Works until the token is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::select! {
            () = self.follow() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow(&self) {
        let Some(definitions) = self.store.snapshot().store(&DEFINITIONS) else { return };
        let mut changes = definitions.subscribe();
        definitions.wait_synced().await;
        let mut followed = Followed::default();
        let mut again = self.all(&definitions, &mut followed).await;
        self.ready.send_replace(true);
        loop {
            let event = tokio::select! {
                event = changes.next() => event,
                Some((name, done)) = followed.clean_ups.next() => {
                    followed.dying.remove(&name);
                    again |= !done;
                    continue;
                }
                () = tokio::time::sleep(RETRY), if again => Some(StoreEvent::Resync),
            };
            again |= match event {
                None => return,
                Some(StoreEvent::Resync) => {
                    again = false;
                    self.all(&definitions, &mut followed).await
                }
                Some(StoreEvent::Applied { new, .. }) => !self.one(&new, &mut followed).await,
                Some(StoreEvent::Deleted(last)) => {
                    self.remove(&last.meta.name, &mut followed.served);
                    // Its names are free for others now.
                    self.all(&definitions, &mut followed).await
                }
            };
        }
    }

    /// Handles every definition; true when some must be tried again.
    async fn all<'a>(&'a self, definitions: &skiff_client::Store, followed: &mut Followed<'a>) -> bool {
        let present = definitions.list(None);
        let served = &mut followed.served;
        let gone: Vec<String> =
            served.keys().filter(|name| !present.iter().any(|object| object.meta.name == **name)).cloned().collect();
        for name in gone {
            self.remove(&name, served);
        }
        let mut again = false;
        for object in present {
            again |= !self.one(&object, followed).await;
        }
        again
    }

    /// Handles one definition; false when it must be tried again.
    async fn one<'a>(&'a self, object: &Arc<Object>, followed: &mut Followed<'a>) -> bool {
        let name = &object.meta.name;
        if object.meta.is_deleting() {
            if followed.dying.insert(name.clone()) {
                let object = object.clone();
                followed.clean_ups.push(Box::pin(async move {
                    let result = match object.value() {
                        Ok(definition) => self.clean_up(&definition).await,
                        Err(error) => Err(Status::internal(error)),
                    };
                    (object.meta.name.clone(), handled(&object.meta.name, result))
                }));
            }
            return true;
        }
        let result = match object.value() {
            Ok(definition) => self.serve(&definition, &mut followed.served).await,
            Err(error) => Err(Status::internal(error)),
        };
        handled(name, result)
    }

    async fn serve(&self, definition: &Value, served: &mut HashMap<String, Served>) -> Result<(), Status> {
        let resource = storage(definition);
        let names = conditions::names(definition, &self.taken(definition, &resource)?);
        let established = conditions::is_true(&definition["status"], "Established");
        if names.conflict.is_none() || established {
            let mut named = definition.clone();
            named["spec"]["names"] = names.accepted.clone();
            let fingerprint = fingerprint(&named["spec"]);
            let name = meta::text(definition, "name");
            // What is served is replaced only when it changes: clients' caches depend on it.
            if served.get(name).is_none_or(|served| served.fingerprint != fingerprint) {
                self.install(&named, &resource).await?;
                served.insert(name.to_owned(), Served { resource, fingerprint });
            }
        }
        let status = conditions::status(definition, &names, jiff::Timestamp::now());
        if status != definition["status"] {
            self.write(definition, "status", &|object| object["status"] = status.clone()).await?;
        }
        Ok(())
    }

    /// Cache, behaviour, rows: in this order, so that nobody sees what is not complete.
    async fn install(&self, definition: &Value, resource: &GroupResource) -> Result<(), Status> {
        let kind = CustomKind::new(definition, &self.webhooks).map_err(Status::internal)?;
        let rows = kind.served(definition);
        self.store.caches.add(resource.clone()).await?;
        self.store.registry.serve_custom(
            resource,
            Custom {
                kind: Arc::new(kind),
                strategy: Arc::new(CustomStrategy::new(definition)),
                scale: CustomScale::new(definition).map(|scale| Arc::new(scale) as _),
            },
        );
        self.store.resources.replace(resource, rows);
        Ok(())
    }

    /// The names of the group that are not free: those accepted for other definitions, and built-in ones.
    fn taken(&self, definition: &Value, resource: &GroupResource) -> Result<Taken, Status> {
        let mut taken = Taken::default();
        let own = meta::text(definition, "name");
        let others = self.store.snapshot().store(&DEFINITIONS).map(|store| store.list(None)).unwrap_or_default();
        for other in others.iter().filter(|other| other.meta.name != own) {
            let other = other.value().map_err(Status::internal)?;
            if other["spec"]["group"] == *resource.group {
                taken.add(&other["status"]["acceptedNames"]);
            }
        }
        let table = self.store.resources.table();
        for row in table.rows().iter().filter(|row| row.group == resource.group && row.origin != Origin::Custom) {
            taken.add(&json!({"plural": row.plural, "singular": row.singular, "kind": row.kind,
                "listKind": row.list_kind, "shortNames": row.short_names}));
        }
        Ok(taken)
    }

    async fn clean_up(&self, definition: &Value) -> Result<(), Status> {
        if !meta::finalizers(definition).contains(&CLEANUP_FINALIZER) {
            return Ok(());
        }
        let resource = storage(definition);
        // After a restart nothing is known of the objects yet.
        if self.store.registry.custom_of(&resource).is_none() {
            self.install(definition, &resource).await?;
        }
        let wanted = ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
        let status = conditions::terminating(definition, wanted, jiff::Timestamp::now());
        if status != definition["status"] {
            self.write(definition, "status", &|object| object["status"] = status.clone()).await?;
        }
        if let Some(row) = self.store.registry.custom_of(&resource).and_then(|kind| kind.storage_row())
            && let Some(store) = self.store.snapshot().store(&resource)
        {
            let objects = store.list(None);
            let row = &row;
            let deletions: Vec<_> = objects.iter().map(|object| self.delete(row, object)).collect();
            let results: Vec<_> = stream::iter(deletions).buffer_unordered(CLEANUP_CONCURRENCY).collect().await;
            results.into_iter().collect::<Result<Vec<()>, Status>>()?;
            self.store.caches.catch_up().await?;
            if !store.is_empty() {
                return Err(Status::service_unavailable("objects of this definition still have finalizers"));
            }
        }
        self.write(definition, "", &|object| {
            let kept: Vec<String> = meta::finalizers(object)
                .into_iter()
                .filter(|name| *name != CLEANUP_FINALIZER)
                .map(str::to_owned)
                .collect();
            meta::set_finalizers(object, &kept);
        })
        .await
    }

    async fn delete(&self, row: &Arc<Resource>, object: &Object) -> Result<(), Status> {
        let (options, warnings) = (WriteOptions::default(), Warnings::default());
        let request = WriteRequest {
            row,
            subresource: "",
            namespace: &object.meta.namespace,
            name: &object.meta.name,
            user: &self.user,
            options: &options,
            warnings: &warnings,
        };
        match self.store.delete(&request, &DeleteOptions::default()).await {
            Err(status) if !status.is(skiff_api::Reason::NotFound) => Err(status),
            _ => Ok(()),
        }
    }

    fn remove(&self, name: &str, served: &mut HashMap<String, Served>) {
        if let Some(Served { resource, .. }) = served.remove(name) {
            self.store.resources.replace(&resource, Vec::new());
            self.store.registry.forget_custom(&resource);
            self.store.caches.remove(&resource);
        }
    }

    /// Edits a definition under the server's own identity.
    async fn write(
        &self,
        definition: &Value,
        subresource: &str,
        change: &(dyn Fn(&mut Value) + Send + Sync),
    ) -> Result<(), Status> {
        let name = meta::text(definition, "name");
        self.store.edit_own(&DEFINITIONS, name, subresource, "kube-apiserver", change).await
    }
}
