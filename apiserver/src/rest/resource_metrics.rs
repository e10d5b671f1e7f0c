//! `metrics.k8s.io`: read from kubelets, not from the store.

use http::Response;
use skiff_api::{Revision, Status};

use super::{
    Call, answer,
    list::{Page, selection},
};
use crate::{body::Body, options::ListOptions, render::ListMeta, resource_metrics::objects::GROUP};

/// Whether the call is about metrics.
pub(super) fn is(call: &Call<'_>) -> bool {
    call.row.group == GROUP && call.row.storage.is_none()
}

pub(super) async fn get(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let objects = call.metrics.list(&call.row.plural, call.list_namespace()).await?;
    let found = objects.iter().find(|object| object.meta.name == call.info.name);
    answer(call, found.ok_or_else(|| call.not_found())?, 200).await
}

pub(super) async fn page(call: &Call<'_>, options: &ListOptions) -> Result<Page, Status> {
    let selection = selection(call, options)?;
    let mut objects = call.metrics.list(&call.row.plural, call.list_namespace()).await?;
    objects.retain(|object| selection.matches(object));
    Ok(Page { objects, meta: ListMeta { revision: Revision::ZERO, ..ListMeta::default() } })
}
