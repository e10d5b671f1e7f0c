//! Events: short-lived, and stored once for both API groups.

use serde_json::Value;
use skiff_api::Cause;

use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path},
    value::{field, namespace, text, text_at},
};

/// Seconds an event is kept, as upstream's `--event-ttl`.
const TTL_SECONDS: u64 = 3600;
const ACTION_BYTES_MAX: usize = 128;
const REASON_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

pub struct EventStrategy;

impl Strategy for EventStrategy {
    fn validate(&self, context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        namespace_of_subject(&mut errors, object);
        if context.api_version == "events.k8s.io/v1" && field(object, "eventTime").is_some() {
            strict(&mut errors, object, op.is_create());
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }

    fn ttl_seconds(&self, _object: &Value) -> Option<u64> {
        Some(TTL_SECONDS)
    }
}

/// An event lies in the namespace of what it is about; `default` for cluster-scoped things.
fn namespace_of_subject(errors: &mut Errors, object: &Value) {
    let subject = if object.get("regarding").is_some() { "regarding" } else { "involvedObject" };
    let about = text_at(object, &[subject, "namespace"]);
    let own = namespace(object);
    let fits = if about.is_empty() { matches!(own, "default" | "kube-system") } else { about == own };
    if !fits && !own.is_empty() {
        let path = Path::new("involvedObject");
        errors.invalid(&path.child("namespace"), about, "does not match event.namespace");
    }
}

/// The rules of new-style events, which core/v1 never had.
fn strict(errors: &mut Errors, object: &Value, create: bool) {
    let component =
        if object.get("reportingController").is_some() { "reportingController" } else { "reportingComponent" };
    if text(object, component).is_empty() {
        errors.required(&Path::new("reportingController"), "");
    }
    if text(object, "reportingInstance").is_empty() {
        errors.required(&Path::new("reportingInstance"), "");
    }
    for (name, bytes_max) in [("action", ACTION_BYTES_MAX), ("reason", REASON_BYTES_MAX)] {
        if text(object, name).is_empty() && create {
            errors.required(&Path::new(name), "");
        } else if text(object, name).len() > bytes_max {
            errors.invalid(&Path::new(name), "", format!("can have at most {bytes_max} characters"));
        }
    }
    let note = if object.get("note").is_some() { "note" } else { "message" };
    if text(object, note).len() > NOTE_BYTES_MAX {
        errors.invalid(&Path::new("message"), "", format!("can have at most {NOTE_BYTES_MAX} characters"));
    }
    if !matches!(text(object, "type"), "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {}", text(object, "type")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{testing::wrong, validation::lines};
    use serde_json::json;

    #[test]
    fn an_event_lies_beside_its_subject() {
        let event =
            |own: &str, about: &str| json!({"metadata": {"namespace": own}, "involvedObject": {"namespace": about}});
        assert!(wrong(&EventStrategy, event("a", "a")).is_empty());
        assert!(wrong(&EventStrategy, event("default", "")).is_empty());
        assert_eq!(
            wrong(&EventStrategy, event("a", "b")),
            ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
        );
        assert_eq!(EventStrategy.ttl_seconds(&json!({})), Some(3600));
    }

    #[test]
    fn new_style_events_say_who_reports() {
        let mut errors = Errors::new();
        strict(&mut errors, &json!({"reportingComponent": "c", "action": "a", "reason": "r", "type": "Odd"}), true);
        assert_eq!(
            lines(errors.into_causes()),
            ["reportingInstance: Required value", "type: Invalid value: \"\": has invalid value: Odd"]
        );
    }
}
