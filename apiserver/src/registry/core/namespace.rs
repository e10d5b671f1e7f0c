//! Namespaces: marked with their own name, and gone only when emptied.

use serde_json::{Value, json};
use skiff_api::Cause;

use crate::registry::{
    names,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{child, copy_field, default_text, items_mut, list_at, name, set, text},
};

/// Label that names the namespace, for selectors.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Finalizer of `spec.finalizers` that the namespace controller removes.
pub const FINALIZER: &str = "kubernetes";

pub struct NamespaceStrategy;

impl Strategy for NamespaceStrategy {
    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        match op {
            Operation::Create => {
                let finalizers = items_mut(child(object, "spec"), "finalizers");
                if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
                    finalizers.push(FINALIZER.into());
                }
                set(object, "status", json!({"phase": "Active"}));
            }
            Operation::Update { old } => {
                copy_field(child(object, "spec"), &old["spec"], "finalizers");
                copy_field(object, old, "status");
            }
            Operation::Subresource { old, .. } => copy_field(object, old, "status"),
            Operation::Delete => set(child(object, "status"), "phase", "Terminating"),
            Operation::Status { .. } => default_text(child(object, "status"), "phase", "Active"),
        }
        if !matches!(op, Operation::Status { .. }) {
            let own = name(object).to_owned();
            set(child(child(object, "metadata"), "labels"), NAME_LABEL, own);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let spec = Path::new("spec");
        let path = spec.child("finalizers");
        for finalizer in list_at(object, &["spec", "finalizers"]).iter().filter_map(Value::as_str) {
            let messages = formats::qualified_name(finalizer);
            if messages.is_empty() && !finalizer.contains('/') && finalizer != FINALIZER {
                errors.invalid(&path, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
            }
            errors.invalid_all(&path, finalizer, messages);
        }
        if let Operation::Status { old } = op
            && old["metadata"].get("deletionTimestamp").is_none()
            && text(&object["status"], "phase") == "Terminating"
        {
            let status = Path::new("status");
            errors.invalid(
                &status.child("phase"),
                "Terminating",
                "may only be 'Active' if `deletionTimestamp` is empty",
            );
        }
        errors.into_causes()
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(name, prefix)
    }

    fn may_remove(&self, object: &Value) -> bool {
        list_at(object, &["spec", "finalizers"]).is_empty()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};

    #[test]
    fn a_new_namespace_is_marked_and_active() {
        let namespace = made(&NamespaceStrategy, json!({"metadata": {"name": "a"}}));
        assert_eq!(
            namespace,
            json!({"metadata": {"name": "a", "labels": {NAME_LABEL: "a"}}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        assert!(!NamespaceStrategy.may_remove(&namespace));
        assert!(NamespaceStrategy.may_remove(&json!({"spec": {"finalizers": []}})));
    }

    #[test]
    fn finalizers_are_known_or_qualified_and_change_only_by_finalize() {
        assert_eq!(
            wrong(
                &NamespaceStrategy,
                json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["foo", "example.com/x"]}})
            ),
            [
                "spec.finalizers: Invalid value: \"foo\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
        let named = |finalizers: Value| json!({"metadata": {"name": "a"}, "spec": {"finalizers": finalizers}});
        assert!(wrong_update(&NamespaceStrategy, named(json!([])), named(json!([]))).is_empty());
    }
}
