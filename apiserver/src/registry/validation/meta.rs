//! Metadata of templates: labels and annotations. (Metadata of the objects
//! themselves is checked by the generic machinery.)

use serde_json::Value;

use super::{Errors, Path, formats};
use crate::registry::value;

/// Total bytes of all annotation keys and values.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Checks `metadata` of a template at `path`.
pub fn template_metadata(errors: &mut Errors, path: &Path<'_>, metadata: &Value) {
    labels(errors, &path.child("labels"), &metadata["labels"]);
    annotations(errors, &path.child("annotations"), &metadata["annotations"]);
}

/// Keys and values of a label map.
pub fn labels(errors: &mut Errors, path: &Path<'_>, labels: &Value) {
    for (key, label) in labels.as_object().into_iter().flatten() {
        errors.invalid_all(path, key, formats::qualified_name(key));
        let text = label.as_str().unwrap_or_default();
        errors.invalid_all(path, text, formats::label_value(text));
    }
}

/// Keys and total size of an annotation map.
pub fn annotations(errors: &mut Errors, path: &Path<'_>, annotations: &Value) {
    let mut bytes = 0;
    for (key, text) in annotations.as_object().into_iter().flatten() {
        errors.invalid_all(path, key, formats::qualified_name(&key.to_ascii_lowercase()));
        bytes += key.len() + text.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.too_long(path, ANNOTATIONS_BYTES_MAX);
    }
}

/// Whether a label selector value (`matchLabels`, `matchExpressions`) is empty.
pub fn selects_everything(selector: &Value) -> bool {
    value::entries(selector, "matchLabels").next().is_none() && value::list(selector, "matchExpressions").is_empty()
}
