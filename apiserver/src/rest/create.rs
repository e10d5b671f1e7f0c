//! POST: a new object, or the answer of an endpoint.

use bytes::Bytes;
use http::Response;
use skiff_api::Status;

use super::{Call, answer, plain_style};
use crate::{
    body::Body,
    registry::{EndpointRequest, meta},
    render,
};

pub(super) async fn create(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, Status> {
    let options = call.write_options()?;
    let subresource = call.subresource.as_ref().map_or("", |subresource| subresource.name.as_ref());
    let endpoint = call.store.registry.endpoint_of(&call.row.group_resource(), subresource);
    if let Some(endpoint) = endpoint {
        let style = plain_style(call)?;
        let mut value = call.decode(&body, &options)?;
        meta::set_namespace(&mut value, call.namespace())?;
        let api_version = call.row.api_version();
        let write = call.write_request(&options, &call.info.name);
        let request = EndpointRequest {
            context: call.store.context(&write, &api_version),
            name: &call.info.name,
            body: value,
            warnings: &call.warnings,
            store: call.store,
        };
        let response = endpoint.create(request).await?;
        call.warnings.extend(response.warnings);
        return render::value(&style, &response.body, response.code);
    }
    if call.subresource.is_some() || !call.row.is_stored() || call.info.has_name_segment() {
        return Err(call.not_allowed());
    }
    call.style(call.offer())?;
    let mut value = call.decode(&body, &options)?;
    meta::wipe(&mut value);
    meta::set_namespace(&mut value, call.namespace())?;
    call.warnings.repeated_owners(&meta::dedup_owners(&mut value), false);
    let written = call.store.create(&call.write_request(&options, ""), value).await?;
    answer(call, written.object(), 201).await
}
