//! Groups `node.k8s.io` and `apiregistration.k8s.io`: RuntimeClasses and APIServices.

use serde_json::Value;
use skiff_api::Cause;

use super::{
    core::pod::{resources::resource_quantity, scheduling},
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats, meta},
    value::{child, copy_field, default, entries, existing, field, int, list, name, set, text},
};
use crate::aggregation::availability::{self, Verdict};

/// RuntimeClasses: the handler is fixed.
pub struct RuntimeClassStrategy;

impl Strategy for RuntimeClassStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let handler = Path::new("handler");
        match text(object, "handler") {
            "" => errors.required(&handler, ""),
            name => errors.invalid_all(&handler, name, formats::dns_label(name)),
        }
        let overhead = Path::new("overhead");
        let fixed = overhead.child("podFixed");
        for (name, quantity) in entries(&object["overhead"], "podFixed") {
            resource_quantity(&mut errors, &fixed.key(name), name, quantity);
        }
        let scheduling_path = Path::new("scheduling");
        let place = &object["scheduling"];
        meta::labels(&mut errors, &scheduling_path.child("nodeSelector"), &place["nodeSelector"]);
        scheduling::tolerations(&mut errors, &scheduling_path.child("tolerations"), list(place, "tolerations"));
        if let Operation::Update { old } = op {
            errors.immutable(&handler, &object["handler"], &old["handler"]);
        }
        errors.into_causes()
    }
}

/// APIServices: named `<version>.<group>`.
pub struct ApiServiceStrategy;

impl Strategy for ApiServiceStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        if let Some(service) = existing(child(object, "spec"), "service") {
            default(service, "port", 443);
        }
    }

    /// What is served here is available from the start; a remote server must be asked first.
    fn prepare(&self, context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        match op {
            Operation::Create => {
                super::value::remove(object, "status");
                if field(&object["spec"], "service").is_none()
                    && let Some(status) = availability::status(object, &Verdict::local(), context.now)
                {
                    set(object, "status", status);
                }
            }
            Operation::Update { old } => copy_field(object, old, "status"),
            _ => {}
        }
    }

    /// The core group's is `v1.`, which is no DNS name.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        super::names::path_segment(name, prefix)
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if matches!(op, Operation::Status { .. }) {
            return Vec::new();
        }
        let path = Path::new("spec");
        let spec = &object["spec"];
        let wanted = format!("{}.{}", text(spec, "version"), text(spec, "group"));
        let metadata = Path::new("metadata");
        if name(object) != wanted {
            errors.invalid(
                &metadata.child("name"),
                name(object),
                format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"),
            );
        }
        for (number, max) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
            let value = int(spec, number).unwrap_or(0);
            if value <= 0 || value > max {
                errors.invalid(&path.child(number), value, format!("must be positive and less than {max}"));
            }
        }
        let insecure = spec["insecureSkipTLSVerify"].as_bool().unwrap_or(false);
        let bundle = !text(spec, "caBundle").is_empty();
        match field(spec, "service") {
            None if insecure || bundle => {
                errors.invalid(
                    &path.child("insecureSkipTLSVerify"),
                    insecure,
                    "local APIServices may not have a caBundle or skip verification",
                );
            }
            None => {}
            Some(service) => {
                for name in ["name", "namespace"] {
                    if text(service, name).is_empty() {
                        errors.required(&path.child("service").child(name), "");
                    }
                }
                if insecure && bundle {
                    errors.invalid(
                        &path.child("insecureSkipTLSVerify"),
                        true,
                        "may not be true if caBundle is present",
                    );
                }
            }
        }
        errors.into_causes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};
    use serde_json::json;

    #[test]
    fn handlers_are_named_and_stay() {
        assert_eq!(wrong(&RuntimeClassStrategy, json!({})), ["handler: Required value"]);
        assert_eq!(
            wrong_update(&RuntimeClassStrategy, json!({"handler": "b"}), json!({"handler": "a"})),
            ["handler: Invalid value: \"b\": field is immutable"]
        );
    }

    #[test]
    fn api_services_are_named_after_what_they_serve() {
        let service = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"group": "g.example", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
                "service": {"name": "s", "namespace": "n"}}})
        };
        assert_eq!(made(&ApiServiceStrategy, service("v1.g.example"))["spec"]["service"]["port"], 443);
        assert!(wrong(&ApiServiceStrategy, service("v1.g.example")).is_empty());
        assert_eq!(wrong(&ApiServiceStrategy, service("x")).len(), 1);
    }
}
