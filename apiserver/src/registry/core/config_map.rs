//! ConfigMaps.

use serde_json::Value;
use skiff_api::Cause;

use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{entries, flag, same},
};

/// Bytes of all values of a ConfigMap or Secret.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

pub struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let mut bytes = 0;
        let data = Path::new("data");
        for (key, value) in entries(object, "data") {
            errors.invalid_all(&data.key(key), key, formats::config_key(key));
            if object["binaryData"].get(key).is_some() {
                errors.invalid(&data.key(key), key, "duplicate of key present in binaryData");
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        let binary = Path::new("binaryData");
        for (key, value) in entries(object, "binaryData") {
            errors.invalid_all(&binary.key(key), key, formats::config_key(key));
            bytes += decoded_len(value);
        }
        if bytes > DATA_BYTES_MAX {
            // Upstream names a field without a name.
            errors.too_long(&Path::new("[]"), DATA_BYTES_MAX);
        }
        if let Operation::Update { old } = op {
            immutable(&mut errors, object, old, &["data", "binaryData"]);
        }
        errors.into_causes()
    }
}

/// Length of base64 text once decoded.
pub fn decoded_len(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
}

/// Once `immutable` is set, neither it nor the data may change.
pub fn immutable(errors: &mut Errors, new: &Value, old: &Value, fields: &[&str]) {
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errors.forbidden(&Path::new("immutable"), IMMUTABLE);
    }
    for field in fields {
        if !same(new, old, field) {
            errors.forbidden(&Path::new(field), IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn immutable_data_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let mut errors = Errors::new();
        immutable(&mut errors, &json!({"data": {"a": "2"}}), &old, &["data", "binaryData"]);
        assert_eq!(
            lines(errors.into_causes()),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
