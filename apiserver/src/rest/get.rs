//! GET of one object.

use http::Response;
use skiff_api::{Revision, Status};

use super::{Call, answer, component_status, resource_metrics};
use crate::{
    body::Body,
    options::{parse_version, version_cause},
};

pub(super) async fn get(call: &Call<'_>) -> Result<Response<Body>, Status> {
    // What cannot be answered in an acceptable form is refused before any work.
    call.style(call.offer())?;
    if component_status::is(call) {
        return component_status::get(call).await;
    }
    if resource_metrics::is(call) {
        return resource_metrics::get(call).await;
    }
    let version = call.query.get("resourceVersion");
    let revision = parse_version(version).map_err(|why| {
        let cause = version_cause(version, &why);
        Status::bad_request(format!("{}: {}", cause.field, cause.message))
    })?;
    match (version, revision) {
        ("", _) => drop(call.store.caches.catch_up().await?),
        (_, Revision::ZERO) => {}
        (_, revision) => call.store.wait_for(revision).await?,
    }
    let object = call.store.cached(&call.row, call.namespace(), &call.info.name).ok_or_else(|| call.not_found())?;
    answer(call, &object, 200).await
}
