//! Creation and update: one pipeline for POST, PUT, PATCH and server-side apply.
//!
//! Order: edit -> storage version -> kind's defaults -> isolation of status ->
//! managed fields -> mutating admission -> system metadata -> `prepare` ->
//! `allocate` -> validation -> validating admission -> swap.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use skiff_api::{GroupVersionKind, Object, Reason, Resource, Status, Uid};

use super::{
    Allocation, Operation, Strategy, View,
    fingerprint::fingerprint,
    meta,
    store::{Change, Store, Transformation, WriteRequest, Written},
};
use crate::{
    admission::{self, AdmissionOperation, AdmissionRequest, Home, Reinvocation},
    conversion, limits, managed,
    options::parse_version,
    storage::keys,
};

/// Upstream's text of a lost race; clients match on the reason.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// What a request makes of the present state.
pub struct Edited {
    /// The new object in the version of the request.
    pub object: Value,
    /// Server-side apply has already settled the managed fields.
    pub applied: bool,
}

/// Makes the new object out of the old one (`None` on creation by PUT or apply).
pub type Edit<'a> = &'a (dyn Fn(Option<&Value>) -> Result<Edited, Status> + Send + Sync);

struct Write<'a> {
    store: &'a Store,
    request: WriteRequest<'a>,
    storage_row: Arc<Resource>,
    strategy: Arc<dyn Strategy>,
    api_version: String,
    /// Given or generated before the first attempt, so that attempts agree.
    uid: String,
    edit: Edit<'a>,
    creating: bool,
    create_on_update: bool,
    allocation: Option<Box<dyn Allocation>>,
    admitted: Option<Admitted>,
}

/// What admission accepted, kept in case it must be told that nothing came of it.
struct Admitted {
    /// The object's name, namespace and uid.
    identity: Value,
    operation: AdmissionOperation,
}

impl Store {
    /// Creates an object; 409 when the name is taken. `body` is decoded and defaulted.
    pub async fn create(&self, request: &WriteRequest<'_>, mut body: Value) -> Result<Written, Status> {
        let given = meta::text(&body, "name").to_owned();
        let prefix = meta::text(&body, "generateName").to_owned();
        if given.is_empty() && prefix.is_empty() {
            return Err(Status::invalid(
                &request.row.group,
                &request.row.kind,
                "",
                vec![skiff_api::Cause {
                    reason: "FieldValueRequired".to_owned(),
                    field: "metadata.name".to_owned(),
                    message: "Required value: name or generateName is required".to_owned(),
                }],
            ));
        }
        let generate = given.is_empty();
        let attempts = if generate { limits::GENERATE_NAME_ATTEMPTS_MAX } else { 1 };
        let mut result = Err(Status::internal("no attempt was made"));
        for _ in 0..attempts {
            let name = if generate {
                let name = skiff_api::names::generate_name(&prefix, &mut rand::rng());
                meta::metadata_mut(&mut body).insert("name".to_owned(), json!(name));
                name
            } else {
                given.clone()
            };
            // Only a generated name is tried again.
            let object = Mutex::new(Some(if generate { body.clone() } else { std::mem::take(&mut body) }));
            let edit = |_: Option<&Value>| {
                // Somebody made and removed an object of this name while it was being created.
                let again = || Status::conflict(&request.row.group, &request.row.plural, &name, MODIFIED);
                Ok(Edited { object: object.lock().take().ok_or_else(again)?, applied: false })
            };
            let named = WriteRequest { name: &name, ..*request };
            result = self.write(&named, &edit, true).await;
            if !matches!(&result, Err(status) if status.is(Reason::AlreadyExists)) {
                break;
            }
        }
        // Said of every object with a prefix, also where the name was given.
        result.map_err(|status| if prefix.is_empty() { status } else { not_unique(status) })
    }

    /// Changes an object through `edit`: PUT, PATCH, apply, and actions of subresources.
    pub async fn update(&self, request: &WriteRequest<'_>, edit: Edit<'_>) -> Result<Written, Status> {
        self.write(request, edit, false).await
    }

    /// Like [`Store::update`], but an absent object is created (server-side apply).
    pub async fn apply(&self, request: &WriteRequest<'_>, edit: Edit<'_>) -> Result<Written, Status> {
        self.run(request, edit, false, request.subresource.is_empty()).await
    }

    async fn write(&self, request: &WriteRequest<'_>, edit: Edit<'_>, creating: bool) -> Result<Written, Status> {
        let create_on_update = request.row.create_on_update && request.subresource.is_empty();
        self.run(request, edit, creating, create_on_update).await
    }

