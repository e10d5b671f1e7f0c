//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use skiff_api::{
    Cause, GroupVersionKind, Reason, Status,
    apply::{managed_fields::ManagedFields, view::Shown},
    codec::{self, json::JsonError},
    patch::{json_patch, merge, strategic},
    quote,
    schema::Root,
};

use super::{Call, answer, yaml_duplicates};
use crate::{
    body::Body,
    managed,
    options::{FieldValidation, WriteOptions},
    registry::{store::Written, write::Edited},
    rest::update::edit_view,
    wire,
};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
/// What is said of a patch that is no JSON at all.
const NOT_JSON: &str = "invalid JSON patch";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

/// A patch, and what field validation has to say of its own text.
struct Parsed {
    patch: Patch,
    questionable: Vec<String>,
}

pub(super) async fn patch(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, Status> {
    call.style(call.offer())?;
    let options = call.write_options()?;
    let parsed = parse(call, &options, &body)?;
    let request = call.write_request(&options, &call.info.name);
    let edit = |old: Option<&Value>| match &parsed.patch {
        Patch::Apply(config) => apply(call, &options, old, config),
        _ => {
            let old = old.ok_or_else(|| call.not_found())?;
            patched(call, &options, old, &parsed)
        }
    };
    let written = match &parsed.patch {
        Patch::Apply(_) => call.store.apply(&request, &edit).await?,
        _ => call.store.update(&request, &edit).await?,
    };
    let created = matches!(written, Written::Stored { created: true, .. });
    answer(call, written.object(), if created { 201 } else { 200 }).await
}

fn parse(call: &Call<'_>, options: &WriteOptions, body: &Bytes) -> Result<Parsed, Status> {
    let content_type = call.content_type().split(';').next().unwrap_or_default().trim().to_owned();
    let built_in = call.has_message();
    if options.force && content_type != APPLY_PATCH {
        return Err(Status::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![Cause {
                reason: "FieldValueForbidden".to_owned(),
                field: "force".to_owned(),
                message: "Forbidden: may not be specified for non-apply patch".to_owned(),
            }],
        ));
    }
    match content_type.as_str() {
        JSON_PATCH => parse_operations(body),
        MERGE_PATCH => {
            let decoded = json_object(body, "error decoding patch: ")?;
            Ok(Parsed { questionable: decoded.warnings(), patch: Patch::Merge(decoded.value) })
        }
        STRATEGIC_PATCH if built_in => {
            let decoded = json_object(body, "")?;
            Ok(Parsed { questionable: decoded.warnings(), patch: Patch::Strategic(decoded.value) })
        }
        APPLY_PATCH => Ok(Parsed { patch: parse_apply(call, options, body)?, questionable: Vec::new() }),
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

/// The object a merge patch consists of.
fn json_object(body: &Bytes, before: &str) -> Result<codec::Decoded, Status> {
    codec::json::decode(None, body).map_err(|error| match error {
        JsonError::Syntax(_) => Status::bad_request(NOT_JSON),
        JsonError::Type(error) => Status::bad_request(format!("{before}{error}")),
    })
}

/// A JSON patch is only looked over here: it is read again when it is applied.
fn parse_operations(body: &Bytes) -> Result<Parsed, Status> {
    let (patch, duplicate) = codec::strict::parse_json(body).map_err(|_| Status::bad_request(NOT_JSON))?;
    let unreadable = |what: &Value, as_what: &str| {
        let what = codec::json::json_type(what);
        Status::bad_request(format!("error decoding patch: json: cannot unmarshal {what} into Go {as_what}"))
    };
    let operations = patch.as_array().ok_or_else(|| unreadable(&patch, "value of type []handlers.jsonPatchOp"))?;
    let mut questionable: Vec<String> =
        duplicate.iter().map(|path| format!("json patch duplicate field {path:?}")).collect();
    for (index, operation) in operations.iter().enumerate() {
        let fields =
            operation.as_object().ok_or_else(|| unreadable(operation, "value of type handlers.jsonPatchOp"))?;
        for (name, value) in fields {
            match name.as_str() {
                "op" | "path" | "from" if !value.is_string() && !value.is_null() => {
                    return Err(unreadable(value, &format!("struct field jsonPatchOp.{name} of type string")));
                }
                "op" | "path" | "from" | "value" => {}
                other => questionable.push(format!("json patch unknown field \"[{index}].{other}\"")),
            }
        }
    }
    Ok(Parsed { patch: Patch::Json(body.clone()), questionable })
}

fn parse_apply(call: &Call<'_>, options: &WriteOptions, body: &Bytes) -> Result<Patch, Status> {
    if options.field_manager.is_empty() {
        return Err(Status::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![Cause {
                reason: "FieldValueRequired".to_owned(),
                field: "fieldManager".to_owned(),
                message: "Required value: is required for apply patch".to_owned(),
            }],
        ));
    }
    let (gvk, root) = call.body_kind();
    let decoded = skiff_api::codec::yaml::decode(root.as_ref(), body).map_err(|error| match error {
        JsonError::Syntax(error) => Status::bad_request(format!("error encoding patch: {error}")),
        JsonError::Type(error) => Status::bad_request(format!("error decoding patch: {error}")),
    })?;
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
    if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
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
    format!(
        "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
        lines.join("\n  ")
    )
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
    let message = format!("{}: {errors}", skiff_api::apply::untyped(&gvk.api_version(), &decoded.value));
    Err(Status { code: 500, ..Status::failure(Reason::Unknown, message) })
}

/// The object (or its view) with a patch of one of the three plain kinds applied, not yet looked at.
fn changed(call: &Call<'_>, root: Option<&Root>, old: &Value, patch: &Patch) -> Result<Value, Status> {
    let shown = match call.view() {
        Some(view) => view.show(old)?,
        None => old.clone(),
    };
    Ok(match patch {
        Patch::Json(operations) => json_patch::apply(shown, operations)?,
        Patch::Merge(changes) => merge::apply(shown, changes.clone()),
        Patch::Strategic(changes) => {
            let root = root.ok_or_else(|| wire::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH]))?;
            strategic::apply(root, shown, changes.clone())?
        }
        Patch::Apply(_) => unreachable!("apply has its own way"),
    })
}

