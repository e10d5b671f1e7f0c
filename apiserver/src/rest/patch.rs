//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use skiff_api::{
    GroupVersionKind, Reason, Status, codec,
    patch::{json_patch, merge, strategic},
};

use super::{Call, answer, yaml_duplicates};
use crate::{
    body::Body,
    limits, managed,
    options::{FieldValidation, WriteOptions},
    registry::{store::Written, write::Edited},
    rest::update::edit_view,
    wire,
};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

pub(super) async fn patch(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, Status> {
    call.style(call.offer())?;
    let options = call.write_options()?;
    let patch = parse(call, &options, &body)?;
    let request = call.write_request(&options, &call.info.name);
    let edit = |old: Option<&Value>| match &patch {
        Patch::Apply(config) => apply(call, &options, old, config),
        other => {
            let old = old.ok_or_else(|| call.not_found())?;
            patched(call, &options, old, other)
        }
    };
    let written = match &patch {
        Patch::Apply(_) => call.store.apply(&request, &edit).await?,
        _ => call.store.update(&request, &edit).await?,
    };
    let created = matches!(written, Written::Stored { created: true, .. });
    answer(call, written.object(), if created { 201 } else { 200 }).await
}

fn parse(call: &Call<'_>, options: &WriteOptions, body: &Bytes) -> Result<Patch, Status> {
    let content_type = call.content_type().split(';').next().unwrap_or_default().trim().to_owned();
    let built_in = call.has_message();
    if options.force && content_type != APPLY_PATCH {
        return Err(Status::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![skiff_api::Cause {
                reason: "FieldValueForbidden".to_owned(),
                field: "force".to_owned(),
                message: "Forbidden: may not be specified for non-apply patch".to_owned(),
            }],
        ));
    }
    match content_type.as_str() {
        JSON_PATCH => {
            let patch = json_body(body)?;
            let operations = patch.as_array().map_or(0, Vec::len);
            if operations > limits::JSON_PATCH_OPERATIONS_MAX {
                return Err(Status::failure(
                    Reason::RequestEntityTooLarge,
                    format!(
                        "The allowed maximum operations in a JSON patch is {}, got {operations}",
                        limits::JSON_PATCH_OPERATIONS_MAX
                    ),
                ));
            }
            Ok(Patch::Json(body.clone()))
        }
        MERGE_PATCH => json_body(body).map(Patch::Merge),
        STRATEGIC_PATCH if built_in => json_body(body).map(Patch::Strategic),
        APPLY_PATCH => parse_apply(call, options, body),
        _ => {
            let mut accepted = vec![JSON_PATCH, MERGE_PATCH];
            if built_in {
                accepted.push(STRATEGIC_PATCH);
            }
            accepted.push(APPLY_PATCH);
            Err(wire::unsupported_media_type(&accepted))
        }
    }
}

fn json_body(body: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

fn parse_apply(call: &Call<'_>, options: &WriteOptions, body: &Bytes) -> Result<Patch, Status> {
    if options.field_manager.is_empty() {
        return Err(Status::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![skiff_api::Cause {
                reason: "FieldValueRequired".to_owned(),
                field: "fieldManager".to_owned(),
                message: "Required value: is required for apply patch".to_owned(),
            }],
        ));
    }
    let (gvk, root) = call.body_kind();
    let decoded = skiff_api::codec::yaml::decode(root.as_ref(), body)
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    if options.field_validation == FieldValidation::Strict && !decoded.duplicate.is_empty() {
        return Err(Status::bad_request(repeated(&decoded, body)));
    }
    refuse_undeclared(&gvk, &decoded)?;
    wire::judge(&gvk, &decoded, options.field_validation, &call.warnings)?;
    let mut config = decoded.value;
    for name in ["apiVersion", "kind"] {
        if config[name].as_str().unwrap_or_default().is_empty() {
            return Err(Status::bad_request(format!("invalid object type: {name} must be set in the applied object")));
        }
    }
    wire::check_type(&gvk, &mut config)?;
    if config["metadata"]
        .get("managedFields")
        .is_some_and(|fields| fields.as_array().is_none_or(|list| !list.is_empty()))
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(Patch::Apply(config))
}

