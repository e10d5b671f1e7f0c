//! JSON patch (RFC 6902) with the limits that keep one request from exhausting the server.

use json_patch::{PatchErrorKind, PatchOperation};
use serde::Deserialize;
use serde_json::Value;

use super::PatchError;
use crate::limits::{PATCH_COPY_BYTES_MAX, PATCH_OPERATIONS_MAX};

/// Parses and applies a JSON patch.
pub fn apply(mut target: Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<Value> = serde_json::from_slice(patch)
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if operations.len() > PATCH_OPERATIONS_MAX {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {PATCH_OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    for operation in operations {
        let operation = PatchOperation::deserialize(operation)
            .map_err(|error| PatchError::Unprocessable(format!("error decoding patch: {error}")))?;
        if let PatchOperation::Copy(copy) = &operation {
            copied += target.pointer(copy.from.as_str()).map_or(0, |source| source.to_string().len());
            if copied > PATCH_COPY_BYTES_MAX {
                return Err(PatchError::Unprocessable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy operations is {copied}, exceeding the limit {PATCH_COPY_BYTES_MAX}"
                )));
            }
        }
        json_patch::patch(&mut target, std::slice::from_ref(&operation)).map_err(|error| match error.kind {
            PatchErrorKind::TestFailed => PatchError::TestFailed(error.to_string()),
            _ => PatchError::Unprocessable(error.to_string()),
        })?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(target: Value, patch: Value) -> Result<Value, PatchError> {
        apply(target, patch.to_string().as_bytes())
    }

    #[test]
    fn operations_apply_in_order() {
        let patch = json!([{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 2},
            {"op": "add", "path": "/b/-", "value": {"c": 1}}, {"op": "copy", "from": "/a", "path": "/d"},
            {"op": "move", "from": "/d", "path": "/e~1f"}, {"op": "remove", "path": "/b/0"}]);
        let have = run(json!({"a": 1, "b": [0]}), patch).unwrap();
        assert_eq!(have, json!({"a": 2, "b": [{"c": 1}], "e/f": 2}));
    }

    #[test]
    fn failures_tell_bad_patches_from_bad_targets() {
        let failed_test = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert!(matches!(run(json!({"a": 1}), failed_test), Err(PatchError::TestFailed(_))));
        let missing = json!([{"op": "remove", "path": "/x"}]);
        assert!(matches!(run(json!({}), missing), Err(PatchError::Unprocessable(_))));
        // As upstream, which looks at an operation only when it is its turn.
        assert!(matches!(run(json!({}), json!([{"op": "explode", "path": "/x"}])), Err(PatchError::Unprocessable(_))));
        assert!(matches!(run(json!({}), json!({})), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn operations_and_copies_are_bounded() {
        let many: Vec<Value> = vec![json!({"op": "add", "path": "/a", "value": 1}); PATCH_OPERATIONS_MAX + 1];
        assert!(matches!(run(json!({}), Value::Array(many)), Err(PatchError::TooLarge(_))));
        // Each copy doubles the document.
        let doubling: Vec<Value> =
            (0..40).map(|at| json!({"op": "copy", "from": "/a", "path": format!("/a/k{at}")})).collect();
        let start = json!({"a": {"x": "y".repeat(1000)}});
        assert!(matches!(run(start, Value::Array(doubling)), Err(PatchError::Unprocessable(_))));
    }
}
