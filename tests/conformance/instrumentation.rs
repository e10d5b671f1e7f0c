//! Rows of the area instrumentation: events in their two versions.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    api::{core, group, merge},
    context::{Context, LIMIT, eventually},
    operations::{Operations, contains, three},
};

mod table {
    use super::*;

    crate::rows! { "instrumentation";
        "Events" {
            "should delete a collection of events" => |c| collection(c, true),
            "should manage the lifecycle of an event" => |c| lifecycle(c, true),
        }
        "Events API" {
            "should delete a collection of events" => |c| collection(c, false),
            "should ensure that an event can be fetched, patched, deleted, and listed" => |c| lifecycle(c, false),
        }
    }
}

pub fn tests() -> Vec<Test> {
    table::tests()
}

fn path(namespace: &str, is_core: bool) -> String {
    if is_core { core(namespace, "events") } else { group("events.k8s.io/v1", namespace, "events") }
}

fn event(namespace: &str, is_core: bool) -> Value {
    let object = json!({"kind": "Pod", "name": "some-pod", "namespace": namespace});
    if is_core {
        json!({"involvedObject": object, "reason": "Test", "type": "Normal", "message": "a message",
            "source": {"component": "e2e"}})
    } else {
        json!({"regarding": object, "reason": "Test", "type": "Normal", "note": "a message", "action": "Do",
            "eventTime": "2025-01-02T03:04:05.678901Z", "reportingController": "e2e", "reportingInstance": "e2e-1"})
    }
}

async fn collection(context: Context, is_core: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = path(&namespace, is_core);
    for number in 1..=3 {
        let mut body = event(&namespace, is_core);
        merge(
            &mut body,
            &json!({"metadata": {"name": format!("event-{number}"), "labels": {"testevent-set": "true"}}}),
        );
        context.create(&path, &body).await?;
    }
    let selected = format!("{path}?labelSelector=testevent-set=true");
    ensure!(context.list(&selected).await?.len() == 3, "not three");
    context.delete(&selected).await?;
    eventually("no event is left", LIMIT, || async {
        let left = context.list(&selected).await?;
        ensure!(left.is_empty(), "{} left", left.len());
        Ok(())
    })
    .await
}

async fn lifecycle(context: Context, is_core: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let (here, there) = (path(&namespace, is_core), path(&namespace, !is_core));
    let mut body = event(&namespace, is_core);
    merge(&mut body, &json!({"metadata": {"name": "seen-twice"}}));
    context.create(&here, &body).await?;
    contains(&context.get(&format!("{here}/seen-twice")).await?, &event(&namespace, is_core))?;
    let text = if is_core { "note" } else { "message" };
    let other = context.get(&format!("{there}/seen-twice")).await?;
    ensure!(other[text] == "a message", "the other version shows {other}");
    let own = if is_core { "message" } else { "note" };
    context.merge(&format!("{here}/seen-twice"), json!({own: "patched"})).await?;
    ensure!(
        context.get(&format!("{there}/seen-twice")).await?[text] == "patched",
        "the patch is not in the other version"
    );
    if !is_core {
        let series = json!({"series": {"count": 100, "lastObservedTime": "2025-01-02T04:00:00.000001Z"}});
        context.modify(&format!("{here}/seen-twice"), |event| merge(event, &series)).await?;
        contains(&context.get(&format!("{here}/seen-twice")).await?, &series)?;
    }
    let field = if is_core { "involvedObject.name" } else { "regarding.name" };
    let selected = context.list(&format!("{here}?fieldSelector={field}=some-pod")).await?;
    ensure!(selected.len() == 1, "{} by field", selected.len());
    let version = if is_core { "v1" } else { "events.k8s.io/v1" };
    let objects = three(&event(&namespace, is_core));
    Operations { version, kind: "Event", plural: "events", namespace: Some(namespace), objects, status: None }
        .run(&context)
        .await
}
