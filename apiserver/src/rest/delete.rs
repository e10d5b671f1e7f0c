//! DELETE of one object.

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use skiff_api::{GroupVersionKind, Object, Resource, Status, codec, resource::Origin, schema::Root, status::Details};

use super::{Call, answer, format_of};
use crate::{body::Body, options::DeleteOptions, registry::store::Written, render, wire};

/// Kinds of the core group whose deletion answers with the object instead of a Status.
const RETURN_OBJECT: [&str; 7] = [
    "pods",
    "services",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "persistentvolumes",
    "persistentvolumeclaims",
];

/// Whether the last state of a deleted object is shown.
fn returns_object(row: &Resource) -> bool {
    row.origin == Origin::BuiltIn
        && match &*row.group {
            "" => RETURN_OBJECT.contains(&&*row.plural),
            "storage.k8s.io" => row.plural != "csistoragecapacities",
            group => group == "resource.k8s.io",
        }
}

/// What upstream says to those who delete a Job as if its pods went along.
const JOBS_ORPHAN: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                           remove them or set propagationPolicy=Orphan to suppress this warning";

pub(super) async fn delete(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, Status> {
    call.style(call.offer())?;
    let options = read_options(call, &body)?;
    let mut write = call.write_options()?;
    write.dry_run |= options.dry_run;
    let request = call.write_request(&write, &call.info.name);
    match call.store.delete(&request, &options).await? {
        Written::Removed(object) if returns_object(&call.row) => answer(call, &object, 200).await,
        Written::Removed(object) => {
            let style = super::plain_style(call)?;
            let status = serde_json::to_value(success(call, &object)).map_err(Status::internal)?;
            render::value(&style, &status, 200)
        }
        Written::Stored { object, .. } => answer(call, &object, accepted(&options)).await,
    }
}

/// 202 when the client asked in the old way that dependents go as well, 200 otherwise: upstream kept both as they were.
fn accepted(options: &DeleteOptions) -> u16 {
    if options.orphan_dependents == Some(false) { 202 } else { 200 }
}

fn success(call: &Call<'_>, object: &Object) -> Status {
    Status::success(Some(Details {
        name: object.meta.name.clone(),
        group: call.row.group.to_string(),
        kind: call.row.plural.to_string(),
        uid: object.meta.uid.0.clone(),
        ..Details::default()
    }))
}

/// Options of a body, or of the query when there is no body.
pub(super) fn read_options(call: &Call<'_>, body: &Bytes) -> Result<DeleteOptions, Status> {
    let options = decode_options(call, body)?;
    if options.policy().is_none() && call.row.plural == "jobs" && call.row.group == "batch" {
        call.warnings.add(JOBS_ORPHAN);
    }
    Ok(options)
}

fn decode_options(call: &Call<'_>, body: &Bytes) -> Result<DeleteOptions, Status> {
    if body.is_empty() {
        return DeleteOptions::parse(&Value::Null, &call.query);
    }
    let gvk = GroupVersionKind::new("", "v1", "DeleteOptions");
    let format =
        format_of(call).ok_or_else(|| wire::unsupported_media_type(&[wire::JSON, wire::YAML, wire::PROTOBUF]))?;
    // The body may name the group of the resource or `meta.k8s.io`: only its kind and fields count.
    let value = match format {
        wire::Format::Protobuf => codec::protobuf::decode_object(body)
            .map_err(|error| Status::bad_request(format!("decode DeleteOptions: {error}")))?,
        wire::Format::Json => decoded(codec::json::decode(Root::for_kind(&gvk).as_ref(), body))?,
        wire::Format::Yaml => decoded(codec::yaml::decode(Root::for_kind(&gvk).as_ref(), body))?,
    };
    match value["kind"].as_str() {
        None | Some("" | "DeleteOptions") => DeleteOptions::parse(&value, &call.query),
        Some(other) => Err(Status::bad_request(format!(
            "no kind {other:?} is registered for version {:?}",
            value["apiVersion"].as_str().unwrap_or_default()
        ))),
    }
}

fn decoded(result: Result<codec::Decoded, codec::json::JsonError>) -> Result<Value, Status> {
    let decoded = result.map_err(|error| Status::bad_request(format!("decode DeleteOptions: {error}")))?;
    Ok(decoded.value)
}