/// What upstream's YAML decoder says of keys that stand twice.
fn repeated(decoded: &codec::Decoded, body: &[u8]) -> String {
    let lines = std::str::from_utf8(body).map(yaml_duplicates::describe).unwrap_or_default();
    let lines = if lines.is_empty() {
        let name = |path: &String| format!("key {:?} already set in map", path.rsplit('.').next().unwrap_or(path));
        decoded.duplicate.iter().map(name).collect()
    } else {
        lines
    };
    format!("error decoding YAML: yaml: unmarshal errors:\n  {}", lines.join("\n  "))
}

/// Fields of an applied object must all be declared: an owner of a field that nobody knows makes no sense.
fn refuse_undeclared(gvk: &GroupVersionKind, decoded: &codec::Decoded) -> Result<(), Status> {
    let lines: Vec<String> =
        decoded.unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
    let errors = match lines.as_slice() {
        [] => return Ok(()),
        [single] => single.clone(),
        several => format!("errors:\n  {}", several.join("\n  ")),
    };
    let text = |name: &str| decoded.value["metadata"][name].as_str().unwrap_or_default();
    let message = format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {errors}",
        text("namespace"),
        text("name"),
        gvk.api_version(),
        gvk.kind
    );
    Err(Status { code: 500, ..Status::failure(Reason::Unknown, message) })
}

/// The object (or its view) after a patch of one of the three plain kinds.
fn patched(call: &Call<'_>, options: &WriteOptions, old: &Value, patch: &Patch) -> Result<Edited, Status> {
    let (gvk, root) = call.body_kind();
    let view = call.view();
    let mut shown = match &view {
        Some(view) => view.show(old)?,
        None => old.clone(),
    };
    match patch {
        Patch::Json(operations) => shown = json_patch::apply(shown, operations)?,
        Patch::Merge(changes) => shown = merge::apply(shown, changes.clone()),
        Patch::Strategic(changes) => {
            let root = root.as_ref().ok_or_else(|| wire::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH]))?;
            shown = strategic::apply(root, shown, changes.clone())?;
        }
        Patch::Apply(_) => unreachable!("apply has its own way"),
    }
    wire::check_type(&gvk, &mut shown)?;
    if let Some(root) = &root {
        wire::conform(&gvk, root, &mut shown, options.field_validation, &call.warnings)?;
    }
    let object = match &view {
        Some(view) => edit_view(&**view, &shown, old)?,
        None => shown,
    };
    Ok(Edited { object, applied: false })
}

fn apply(call: &Call<'_>, options: &WriteOptions, old: Option<&Value>, config: &Value) -> Result<Edited, Status> {
    if old.is_none() && call.subresource.is_some() {
        return Err(call.not_found());
    }
    let (gvk, root) = call.body_kind();
    let view = call.view();
    let api_version = gvk.api_version();
    let change = managed::Change {
        row: &call.row,
        root: root.as_ref(),
        api_version: &api_version,
        manager: options.manager(),
        subresource: &call.info.subresource,
    };
    match (&view, old) {
        (Some(view), Some(old)) => {
            // Ownership of a view's fields is not tracked below the object: the view is edited as a whole.
            let shown = merge::apply(view.show(old)?, config.clone());
            Ok(Edited { object: edit_view(&**view, &shown, old)?, applied: false })
        }
        (None, old) => {
            let mut object = managed::apply(&change, old, config, options.force)?;
            if let Some(root) = &root {
                wire::conform(&gvk, root, &mut object, options.field_validation, &call.warnings)?;
            }
            Ok(Edited { object, applied: true })
        }
        (Some(_), None) => Err(call.not_found()),
    }
}
