//! PersistentVolumeClaims.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::pod::update::changes;
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats, numbers, selector},
    value::{child, copy_field, default, field, list, set, text, text_at},
};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub struct PersistentVolumeClaimStrategy;

impl Strategy for PersistentVolumeClaimStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        defaults(object);
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(object, "status", json!({"phase": "Pending"}));
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        match op {
            Operation::Create => spec(&mut errors, &path, &object["spec"]),
            Operation::Update { old } => {
                spec(&mut errors, &path, &object["spec"]);
                update(&mut errors, object, old);
            }
            _ => {}
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

/// Defaults of a claim and of claim templates.
pub fn defaults(claim: &mut Value) {
    let spec = child(claim, "spec");
    default(spec, "volumeMode", "Filesystem");
    // The old and the new way to name a source are kept equal for sources both can name.
    if field(spec, "dataSource").is_none()
        && field(spec, "dataSourceRef").is_some_and(|reference| text(reference, "namespace").is_empty())
    {
        let reference = spec["dataSourceRef"].clone();
        set(spec, "dataSource", reference);
    } else if field(spec, "dataSource").is_some() && field(spec, "dataSourceRef").is_none() {
        let reference = spec["dataSource"].clone();
        set(spec, "dataSourceRef", reference);
    }
}

/// `accessModes` of claims and volumes.
pub fn access_modes(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let modes: Vec<&str> = list(spec, "accessModes").iter().filter_map(Value::as_str).collect();
    if modes.is_empty() {
        errors.required(path, "at least 1 access mode is required");
    }
    for mode in &modes {
        if !ACCESS_MODES.contains(mode) {
            errors.not_supported(path, *mode, &ACCESS_MODES);
        }
    }
    if modes.contains(&"ReadWriteOncePod") && modes.len() > 1 {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `spec` of a claim or of a claim template.
pub fn spec(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    access_modes(errors, &path.child("accessModes"), spec);
    if let Some(wanted) = field(spec, "selector") {
        selector::label_selector(errors, &path.child("selector"), wanted);
    }
    let resources = path.child("resources");
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        errors.required(&resources.child("requests").key("storage"), "");
    } else if numbers::parse_quantity(storage).is_none_or(|quantity| quantity <= skiff_api::Quantity::ZERO) {
        errors.invalid(&resources.child("requests").key("storage"), storage, "must be greater than zero");
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        errors.invalid_all(&path.child("storageClassName"), class, formats::dns_subdomain(class));
    }
    if let Some(mode) = field(spec, "volumeMode").and_then(Value::as_str) {
        errors.one_of(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

/// A claim may be bound once, and grow afterwards.
fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let bound = text_at(old, &["status", "phase"]) == "Bound";
    let mut allowed = new["spec"].clone();
    if text(&old["spec"], "volumeName").is_empty() {
        copy_field(&mut allowed, &old["spec"], "volumeName");
    }
    if field(&old["spec"], "storageClassName").is_none() && !bound {
        copy_field(&mut allowed, &old["spec"], "storageClassName");
    }
    if bound {
        copy_field(child(&mut allowed, "resources"), &old["spec"]["resources"], "requests");
    }
    copy_field(&mut allowed, &old["spec"], "volumeAttributesClassName");
    let changed = changes(&allowed, &old["spec"]);
    if !changed.is_empty() {
        let why =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden(&path, format!("{why}\n{}", changed.join("\n")));
    }
    let size = |claim: &Value| numbers::parse_quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let granted = numbers::parse_quantity(&old["status"]["capacity"]["storage"]);
    if size(new) < size(old) && size(new) <= granted {
        errors.forbidden(
            &path.child("resources").child("requests").child("storage"),
            "field can not be less than status.capacity",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    fn claim(size: &str, class: Option<&str>) -> Value {
        let mut claim =
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
        if let Some(class) = class {
            claim["spec"]["storageClassName"] = json!(class);
        }
        defaults(&mut claim);
        claim
    }

    #[test]
    fn only_a_bound_claim_may_grow() {
        let check = |new: &Value, old: &Value| {
            let mut errors = Errors::new();
            update(&mut errors, new, old);
            lines(errors.into_causes())
        };
        let mut old = claim("1Gi", Some("a"));
        assert_eq!(check(&claim("2Gi", Some("a")), &old).len(), 1);
        old["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        assert_eq!(check(&claim("2Gi", Some("a")), &old), Vec::<String>::new());
        assert!(
            check(&claim("2Gi", Some("b")), &old)[0].starts_with("spec: Forbidden: spec is immutable after creation")
        );
        assert_eq!(
            check(&claim("1Mi", Some("a")), &old),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
    }

    #[test]
    fn a_claim_needs_modes_and_size() {
        let mut errors = Errors::new();
        spec(&mut errors, &Path::new("spec"), &json!({}));
        assert_eq!(
            lines(errors.into_causes()),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources.requests[storage]: Required value"
            ]
        );
    }
}
