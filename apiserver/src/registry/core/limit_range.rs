//! LimitRanges.

use serde_json::Value;
use skiff_api::Cause;

use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats, numbers::parse_quantity},
    value::{child, entries, field, items, list, set, text},
};

pub struct LimitRangeStrategy;

impl Strategy for LimitRangeStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        for limit in items(child(object, "spec"), "limits") {
            if text(limit, "type") == "Container" {
                container_defaults(limit);
            }
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let limits_path = path.child("limits");
        let limits = list(&object["spec"], "limits");
        for (i, limit) in limits.iter().enumerate() {
            let path = limits_path.index(i);
            let kind = text(limit, "type");
            errors.invalid_all(&path.child("type"), kind, formats::qualified_name(kind));
            if limits[..i].iter().any(|other| text(other, "type") == kind) {
                errors.duplicate(&path.child("type"), kind);
            }
            if kind == "Pod" {
                for name in ["default", "defaultRequest"] {
                    if entries(limit, name).next().is_some() {
                        errors.forbidden(&path.child(name), "may not be specified when `type` is 'Pod'");
                    }
                }
            }
            bounds(&mut errors, &path, limit);
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

/// The default limit is the maximum; the default request the default limit or the minimum.
fn container_defaults(limit: &mut Value) {
    fill(limit, "default", "max");
    fill(limit, "defaultRequest", "default");
    fill(limit, "defaultRequest", "min");
}

fn fill(limit: &mut Value, to: &str, from: &str) {
    let source: Vec<(String, Value)> = entries(limit, from).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (name, quantity) in source {
        let target = child(limit, to);
        if field(target, &name).is_none() {
            set(target, &name, quantity);
        }
    }
}

fn bounds(errors: &mut Errors, path: &Path<'_>, limit: &Value) {
    // (lower, upper): the lower one may not exceed the upper one.
    for (low, high) in [
        ("min", "max"),
        ("min", "defaultRequest"),
        ("min", "default"),
        ("defaultRequest", "max"),
        ("defaultRequest", "default"),
        ("default", "max"),
    ] {
        for (name, value) in entries(limit, low) {
            let Some(bound) = limit[high].get(name) else { continue };
            let (Some(a), Some(b)) = (parse_quantity(value), parse_quantity(bound)) else { continue };
            if a > b {
                let (a, b) = (value.as_str().unwrap_or_default(), bound.as_str().unwrap_or_default());
                let message = format!("{low} value {a} is greater than {high} value {b}");
                errors.invalid(&path.child(low).key(name), value, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_come_from_max_and_min() {
        let mut limit = json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}});
        container_defaults(&mut limit);
        assert_eq!(limit["default"], json!({"cpu": "2"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    }
}
