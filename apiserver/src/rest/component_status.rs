//! `componentstatuses`: the health of the control plane, for tools that still ask.
//!
//! Nothing is stored. Scheduler and controllers share this process, so they
//! answer when it does; the datastore is asked.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};
use skiff_api::{Object, Revision, Status};

use super::{
    Call, answer,
    list::{Page, selection},
};
use crate::{body::Body, options::ListOptions, render::ListMeta};

/// Whether the call is about component statuses.
pub(super) fn is(call: &Call<'_>) -> bool {
    call.row.group.is_empty() && call.row.plural == "componentstatuses"
}

pub(super) async fn get(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let objects = objects(datastore(call).await)?;
    let found = objects.iter().find(|object| object.meta.name == call.info.name);
    answer(call, found.ok_or_else(|| call.not_found())?, 200).await
}

pub(super) async fn page(call: &Call<'_>, options: &ListOptions) -> Result<Page, Status> {
    let selection = selection(call, options)?;
    let mut objects = objects(datastore(call).await)?;
    objects.retain(|object| selection.matches(object));
    Ok(Page { objects, meta: ListMeta { revision: Revision::ZERO, ..ListMeta::default() } })
}

/// What is wrong with the datastore.
async fn datastore(call: &Call<'_>) -> Result<(), String> {
    call.store.caches.catch_up().await.map(drop).map_err(|status| status.message)
}

fn objects(datastore: Result<(), String>) -> Result<Vec<Arc<Object>>, Status> {
    let all = [status("controller-manager", &Ok(())), status("etcd-0", &datastore), status("scheduler", &Ok(()))];
    all.iter().map(|value| Object::from_value(value).map(Arc::new).map_err(Status::internal)).collect()
}

fn status(name: &str, health: &Result<(), String>) -> Value {
    let mut condition = json!({"type": "Healthy", "status": "True", "message": "ok"});
    if let Err(error) = health {
        condition = json!({"type": "Healthy", "status": "False", "message": "", "error": error});
    }
    json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": [condition]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sick_datastore_shows_and_the_rest_stays_healthy() {
        let objects = objects(Err("disk gone".to_owned())).unwrap();
        let shown: Vec<(String, Value)> = objects
            .iter()
            .map(|object| (object.meta.name.clone(), object.value().unwrap()["conditions"][0]["status"].clone()))
            .collect();
        let expected = [("controller-manager", "True"), ("etcd-0", "False"), ("scheduler", "True")];
        assert_eq!(shown, expected.map(|(name, status)| (name.to_owned(), json!(status))));
    }
}
