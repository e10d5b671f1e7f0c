//! PUT of an object, a subresource or a view.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{Call, answer};
use crate::{
    body::Body,
    registry::{View, meta, store::Written, write::Edited},
};

pub(super) async fn update(call: &Call<'_>, body: Bytes) -> Result<Response<Body>, Status> {
    call.style(call.offer())?;
    let options = call.write_options()?;
    let mut value = call.decode(&body, &options)?;
    call.warnings.repeated_owners(&meta::dedup_owners(&mut value), false);
    meta::check_name(&value, &call.info.name)?;
    let request = call.write_request(&options, &call.info.name);
    let view = call.view();
    let edit = |old: Option<&Value>| match (&view, old) {
        (Some(view), Some(old)) => edit_view(&**view, &value, old).map(|object| Edited { object, applied: false }),
        (Some(_), None) => Err(call.not_found()),
        (None, old) => {
            if old.is_none() {
                call.may_create()?;
            }
            Ok(Edited { object: value.clone(), applied: false })
        }
    };
    let written = call.store.update(&request, &edit).await?;
    let created = matches!(written, Written::Stored { created: true, .. });
    answer(call, written.object(), if created { 201 } else { 200 }).await
}

/// Carries a view into a copy of the object; the view's version and identity are checked like the object's.
pub(super) fn edit_view(view: &dyn View, shown: &Value, old: &Value) -> Result<Value, Status> {
    let mut object = old.clone();
    view.edit(shown, &mut object)?;
    let metadata = meta::metadata_mut(&mut object);
    for name in ["resourceVersion", "uid", "name", "namespace"] {
        match shown["metadata"].get(name).and_then(Value::as_str) {
            Some(text) if !text.is_empty() => metadata.insert(name.to_owned(), json!(text)),
            _ if name == "resourceVersion" => metadata.remove(name),
            _ => None,
        };
    }
    Ok(object)
}
