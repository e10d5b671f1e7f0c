//! Ownership of the one field of an object that a view such as `scale` shows.
//!
//! A view is applied like an object of its own: its managed fields are those of
//! the object that own the field, under the path that it has in the view.
//! Afterwards they are carried back: who lost the field in the view loses it in
//! the object, who won it there owns it here.

use serde_json::Value;

use super::{fieldset::FieldSet, managed_fields::ManagedFields};

/// Where the shown field lies.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub in_object: &'a [&'a str],
    pub in_view: &'a [&'a str],
}

impl Shown<'_> {
    /// Who owns the field, as managed fields of the view.
    pub fn owners(&self, object: &Value) -> ManagedFields {
        let (here, there) = (FieldSet::of_fields(&[self.in_object]), FieldSet::of_fields(&[self.in_view]));
        let mut managed = ManagedFields::of(object).unwrap_or_default();
        managed.0.retain(|entry| !entry.fields.intersection(&here).is_empty());
        for entry in &mut managed.0 {
            entry.fields = there.clone();
        }
        managed
    }

    /// The managed fields of the object after those of its view have become `view`.
    /// Entries that are new are of `api_version`.
    pub fn carry_back(&self, object: &Value, mut view: ManagedFields, api_version: &str) -> ManagedFields {
        let (here, there) = (FieldSet::of_fields(&[self.in_object]), FieldSet::of_fields(&[self.in_view]));
        view.0.retain(|entry| !entry.fields.intersection(&there).is_empty());
        let mut managed = ManagedFields::of(object).unwrap_or_default();
        for entry in managed.0.iter_mut().filter(|entry| !entry.fields.intersection(&here).is_empty()) {
            match view.0.iter().position(|owner| owner.same_owner(entry)) {
                Some(kept) => drop(view.0.remove(kept)),
                None => entry.fields.remove(&here),
            }
        }
        for mut entry in view.0 {
            entry.fields = here.clone();
            api_version.clone_into(&mut entry.api_version);
            managed.0.push(entry);
        }
        managed.tidy();
        managed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHOWN: Shown<'_> = Shown { in_object: &["spec", "workers"], in_view: &["spec", "replicas"] };

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "e.io/v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    fn names(managed: &ManagedFields) -> Vec<(&str, Vec<String>)> {
        managed.0.iter().map(|entry| (entry.manager.as_str(), entry.fields.paths())).collect()
    }

    #[test]
    fn owners_of_the_field_are_shown_and_carried_back() {
        let both = json!({"f:spec": {"f:workers": {}, "f:color": {}}});
        let object = json!({"metadata": {"managedFields": [entry("a", "Apply", both.clone()),
            entry("b", "Update", json!({"f:spec": {"f:color": {}}})), entry("c", "Update", json!({"f:spec": {"f:workers": {}}}))]}});
        let view = SHOWN.owners(&object);
        let replicas = || vec![".spec.replicas".to_owned()];
        assert_eq!(names(&view), [("a", replicas()), ("c", replicas())]);
        // Nothing changed: the same entries.
        assert_eq!(names(&SHOWN.carry_back(&object, view.clone(), "e.io/v1")).len(), 3);
        // Another took the field from both.
        let taken =
            json!({"metadata": {"managedFields": [entry("d", "Apply", json!({"f:spec": {"f:replicas": {}}}))]}});
        let after = SHOWN.carry_back(&object, ManagedFields::of(&taken).unwrap(), "e.io/v2");
        let (color, workers) = (vec![".spec.color".to_owned()], vec![".spec.workers".to_owned()]);
        assert_eq!(names(&after), [("a", color.clone()), ("d", workers), ("b", color)]);
        assert_eq!(after.0[1].api_version, "e.io/v2");
    }
}
