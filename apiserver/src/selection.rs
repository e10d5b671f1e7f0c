//! Which objects a list, a watch or a deletecollection is about.

use std::{str::FromStr, sync::Arc};

use serde_json::Value;
use skiff_api::{FieldSelector, Object, Resource, Selector, Status};

use crate::conversion;

/// Namespace, labels and fields together.
#[derive(Clone)]
pub struct Selection {
    row: Arc<Resource>,
    /// `None`: all namespaces.
    pub namespace: Option<String>,
    pub labels: Selector,
    pub fields: FieldSelector,
}

/// The values of all selectable fields of an object, in the order of the row;
/// calculated once per object.
struct FieldValues(Vec<String>);

impl Selection {
    /// Reads both selectors; 400 for what upstream refuses.
    pub fn parse(
        row: &Arc<Resource>,
        namespace: Option<&str>,
        label_selector: &str,
        field_selector: &str,
    ) -> Result<Selection, Status> {
        let labels = Selector::from_str(label_selector).map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = FieldSelector::from_str(field_selector).map_err(|error| Status::bad_request(error.to_string()))?;
        fields.check(row).map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Selection { row: Arc::clone(row), namespace: namespace.map(str::to_owned), labels, fields })
    }

    /// The same selection of one name.
    pub fn with_name(mut self, name: &str) -> Selection {
        self.fields = self.fields.and("metadata.name", name);
        self
    }

    /// Without what it says of fields.
    pub fn without_fields(&self) -> Selection {
        Selection { fields: FieldSelector::default(), ..self.clone() }
    }

    /// Whether nothing but the namespace selects.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The value a field must have, when one is demanded.
    pub fn field(&self, path: &str) -> Option<&str> {
        self.fields.exact(path)
    }

    pub fn matches(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == object.meta.namespace)
            && self.labels.matches(&object.meta.labels)
            && (self.fields.is_everything() || self.fields.matches_with(|path| self.field_value(path, object)))
    }

    fn field_value(&self, path: &str, object: &Object) -> String {
        match path {
            "metadata.name" => return object.meta.name.clone(),
            "metadata.namespace" => return object.meta.namespace.clone(),
            _ => {}
        }
        let fields = &self.row.selectable_fields;
        if object.api_version() != self.row.api_version() {
            // A view in another version: its fields have other places.
            let value = object.value().map(|value| conversion::to_row(value, &self.row));
            return value.ok().and_then(|value| self.row.field_value(&value, path)).unwrap_or_default();
        }
        let Some(position) = fields.iter().position(|field| field.path == path) else { return String::new() };
        let values = object.derive(|json| {
            let value: Value = serde_json::from_slice(json)?;
            Ok::<_, serde_json::Error>(FieldValues(fields.iter().map(|field| field.value(&value)).collect()))
        });
        match values {
            Ok(values) => values.0.get(position).cloned().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_refused_and_a_known_one_compares() {
        let registry = skiff_api::ResourceRegistry::builtin();
        let pods = registry.lookup("", "v1", "pods").unwrap();
        assert!(Selection::parse(&pods, None, "", "spec.nonsense=1").is_err());
        let selection = Selection::parse(&pods, Some("n"), "", "spec.nodeName=one").unwrap();
        let pod = |node: &str, namespace: &str| {
            Object::from_value(&serde_json::json!({"kind": "Pod", "apiVersion": "v1",
                "metadata": {"name": "p", "namespace": namespace}, "spec": {"nodeName": node}}))
            .unwrap()
        };
        assert!(selection.matches(&pod("one", "n")));
        assert!(!selection.matches(&pod("two", "n")));
        assert!(!selection.matches(&pod("one", "m")));
    }
}
