//! Keeps the compiled rules, the mandatory objects and the condition
//! `Dangling` in step with the stored objects.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionResource};
use skiff_client::{Client, ClientError, Patch};
use tokio_util::sync::CancellationToken;

use super::Flow;
use crate::{
    bootstrap::flow_control,
    registry::{
        meta::time_text,
        value::{list, name, text},
    },
};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: GroupResource = GroupResource::new(GROUP, "flowschemas");
const LEVELS: GroupResource = GroupResource::new(GROUP, "prioritylevelconfigurations");
/// Upstream's name of who writes the condition.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Pause before a write that failed is tried again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(10);

/// Works until the token is cancelled.
pub(crate) async fn run(flow: &Flow, client: Client, snapshot: skiff_client::Snapshot, stop: CancellationToken) {
    tokio::select! {
        () = follow(flow, &client, &snapshot) => {}
        () = stop.cancelled() => {}
    }
}

async fn follow(flow: &Flow, client: &Client, snapshot: &skiff_client::Snapshot) {
    let (Some(schemas), Some(levels)) = (snapshot.store(&SCHEMAS), snapshot.store(&LEVELS)) else { return };
    let (mut schema_changes, mut level_changes) = (schemas.subscribe(), levels.subscribe());
    schemas.wait_synced().await;
    levels.wait_synced().await;
    loop {
        let values = |store: &skiff_client::Store| -> Vec<Value> {
            store.list(None).iter().filter_map(|object| object.value().ok()).collect()
        };
        let (present_schemas, present_levels) = (values(&schemas), values(&levels));
        flow.set(&present_schemas, &present_levels);
        // Before the bootstrap has made its objects there is nothing to repair.
        let begun = !present_levels.is_empty();
        let failed = begun && repair(client, &present_schemas, &present_levels).await;
        tokio::select! {
            event = schema_changes.next() => if event.is_none() { return },
            event = level_changes.next() => if event.is_none() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Restores what must be there and writes conditions; true when something has to be tried again.
async fn repair(client: &Client, schemas: &[Value], levels: &[Value]) -> bool {
    let mut failed = false;
    for (resource, object) in flow_control::missing(schemas, levels) {
        let done = match object["metadata"].get("resourceVersion") {
            None => client.create(&resource, None, &object).await,
            Some(_) => client.update(&resource, None, name(&object), None, &object).await,
        };
        failed |= report(done.map(drop));
    }
    for schema in schemas {
        let Some(condition) = dangling(schema, levels, Timestamp::now()) else { continue };
        let body = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema",
            "metadata": {"name": name(schema), "uid": schema["metadata"]["uid"]}, "status": {"conditions": [condition]}});
        let patch = Patch::Apply { manager: MANAGER.to_owned(), force: true, body };
        let resource = GroupVersionResource::new(GROUP, "v1", "flowschemas");
        failed |= report(client.patch(&resource, None, name(schema), Some("status"), &patch).await.map(drop));
    }
    failed
}

fn report(result: Result<(), ClientError>) -> bool {
    match result {
        Ok(()) => false,
        // Somebody was faster; their event brings this back.
        Err(error) if error.is_already_exists() || error.is_not_found() => false,
        Err(error) => {
            tracing::debug!(component = "flow", %error, "keep flow control objects");
            true
        }
    }
}

/// The condition that the schema must show; `None` when it does.
fn dangling(schema: &Value, levels: &[Value], now: Timestamp) -> Option<Value> {
    let level = text(&schema["spec"]["priorityLevelConfiguration"], "name");
    let there = levels.iter().any(|object| name(object) == level);
    let (status, reason) = if there { ("False", "Found") } else { ("True", "NotFound") };
    let message = if there {
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists")
    } else {
        format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} but there is no such object"
        )
    };
    let before = list(&schema["status"], "conditions").iter().find(|condition| text(condition, "type") == "Dangling");
    let since = match before {
        Some(before) if text(before, "status") == status => {
            if text(before, "reason") == reason && text(before, "message") == message {
                return None;
            }
            text(before, "lastTransitionTime").to_owned()
        }
        _ => time_text(now),
    };
    Some(
        json!({"type": "Dangling", "status": status, "lastTransitionTime": since, "reason": reason, "message": message}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_whether_its_level_is_there() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut schema = json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let missing = dangling(&schema, &[], now).unwrap();
        assert_eq!((text(&missing, "status"), text(&missing, "reason")), ("True", "NotFound"));
        schema["status"] = json!({"conditions": [missing]});
        assert_eq!(dangling(&schema, &[], now), None);
        let levels = [json!({"metadata": {"name": "l"}})];
        assert_eq!(dangling(&schema, &levels, now).unwrap()["status"], "False");
    }
}
