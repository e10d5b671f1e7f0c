//! DELETE of every object of a selection.

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use http::Response;
use skiff_api::{Object, Reason, Status};

use super::{Call, delete::read_options, list};
use crate::{
    body::Body,
    limits,
    options::{DeleteOptions, ListOptions, WriteOptions},
    registry::store::WriteRequest,
    render,
};

pub(super) async fn delete_collection(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, Status> {
    let style = call.style(call.offer())?;
    let options = read_options(call, &body)?;
    let mut write = call.write_options()?;
    write.dry_run |= options.dry_run;
    let list_options = ListOptions::parse(&call.query)?;
    let page = list::page(call, &list_options).await?;
    let deletions: Vec<BoxFuture<'_, Result<(), Status>>> =
        page.objects.iter().map(|object| one(call, &write, &options, object).boxed()).collect();
    stream::iter(deletions).buffer_unordered(limits::DELETE_COLLECTION_CONCURRENCY).try_collect::<Vec<()>>().await?;
    render::list(&style, &call.row, page.objects, &page.meta)
}

async fn one(call: &Call<'_>, write: &WriteOptions, options: &DeleteOptions, object: &Object) -> Result<(), Status> {
    let request = WriteRequest { namespace: &object.meta.namespace, ..call.write_request(write, &object.meta.name) };
    match call.store.delete(&request, options).await {
        // Somebody else was faster, which is as good.
        Err(status) if status.is(Reason::NotFound) => Ok(()),
        other => other.map(drop),
    }
}
