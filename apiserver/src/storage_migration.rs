//! Carries out StorageVersionMigrations: every object of a resource is written
//! once more as it is, and by that in the version of storage of today.
//!
//! A write that changes no byte is none, so only what is stored in another form
//! moves. Several servers may do the same at once: the second finds nothing to
//! do. A definition whose objects are all rewritten keeps no older stored version.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionResource, Object, Reason, Status};
use skiff_client::{Client, ClientError, ListOptions, StoreEvent};
use tokio_util::sync::CancellationToken;

use crate::registry::{meta::time_text, store::Store, value::list};

const MIGRATIONS: GroupResource = GroupResource::new("storagemigration.k8s.io", "storageversionmigrations");
const DEFINITIONS: GroupResource = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
/// Upstream's name of who writes.
pub const MANAGER: &str = "storage-version-migrator-controller";
/// Objects of one page.
const PAGE_LEN: u32 = 200;
/// Pause before a migration that could not be finished goes on.
const RETRY: Duration = Duration::from_secs(5);
/// Attempts at one object.
const ATTEMPTS_MAX: u32 = 5;

/// Follows the migrations until the token is cancelled.
pub(crate) async fn run(store: &Store, client: Client, stop: CancellationToken) {
    tokio::select! {
        () = follow(store, &client) => {}
        () = stop.cancelled() => {}
    }
}

async fn follow(store: &Store, client: &Client) {
    let Some(migrations) = store.snapshot().store(&MIGRATIONS) else { return };
    let mut changes = migrations.subscribe();
    migrations.wait_synced().await;
    loop {
        let mut again = false;
        for migration in migrations.list(None) {
            if let Err(status) = migrate(store, client, &migration).await {
                tracing::warn!(component = "storage-migration", name = migration.meta.name, %status, "migrate");
                again = true;
            }
        }
        tokio::select! {
            event = changes.next() => match event {
                None => return,
                Some(StoreEvent::Applied { .. } | StoreEvent::Deleted(_) | StoreEvent::Resync) => {}
            },
            () = tokio::time::sleep(RETRY), if again => {}
        }
    }
}

fn is_over(migration: &Value) -> bool {
    let over = |condition: &&Value| {
        (condition["type"] == "Succeeded" || condition["type"] == "Failed") && condition["status"] == "True"
    };
    list(&migration["status"], "conditions").iter().any(|condition| over(&condition))
}

/// Carries one out, unless that has been done. An error is tried again.
async fn migrate(store: &Store, client: &Client, migration: &Object) -> Result<(), Status> {
    let value = migration.value().map_err(Status::internal)?;
    if is_over(&value) || migration.meta.is_deleting() {
        return Ok(());
    }
    let resource = &value["spec"]["resource"];
    let text = |name: &str| resource[name].as_str().unwrap_or_default();
    let name = &migration.meta.name;
    let named = GroupResource { group: text("group").to_owned().into(), resource: text("resource").to_owned().into() };
    let row = store.resources().preferred(&named);
    let Some(row) = row.filter(|row| row.storage.is_some()) else {
        // It may be served in a moment.
        return Err(Status::not_found(text("group"), text("resource"), ""));
    };
    let definition = format!("{}.{}", row.plural, row.group);
    let before = stored_version(store, &definition);
    let mut options = ListOptions { limit: Some(PAGE_LEN), ..ListOptions::default() };
    loop {
        let page = client.list(&row.gvr(), None, &options).await.map_err(status_of)?;
        if options.continue_token.is_none() {
            let revision = page.revision.to_string();
            report(store, name, "Running", "InProgress", "", Some(&revision)).await?;
        }
        for object in &page.items {
            if let Err(status) = rewrite(client, &row.gvr(), object).await {
                let message = format!("{}: {status}", object.key());
                return report(store, name, "Failed", "Failed", &message, None).await;
            }
        }
        options.continue_token = page.continue_token;
        if options.continue_token.is_none() {
            break;
        }
    }
    // A definition that changed meanwhile may have made objects of either version.
    if let Some(version) = before.filter(|before| stored_version(store, &definition).as_ref() == Some(before)) {
        let change = |definition: &mut Value| definition["status"]["storedVersions"] = json!([version]);
        store.edit_own(&DEFINITIONS, &definition, "status", MANAGER, &change).await?;
    }
    report(store, name, "Succeeded", "Succeeded", "", None).await
}

/// The version in which objects of a definition are stored.
fn stored_version(store: &Store, definition: &str) -> Option<String> {
    let definition = store.snapshot().store(&DEFINITIONS)?.get("", definition)?.value().ok()?;
    let version = list(&definition["spec"], "versions").iter().find(|version| version["storage"] == true)?;
    version["name"].as_str().map(str::to_owned)
}

/// Writes an object as it is. Whoever else writes it, or removes it, does the same.
async fn rewrite(client: &Client, gvr: &GroupVersionResource, object: &Arc<Object>) -> Result<(), Status> {
    let namespace = Some(object.meta.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let value = object.value().map_err(Status::internal)?;
    let mut last = Status::internal("no attempt was made");
    for attempt in 0..ATTEMPTS_MAX {
        match client.update(gvr, namespace, &object.meta.name, None, &value).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() || error.is_not_found() => return Ok(()),
            Err(error) => last = status_of(error),
        }
        tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
    }
    Err(last)
}

fn status_of(error: ClientError) -> Status {
    let text = error.to_string();
    error.into_status().unwrap_or_else(|| Status::failure(Reason::InternalError, text))
}

/// Sets a condition; one that ends the migration ends `Running`, too.
async fn report(
    store: &Store,
    name: &str,
    kind: &str,
    outcome: &str,
    message: &str,
    revision: Option<&str>,
) -> Result<(), Status> {
    let now = time_text(Timestamp::now());
    let change = |migration: &mut Value| {
        if !migration["status"].is_object() {
            migration["status"] = json!({});
        }
        let status = &mut migration["status"];
        if let (Some(revision), true) = (revision, status["resourceVersion"].as_str().unwrap_or_default().is_empty()) {
            status["resourceVersion"] = revision.into();
        }
        let reason = format!("StorageVersionMigration{outcome}");
        set(status, kind, "True", &reason, message, &now);
        if kind != "Running" {
            set(status, "Running", "False", "StorageVersionMigrationInProgress", "", &now);
        }
    };
    store.edit_own(&MIGRATIONS, name, "status", MANAGER, &change).await
}

fn set(status: &mut Value, kind: &str, value: &str, reason: &str, message: &str, now: &str) {
    let mut conditions = list(status, "conditions").to_vec();
    let there = conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == value);
    if there {
        return;
    }
    conditions.retain(|condition| condition["type"] != kind);
    conditions.push(json!({"type": kind, "status": value, "reason": reason, "message": message,
        "lastTransitionTime": now}));
    status["conditions"] = Value::Array(conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_change_once_and_tell_the_end() {
        let mut migration = json!({"status": {}});
        set(&mut migration["status"], "Running", "True", "R", "", "t1");
        set(&mut migration["status"], "Running", "True", "R", "", "t2");
        assert_eq!(migration["status"]["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(migration["status"]["conditions"][0]["lastTransitionTime"], "t1");
        assert!(!is_over(&migration));
        set(&mut migration["status"], "Running", "False", "R", "", "t3");
        set(&mut migration["status"], "Failed", "True", "F", "why", "t3");
        assert_eq!(migration["status"]["conditions"].as_array().map(Vec::len), Some(2));
        assert!(is_over(&migration));
    }
}