    async fn run(
        &self,
        request: &WriteRequest<'_>,
        edit: Edit<'_>,
        creating: bool,
        create_on_update: bool,
    ) -> Result<Written, Status> {
        let mut write = Write {
            store: self,
            request: *request,
            storage_row: self.storage_row(request.row),
            strategy: self.strategy(request.row),
            api_version: request.row.api_version(),
            uid: Uid::random().0,
            edit,
            creating,
            create_on_update,
            allocation: None,
            admitted: None,
        };
        self.guaranteed_update(request, &mut write).await
    }
}

#[async_trait]
impl Transformation for Write<'_> {
    async fn decide(&mut self, old: Option<&Arc<Object>>) -> Result<Change, Status> {
        let row = self.request.row;
        match old {
            Some(_) if self.creating => {
                let mut status = Status::already_exists(&row.group, &row.plural, self.request.name);
                if old.is_some_and(|old| old.meta.is_deleting()) {
                    status.message = format!("object is being deleted: {}", status.message);
                }
                Err(status)
            }
            Some(old) => self.change(old).await,
            None if self.creating || self.create_on_update => self.create().await,
            None => Err(Status::not_found(&row.group, &row.plural, self.request.name)),
        }
    }

    fn expects_absent(&self) -> bool {
        self.creating
    }

    fn stored(&mut self, _object: &Arc<Object>) {
        self.admitted = None;
        if let Some(allocation) = self.allocation.take()
            && !self.request.options.dry_run
        {
            allocation.commit();
        }
    }

    async fn abandoned(&mut self) {
        self.allocation = None;
        if let Some(Admitted { identity, operation }) = self.admitted.take() {
            let options = self.request.options.object(options_kind(operation));
            let gvr = self.request.row.gvr();
            let gvk = self.storage_row.gvk();
            let mut request = self.admission_request(operation, None, &options, &gvr, &gvk);
            request.object = Some(identity);
            for plugin in &self.store.admission {
                plugin.abandon(&request).await;
            }
        }
    }
}

fn options_kind(operation: AdmissionOperation) -> &'static str {
    if operation == AdmissionOperation::Create { "CreateOptions" } else { "UpdateOptions" }
}