fn patched(call: &Call<'_>, options: &WriteOptions, old: &Value, parsed: &Parsed) -> Result<Edited, Status> {
    let (gvk, root) = call.body_kind();
    let mut shown = changed(call, root.as_ref(), old, &parsed.patch)?;
    wire::check_type(&gvk, &mut shown)?;
    let mut questionable = parsed.questionable.clone();
    if let Some(root) = &root {
        match codec::json::conform(root, &mut shown) {
            Ok(unknown) => questionable.extend(unknown.iter().map(|path| format!("unknown field {path:?}"))),
            Err(error) => return Err(refused(call, Some(root), old, &parsed.patch, &error.to_string())),
        }
        wire::settle(root, &mut shown);
    }
    match options.field_validation {
        FieldValidation::Strict if !questionable.is_empty() => {
            let why = format!("strict decoding error: {}", questionable.join(", "));
            return Err(refused(call, root.as_ref(), old, &parsed.patch, &why));
        }
        FieldValidation::Warn => call.warnings.extend(questionable),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    let object = match call.view() {
        Some(view) => edit_view(&*view, &shown, old)?,
        None => shown,
    };
    Ok(Edited { object, applied: false })
}

/// 422 that shows what the patch makes of the object, or a strategic patch itself.
fn refused(call: &Call<'_>, root: Option<&Root>, old: &Value, patch: &Patch, why: &str) -> Status {
    let value = match patch {
        Patch::Strategic(changes) => quote::plain(changes),
        // Made once more: the first one has been changed by the look at it.
        _ => match changed(call, root, old, patch) {
            Ok(shown) => shown.to_string(),
            Err(status) => return status,
        },
    };
    let cause = Cause {
        reason: "FieldValueInvalid".to_owned(),
        field: "patch".to_owned(),
        message: format!("Invalid value: {}: {why}", quote::quote(&value)),
    };
    Status::invalid("", "", "", vec![cause])
}

fn apply(call: &Call<'_>, options: &WriteOptions, old: Option<&Value>, config: &Value) -> Result<Edited, Status> {
    if old.is_none() {
        if call.subresource.is_some() {
            return Err(call.not_found());
        }
        if let Some(uid) = config["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Status::conflict(&call.row.group, &call.row.plural, &call.info.name, why));
        }
        call.may_create()?;
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
            let path = view.replicas_path();
            let field = Shown { in_object: &path, in_view: &["spec", "replicas"] };
            let mut shown = view.show(old)?;
            field.owners(old).write(&mut shown);
            let mut shown = managed::apply(&change, Some(&shown), config, options.force)?;
            if let Some(root) = &root {
                wire::conform(&gvk, root, &mut shown, options.field_validation, &call.warnings)?;
            }
            let mut object = edit_view(&**view, &shown, old)?;
            let owners = ManagedFields::of(&shown).unwrap_or_default();
            field.carry_back(old, owners, &call.row.api_version()).write(&mut object);
            Ok(Edited { object, applied: true })
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
