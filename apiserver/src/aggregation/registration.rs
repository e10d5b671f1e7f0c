//! APIServices of what is served here: one per built-in group version and per
//! group version of custom resources, as upstream keeps them.
//!
//! Objects carry the label `kube-aggregator.kubernetes.io/automanaged`; one
//! without it is its owner's and left alone. Nothing is deleted before the
//! definitions are known.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use skiff_api::GroupResource;
use skiff_client::{Client, ClientError, DeleteOptions};

use super::{API_SERVICES, API_SERVICES_V1, Aggregator, priorities};
use crate::{
    limits::BOOTSTRAP_CONCURRENCY,
    registry::value::{child, copy_field, list, set, text, text_at},
};

const DEFINITIONS: GroupResource = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Upstream registers no object for the group of APIServices itself.
const OWN_GROUP: &str = "apiregistration.k8s.io";

/// What an automatically kept object must say: spec and label.
type Wanted = BTreeMap<String, (Value, &'static str)>;

pub(super) async fn run(aggregator: &Arc<Aggregator>, client: &Client) {
    let (Some(services), Some(definitions)) =
        (aggregator.snapshot.store(&API_SERVICES), aggregator.snapshot.store(&DEFINITIONS))
    else {
        return;
    };
    let (mut service_changes, mut definition_changes) = (services.subscribe(), definitions.subscribe());
    services.wait_synced().await;
    definitions.wait_synced().await;
    loop {
        let mut wanted = builtin();
        for (group, version) in aggregator.added.lock().iter() {
            wanted.insert(
                format!("{version}.{group}"),
                (spec(group, version, priorities::builtin(group, version).unwrap_or(priorities::CUSTOM)), "true"),
            );
        }
        custom(&mut wanted, definitions.list(None).iter().filter_map(|object| object.value().ok()));
        let present: Vec<Value> = services.list(None).iter().filter_map(|object| object.value().ok()).collect();
        let failed = stream::iter(deeds(&wanted, &present))
            .map(|deed| async move { deed.run(client).await })
            .buffer_unordered(BOOTSTRAP_CONCURRENCY)
            .fold(0, |failed, result| async move {
                match result {
                    Ok(()) => failed,
                    Err(error) => {
                        tracing::warn!(component = "aggregator", %error, "keep APIServices of this server");
                        failed + 1
                    }
                }
            })
            .await;
        tokio::select! {
            event = service_changes.next() => if event.is_none() { return },
            event = definition_changes.next() => if event.is_none() { return },
            () = aggregator.added_changed.notified() => {}
            () = tokio::time::sleep(super::limits::RETRY_MAX), if failed > 0 => {}
        }
    }
}

fn spec(group: &str, version: &str, (group_priority, version_priority): (i64, i64)) -> Value {
    let mut spec =
        json!({"version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    spec
}

fn builtin() -> Wanted {
    let mut wanted = Wanted::new();
    for row in skiff_api::resources::builtin().iter().filter(|row| row.group != OWN_GROUP) {
        if let Some(priority) = priorities::builtin(&row.group, &row.version) {
            let name = format!("{}.{}", row.version, row.group);
            wanted.entry(name).or_insert_with(|| (spec(&row.group, &row.version, priority), "onstart"));
        }
    }
    wanted
}

fn custom(wanted: &mut Wanted, definitions: impl Iterator<Item = Value>) {
    for definition in definitions {
        let group = text(&definition["spec"], "group");
        for version in list(&definition["spec"], "versions").iter().filter(|version| version["served"] == true) {
            let version = text(version, "name");
            let name = format!("{version}.{group}");
            wanted.entry(name).or_insert_with(|| (spec(group, version, priorities::CUSTOM), "true"));
        }
    }
}

/// One write.
#[derive(Debug, PartialEq)]
enum Deed {
    Create(Value),
    Update(Value),
    Delete { name: String, uid: String },
}

/// What is to be done so that `present` is what is wanted.
fn deeds(wanted: &Wanted, present: &[Value]) -> Vec<Deed> {
    let name = |object: &Value| text_at(object, &["metadata", "name"]).to_owned();
    let mut deeds = Vec::new();
    for object in present {
        let label = text_at(object, &["metadata", "labels", AUTOMANAGED]);
        let name = name(object);
        match wanted.get(&name) {
            _ if label.is_empty() => {}
            None => deeds.push(Deed::Delete { uid: text_at(object, &["metadata", "uid"]).to_owned(), name }),
            Some((spec, label)) => {
                let mut merged = object.clone();
                for field in ["group", "version", "groupPriorityMinimum", "versionPriority", "service"] {
                    copy_field(child(&mut merged, "spec"), spec, field);
                }
                set(child(child(&mut merged, "metadata"), "labels"), AUTOMANAGED, *label);
                if merged != *object {
                    deeds.push(Deed::Update(merged));
                }
            }
        }
    }
    for (wanted, (spec, label)) in wanted {
        if !present.iter().any(|object| name(object) == *wanted) {
            deeds.push(Deed::Create(json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": wanted, "labels": {AUTOMANAGED: label}}, "spec": spec,
            })));
        }
    }
    deeds
}

impl Deed {
    async fn run(self, client: &Client) -> Result<(), ClientError> {
        let result = match &self {
            Deed::Create(object) => client.create(&API_SERVICES_V1, None, object).await.map(drop),
            Deed::Update(object) => {
                let name = text_at(object, &["metadata", "name"]);
                client.update(&API_SERVICES_V1, None, name, None, object).await.map(drop)
            }
            Deed::Delete { name, uid } => {
                let options = DeleteOptions { uid: Some(uid.clone()), ..DeleteOptions::default() };
                client.delete(&API_SERVICES_V1, None, name, &options).await.map(drop)
            }
        };
        match result {
            // The event of the other change brings this back.
            Err(error) if error.is_already_exists() || error.is_not_found() || is_conflict(&error) => Ok(()),
            result => result,
        }
    }
}

fn is_conflict(error: &ClientError) -> bool {
    matches!(error, ClientError::Api(status) if status.is(skiff_api::Reason::Conflict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_has_its_object_and_what_is_not_loses_it() {
        let mut wanted = builtin();
        assert!(
            wanted.contains_key("v1.")
                && wanted.contains_key("v1.apps")
                && !wanted.contains_key("v1.apiregistration.k8s.io")
        );
        custom(
            &mut wanted,
            [json!({"spec": {"group": "g.example", "versions": [{"name": "v1", "served": true}, {"name": "v2", "served": false}]}})].into_iter(),
        );
        let made: Vec<Value> = deeds(&wanted, &[])
            .into_iter()
            .map(|deed| match deed {
                Deed::Create(object) => object,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(made.len(), wanted.len());
        assert!(deeds(&wanted, &made).is_empty(), "a second look has nothing to do");
        wanted.remove("v1.g.example");
        assert!(matches!(&deeds(&wanted, &made)[..], [Deed::Delete { name, .. }] if name == "v1.g.example"));
    }

    #[test]
    fn an_owners_object_is_left_alone_and_a_changed_one_is_put_right() {
        let wanted = builtin();
        let mut made: Vec<Value> = deeds(&wanted, &[])
            .into_iter()
            .filter_map(|deed| if let Deed::Create(object) = deed { Some(object) } else { None })
            .collect();
        made[0]["spec"]["versionPriority"] = 999.into();
        assert!(matches!(&deeds(&wanted, &made)[..], [Deed::Update(_)]));
        made[0]["metadata"]["labels"] = json!({});
        assert!(deeds(&wanted, &made).is_empty());
    }
}