impl Write<'_> {
    async fn create(&mut self) -> Result<Change, Status> {
        let Edited { mut object, applied } = (self.edit)(None)?;
        // An update or apply that creates may name a version: upstream looks at it where there is an object only.
        if self.creating && !matches!(meta::text(&object, "resourceVersion"), "" | "0") {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if !self.creating {
            self.check_uid(&object, "")?;
        }
        self.check_identity(&mut object)?;
        let mut object = self.to_storage(object);
        self.strategy.default(Operation::Create, &mut object);
        meta::isolate(&self.storage_row, Operation::Create, &mut object);
        self.add_default_finalizers(&mut object);
        if !applied {
            self.manage(&mut object, None);
        }
        let mut object = self.admit(object, None).await?;
        let context = self.store.context(&self.request, &self.api_version);
        meta::fill_new(&mut object, &self.uid, context.now);
        self.strategy.prepare(&context, Operation::Create, &mut object);
        if self.strategy.has_generation(&object) {
            meta::set_generation(&mut object, 1);
        }
        self.allocation = self.strategy.allocate(&context, Operation::Create, &mut object).await?;
        self.validate(Operation::Create, &object)?;
        let object = self.admit_validated(object, None).await?;
        let ttl_seconds = self.strategy.ttl_seconds(&object);
        let value = self.store.stored_form(self.request.row, object).await?;
        Ok(Change::Write { value, ttl_seconds })
    }

    async fn change(&mut self, old: &Arc<Object>) -> Result<Change, Status> {
        let presented = self.store.present_one(self.request.row, old).await?;
        let old_value = presented.value().map_err(Status::internal)?;
        let Edited { mut object, applied } = if presented.api_version() == self.api_version {
            (self.edit)(Some(&old_value))?
        } else {
            (self.edit)(Some(&conversion::to_row(old_value.clone(), self.request.row)))?
        };
        self.check_identity(&mut object)?;
        self.check_preconditions(&object, old)?;
        let mut object = self.to_storage(object);
        let op = self.operation(&old_value);
        self.strategy.default(op, &mut object);
        meta::carry_over(&old_value, &mut object);
        meta::isolate(&self.storage_row, op, &mut object);
        if !applied {
            self.manage(&mut object, Some(&old_value));
        }
        let mut object = self.admit(object, Some(&old_value)).await?;
        let context = self.store.context(&self.request, &self.api_version);
        self.strategy.prepare(&context, op, &mut object);
        self.count_generation(op, &old_value, &mut object);
        self.allocation = self.strategy.allocate(&context, op, &mut object).await?;
        self.validate(op, &object)?;
        let object = self.admit_validated(object, Some(&old_value)).await?;
        if self.ends(&object) {
            self.strategy.released(&object);
            return Ok(Change::Remove { last: object });
        }
        let ttl_seconds = self.strategy.ttl_seconds(&object);
        let value = self.store.stored_form(self.request.row, object).await?;
        Ok(Change::Write { value, ttl_seconds })
    }

    fn operation<'o>(&self, old: &'o Value) -> Operation<'o>
    where
        Self: 'o,
    {
        operation(self.request.subresource, old)
    }

    fn storage_key(&self) -> String {
        let storage = self.request.row.storage.as_ref();
        storage
            .map_or_else(String::new, |resource| keys::object_key(resource, self.request.namespace, self.request.name))
    }

    fn to_storage(&self, object: Value) -> Value {
        conversion::to_row(object, &self.storage_row)
    }

    fn add_default_finalizers(&self, object: &mut Value) {
        let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
        for name in &self.request.row.default_finalizers {
            if !finalizers.iter().any(|have| have == name) {
                finalizers.push(name.to_string());
            }
        }
        if !finalizers.is_empty() {
            meta::set_finalizers(object, &finalizers);
        }
    }

    /// Name and namespace of the body must be those of the URL.
    fn check_identity(&self, object: &mut Value) -> Result<(), Status> {
        meta::check_name(object, self.request.name)?;
        meta::set_namespace(object, self.request.namespace)
    }

    fn check_preconditions(&self, object: &Value, old: &Object) -> Result<(), Status> {
        let row = self.request.row;
        match meta::text(object, "resourceVersion") {
            "" | "0" if row.unconditional_update => {}
            "" | "0" => {
                return Err(Status::invalid(
                    &row.group,
                    // Upstream names the resource here, not the kind.
                    &row.plural,
                    self.request.name,
                    vec![skiff_api::Cause {
                        reason: "FieldValueInvalid".to_owned(),
                        field: "metadata.resourceVersion".to_owned(),
                        message: "Invalid value: 0: must be specified for an update".to_owned(),
                    }],
                ));
            }
            version if version == old.meta.resource_version => {}
            version => {
                parse_version(version).map_err(Status::bad_request)?;
                return Err(Status::conflict(&row.group, &row.plural, self.request.name, MODIFIED));
            }
        }
        self.check_uid(object, old.meta.uid.as_str())
    }

    /// A uid in the body must be that of the object.
    fn check_uid(&self, object: &Value, present: &str) -> Result<(), Status> {
        let uid = meta::text(object, "uid");
        if uid.is_empty() || uid == present {
            return Ok(());
        }
        let row = self.request.row;
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {uid}, UID in object meta: {present}",
            self.storage_key()
        );
        Err(Status::conflict(&row.group, &row.plural, self.request.name, why))
    }

    /// Records who owns what the client wrote. What admission adds afterwards
    /// belongs to nobody, as upstream has it; an apply has settled its own fields.
    fn manage(&self, object: &mut Value, before: Option<&Value>) {
        let change = managed::Change {
            row: &self.storage_row,
            root: self.storage_row.schema.as_ref(),
            api_version: &self.api_version,
            manager: self.request.options.manager(),
            subresource: self.request.subresource,
        };
        managed::update(&change, before, object);
    }

    fn count_generation(&self, op: Operation<'_>, old: &Value, object: &mut Value) {
        let have = old["metadata"]["generation"].as_i64().unwrap_or(0);
        if matches!(op, Operation::Status { .. }) || !self.strategy.has_generation(object) {
            return;
        }
        let next = if self.strategy.bumps_generation(old, object) { have + 1 } else { have };
        if next > 0 {
            meta::set_generation(object, next);
        }
    }

    fn validate(&self, op: Operation<'_>, object: &Value) -> Result<(), Status> {
        let context = self.store.context(&self.request, &self.api_version);
        let name_errors = |name: &str, prefix: bool| self.strategy.validate_name(name, prefix);
        let mut causes = meta::validate(&self.storage_row, op, object, &name_errors);
        causes.extend(self.strategy.validate(&context, op, object));
        if !causes.is_empty() {
            let row = self.request.row;
            return Err(Status::invalid(&row.group, &row.kind, meta::text(object, "name"), causes));
        }
        self.request.warnings.extend(self.strategy.warnings(&context, op, object));
        Ok(())
    }

    /// Whether an update of a dying object was its last.
    fn ends(&self, object: &Value) -> bool {
        meta::is_deleting(object)
            && meta::finalizers(object).is_empty()
            && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && self.strategy.may_remove(object)
    }

    fn admission_request<'r>(
        &'r self,
        operation: AdmissionOperation,
        old: Option<&'r Value>,
        options: &'r Value,
        gvr: &'r skiff_api::GroupVersionResource,
        gvk: &'r skiff_api::GroupVersionKind,
    ) -> AdmissionRequest<'r> {
        AdmissionRequest {
            operation,
            resource: gvr,
            kind: gvk,
            subresource: self.request.subresource,
            namespace: self.request.namespace,
            name: self.request.name,
            object: None,
            old_object: old,
            options,
            user: self.request.user,
            dry_run: self.request.options.dry_run,
            snapshot: self.store.caches.snapshot(),
            home: Some(Home { store: self.store, asked: self.request.row, working: &self.storage_row }),
            warnings: Vec::new(),
            annotations: Vec::new(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// The view that a subresource such as `scale` has of the object: admission sees no more than the client.
    fn view(&self) -> Option<Arc<dyn View>> {
        let (storage, name) = (self.request.row.storage.as_ref()?, self.request.subresource);
        if name.is_empty() { None } else { self.store.registry.view_of(storage, name) }
    }

    /// Admission of a view; what it changes is carried over into the object.
    async fn admit_view(
        &self,
        view: &dyn View,
        mut object: Value,
        old: Option<&Value>,
        validating: bool,
    ) -> Result<Value, Status> {
        let (shown, old) = (view.show(&object)?, old.map(|old| view.show(old)).transpose()?);
        let options = self.request.options.object(options_kind(AdmissionOperation::Update));
        let text = |name: &str| shown[name].as_str().unwrap_or_default();
        let gvk = GroupVersionKind::parse(text("apiVersion"), text("kind"));
        let gvr = self.request.row.gvr();
        let mut request = self.admission_request(AdmissionOperation::Update, old.as_ref(), &options, &gvr, &gvk);
        request.home = None;
        request.object = Some(shown.clone());
        if validating {
            admission::validate(&self.store.admission, &mut request, self.request.warnings).await?;
            return Ok(object);
        }
        admission::mutate(&self.store.admission, &mut request, self.request.warnings).await?;
        let edited = request.object.unwrap_or_default();
        if edited != shown {
            view.edit(&edited, &mut object)?;
        }
        Ok(object)
    }

    /// Mutating admission; the kind's defaults run again over what it changed.
    async fn admit(&self, object: Value, old: Option<&Value>) -> Result<Value, Status> {
        if let Some(view) = self.view() {
            return self.admit_view(&*view, object, old, false).await;
        }
        let operation = if old.is_some() { AdmissionOperation::Update } else { AdmissionOperation::Create };
        let options = self.request.options.object(options_kind(operation));
        let (gvr, gvk) = (self.request.row.gvr(), self.storage_row.gvk());
        let before = fingerprint(&object);
        let mut request = self.admission_request(operation, old, &options, &gvr, &gvk);
        request.object = Some(object);
        admission::mutate(&self.store.admission, &mut request, self.request.warnings).await?;
        if let Some(object) = &mut request.object {
            self.request.warnings.repeated_owners(&meta::dedup_owners(object), true);
        }
        if request.object.as_ref().map(fingerprint) != Some(before) {
            request.settle();
        }
        Ok(request.object.unwrap_or_default())
    }

    async fn admit_validated(&mut self, object: Value, old: Option<&Value>) -> Result<Value, Status> {
        let operation = if old.is_some() { AdmissionOperation::Update } else { AdmissionOperation::Create };
        if let Some(view) = self.view() {
            return self.admit_view(&*view, object, old, true).await;
        }
        self.admitted = Some(Admitted { identity: identity(&object), operation });
        let options = self.request.options.object(options_kind(operation));
        let (gvr, gvk) = (self.request.row.gvr(), self.storage_row.gvk());
        let mut request = self.admission_request(operation, old, &options, &gvr, &gvk);
        request.object = Some(object);
        admission::validate(&self.store.admission, &mut request, self.request.warnings).await?;
        Ok(request.object.unwrap_or_default())
    }
}

/// A taken name of an object that leaves its name to the server: to be tried again.
fn not_unique(mut status: Status) -> Status {
    if let (true, Some(details)) = (status.is(Reason::AlreadyExists), &mut status.details) {
        details.retry_after_seconds = limits::RETRY_AFTER_SECONDS;
        status.message.push_str(", the server was not able to generate a unique name for the object");
    }
    status
}

/// What an object is known by when the rest of it has gone to the store.
fn identity(object: &Value) -> Value {
    let metadata = ["name", "namespace", "uid"].map(|name| (name.to_owned(), json!(meta::text(object, name))));
    json!({"metadata": Map::from_iter(metadata)})
}

/// The operation of a write below an existing object.
pub(crate) fn operation<'o>(subresource: &str, old: &'o Value) -> Operation<'o> {
    match subresource {
        "" => Operation::Update { old },
        "status" => Operation::Status { old },
        other => Operation::Subresource { name: subresource_name(other), old },
    }
}

/// Subresources that share the kind have known names.
fn subresource_name(name: &str) -> &'static str {
    const NAMES: [&str; 7] = ["scale", "finalize", "approval", "ephemeralcontainers", "resize", "binding", "eviction"];
    NAMES.into_iter().find(|known| *known == name).unwrap_or("")
}
