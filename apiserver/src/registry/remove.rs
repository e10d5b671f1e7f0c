//! Deletion: preconditions, finalizers by propagation policy, grace, and the
//! moment the object leaves the store.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::{Object, Status};

use super::{
    Operation, Strategy, meta,
    store::{Change, Store, Transformation, WriteRequest, Written},
};
use crate::{
    admission::{self, AdmissionOperation, AdmissionRequest, Home, Reinvocation},
    options::DeleteOptions,
};

struct Remove<'a> {
    store: &'a Store,
    request: WriteRequest<'a>,
    options: &'a DeleteOptions,
    strategy: Arc<dyn Strategy>,
    api_version: String,
    released: Option<Value>,
}

impl Store {
    /// Deletes an object, or begins to.
    pub async fn delete(&self, request: &WriteRequest<'_>, options: &DeleteOptions) -> Result<Written, Status> {
        let mut remove = Remove {
            store: self,
            request: *request,
            options,
            strategy: self.strategy(request.row),
            api_version: request.row.api_version(),
            released: None,
        };
        self.guaranteed_update(request, &mut remove).await
    }
}

#[async_trait]
impl Transformation for Remove<'_> {
    async fn decide(&mut self, old: Option<&Arc<Object>>) -> Result<Change, Status> {
        let row = self.request.row;
        let Some(old) = old else {
            return Err(Status::not_found(&row.group, &row.plural, self.request.name));
        };
        self.check_preconditions(old)?;
        let value = old.value().map_err(Status::internal)?;
        let context = self.store.context(&self.request, &self.api_version);
        self.strategy.validate_delete(&context, &value)?;
        let presented = self.store.present_one(row, old).await?;
        if Arc::ptr_eq(&presented, old) {
            self.admit(&value).await?;
        } else {
            self.admit(&presented.value().map_err(Status::internal)?).await?;
        }

        let mut next = value.clone();
        let finalizers = meta::deletion_finalizers(&value, self.options.policy(), row.default_orphan);
        meta::set_finalizers(&mut next, &finalizers);
        let waits = self.begin(&context, &value, &mut next);
        let removable = finalizers.is_empty() && !waits && self.strategy.may_remove(&next);
        if removable {
            self.released = Some(value);
            return Ok(Change::Remove { last: next });
        }
        if !meta::is_deleting(&value) {
            self.strategy.prepare(&context, Operation::Delete, &mut next);
        }
        Ok(if next == value { Change::Keep } else { Change::Write { value: next, ttl_seconds: None } })
    }

    fn stored(&mut self, _object: &Arc<Object>) {
        if let Some(value) = self.released.take()
            && !self.request.options.dry_run
        {
            self.strategy.released(&value);
        }
    }

    async fn abandoned(&mut self) {
        self.released = None;
    }
}

impl Remove<'_> {
    fn check_preconditions(&self, old: &Object) -> Result<(), Status> {
        let row = self.request.row;
        let conflict = |what: &str, wanted: &str, have: &str, hint: &str| {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({have}). The object might have been {hint}"
            );
            Err(Status::conflict(&row.group, &row.plural, self.request.name, why))
        };
        if let Some(uid) = &self.options.uid
            && uid != old.meta.uid.as_str()
        {
            return conflict("UID", uid, old.meta.uid.as_str(), "deleted and then recreated");
        }
        if let Some(version) = &self.options.resource_version
            && *version != old.meta.resource_version
        {
            return conflict("ResourceVersion", version, &old.meta.resource_version, "modified");
        }
        Ok(())
    }

    async fn admit(&self, value: &Value) -> Result<(), Status> {
        let options = self.options.object();
        let working = self.store.storage_row(self.request.row);
        let (gvr, gvk) = (self.request.row.gvr(), working.gvk());
        let mut request = AdmissionRequest {
            operation: AdmissionOperation::Delete,
            resource: &gvr,
            kind: &gvk,
            subresource: self.request.subresource,
            namespace: self.request.namespace,
            name: self.request.name,
            object: None,
            old_object: Some(value),
            options: &options,
            user: self.request.user,
            dry_run: self.request.options.dry_run,
            snapshot: self.store.caches.snapshot(),
            home: Some(Home { store: self.store, asked: self.request.row, working: &working }),
            warnings: Vec::new(),
            annotations: Vec::new(),
            reinvocation: Reinvocation::default(),
        };
        admission::mutate(&self.store.admission, &mut request, self.request.warnings).await?;
        admission::validate(&self.store.admission, &mut request, self.request.warnings).await
    }

    /// Marks the deletion with its time; returns whether the grace period must still pass.
    fn begin(&self, context: &super::RequestContext<'_>, old: &Value, next: &mut Value) -> bool {
        let grace = self.strategy.grace_period(old, self.options.grace_period_seconds).unwrap_or(0).max(0);
        if meta::is_deleting(old) {
            let have = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            // A period may only become shorter, and only by request.
            if self.options.grace_period_seconds.is_none() || grace >= have {
                return have > 0;
            }
            mark(next, context.now, grace);
            return grace > 0;
        }
        mark(next, context.now, grace);
        if let Some(generation) = old["metadata"]["generation"].as_i64().filter(|generation| *generation > 0) {
            meta::set_generation(next, generation + 1);
        }
        grace > 0
    }
}

fn mark(object: &mut Value, now: jiff::Timestamp, grace: i64) {
    let at = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    let metadata = meta::metadata_mut(object);
    metadata.insert("deletionTimestamp".to_owned(), json!(meta::time_text(at)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
}
