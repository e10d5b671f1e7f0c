//! Rows from custom resource definitions.
//!
//! A definition becomes one [`Resource`] per served version. The definition is
//! expected to have passed validation: what is malformed here is an error that
//! names the part, never a panic or a silent gap.

use std::sync::Arc;

use serde_json::Value;

use super::build::storage_version_hash;
use crate::{
    GroupResource,
    group_version::{Name, api_version},
    json_path::{JsonPath, JsonPathError},
    printers,
    resource::{Column, ColumnSource, FieldSource, Origin, Resource, SelectableField, Subresource, Verbs},
    schema::structural::{self, StructuralError},
};

/// Why a definition does not make rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustomError {
    #[error("{0}: Required value")]
    Missing(&'static str),
    #[error(transparent)]
    Schema(#[from] StructuralError),
    #[error(transparent)]
    Column(#[from] JsonPathError),
}

/// The rows of all served versions of a `CustomResourceDefinition`.
pub fn rows(definition: &Value) -> Result<Vec<Resource>, CustomError> {
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    let versions = versions.ok_or(CustomError::Missing("spec.versions"))?;
    let storage = versions.iter().find(|version| version.get("storage") == Some(&Value::Bool(true)));
    let storage = storage.ok_or(CustomError::Missing("spec.versions[*].storage"))?;
    let served = versions.iter().filter(|version| version.get("served") == Some(&Value::Bool(true)));
    served.map(|version| row(definition, version, text(storage, "/name"))).collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn owned(text: &str) -> Name {
    Name::Owned(text.to_owned())
}

fn names(value: &Value, pointer: &str) -> Vec<Name> {
    let list = value.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(owned).collect()
}

fn required<'a>(value: &'a Value, pointer: &str, name: &'static str) -> Result<&'a str, CustomError> {
    Some(text(value, pointer)).filter(|text| !text.is_empty()).ok_or(CustomError::Missing(name))
}

fn row(definition: &Value, version: &Value, storage_version: &str) -> Result<Resource, CustomError> {
    let group = required(definition, "/spec/group", "spec.group")?;
    let plural = required(definition, "/spec/names/plural", "spec.names.plural")?;
    let kind = required(definition, "/spec/names/kind", "spec.names.kind")?;
    let name = required(version, "/name", "spec.versions[*].name")?;
    let or_derived = |pointer: &str, derived: String| match text(definition, pointer) {
        "" => Name::Owned(derived),
        given => owned(given),
    };
    let schema = match version.pointer("/schema/openAPIV3Schema") {
        Some(schema) => Some(structural::compile(&api_version(group, name), kind, schema)?),
        None => None,
    };
    let subresources = subresources(version, group, name, kind);
    Ok(Resource {
        group: owned(group),
        version: owned(name),
        kind: owned(kind),
        list_kind: or_derived("/spec/names/listKind", format!("{kind}List")),
        plural: owned(plural),
        singular: or_derived("/spec/names/singular", kind.to_lowercase()),
        short_names: names(definition, "/spec/names/shortNames"),
        categories: names(definition, "/spec/names/categories"),
        namespaced: text(definition, "/spec/scope") == "Namespaced",
        verbs: Verbs::STANDARD,
        status_isolated: subresources.iter().any(|sub| sub.name == "status"),
        subresources,
        origin: Origin::Custom,
        storage: Some(GroupResource { group: owned(group), resource: owned(plural) }),
        storage_version: Some((owned(group), owned(storage_version))),
        storage_version_hash: Name::Owned(storage_version_hash(group, storage_version, kind)),
        selectable_fields: selectable_fields(version),
        columns: columns(version)?,
        schema,
        open_api: version.pointer("/schema/openAPIV3Schema").cloned().map(Arc::new),
        create_on_update: false,
        unconditional_update: false,
        graceful_deletion: false,
        default_finalizers: Vec::new(),
        default_orphan: false,
    })
}

fn subresources(version: &Value, group: &str, name: &str, kind: &str) -> Vec<Subresource> {
    let has = |sub: &str| version.pointer(&format!("/subresources/{sub}")).is_some_and(|value| !value.is_null());
    let mut list = Vec::new();
    let verbs = Verbs::GET_PATCH_UPDATE;
    if has("status") {
        let (group, version, kind) = (owned(group), owned(name), owned(kind));
        list.push(Subresource { name: "status".into(), group, version, kind, verbs });
    }
    if has("scale") {
        let (group, version, kind) = ("autoscaling".into(), "v1".into(), "Scale".into());
        list.push(Subresource { name: "scale".into(), group, version, kind, verbs });
    }
    list
}

/// Selectable fields are simple paths: `.spec.color`.
fn selectable_fields(version: &Value) -> Vec<SelectableField> {
    let list = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    let paths = list.map(|field| text(field, "/jsonPath").trim_start_matches('.').to_owned());
    let field = |path: String| SelectableField {
        source: FieldSource::Pointer(Name::Owned(format!("/{}", path.replace('.', "/")))),
        path: Name::Owned(path),
        absent: "".into(),
    };
    paths.map(field).collect()
}

fn columns(version: &Value) -> Result<Vec<Column>, CustomError> {
    let mut columns = vec![printers::name()];
    let declared = version.get("additionalPrinterColumns").and_then(Value::as_array);
    for column in declared.into_iter().flatten() {
        columns.push(Column {
            name: owned(text(column, "/name")),
            column_type: owned(text(column, "/type")),
            format: owned(text(column, "/format")),
            description: owned(text(column, "/description")),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or_default() as i32,
            source: ColumnSource::Path(JsonPath::parse(text(column, "/jsonPath"))?),
            absent: Value::Null,
        });
    }
    if columns.len() == 1 {
        columns.push(printers::age());
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition() -> Value {
        json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas"}},
                    "selectableFields": [{"jsonPath": ".spec.color"}],
                    "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"color": {"type": "string"}}}}}}},
                {"name": "v1beta1", "served": true, "storage": false},
                {"name": "v1alpha1", "served": false, "storage": false}]}})
    }

    #[test]
    fn each_served_version_is_a_row_over_one_store() {
        let rows = rows(&definition()).unwrap();
        assert_eq!(rows.iter().map(|row| row.version.as_ref()).collect::<Vec<_>>(), ["v1", "v1beta1"]);
        assert!(rows.iter().all(|row| row.storage == Some(GroupResource::new("example.com", "widgets"))));
        assert_eq!(rows[1].storage_version, Some(("example.com".into(), "v1".into())));
        assert_eq!((rows[0].list_kind.as_ref(), rows[0].singular.as_ref()), ("WidgetList", "widget"));
        assert!(rows[0].status_isolated && !rows[1].status_isolated);
        assert_eq!(rows[0].subresource("scale").unwrap().kind, "Scale");
    }

    #[test]
    fn columns_and_selectors_read_the_object() {
        let rows = rows(&definition()).unwrap();
        let widget = json!({"metadata": {"name": "w"}, "spec": {"color": "red"}});
        let now = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(printers::cells(&rows[0], &widget, now), ["w", "red"]);
        assert_eq!(printers::cells(&rows[1], &widget, now), ["w", "<unknown>"]);
        assert_eq!(rows[0].field_value(&widget, "spec.color").as_deref(), Some("red"));
    }

    #[test]
    fn an_incomplete_definition_is_refused() {
        let mut broken = definition();
        broken["spec"]["names"]["kind"] = json!("");
        assert_eq!(rows(&broken).unwrap_err(), CustomError::Missing("spec.names.kind"));
        let mut broken = definition();
        broken["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"] = json!("][");
        assert!(matches!(rows(&broken), Err(CustomError::Column(_))));
    }
}
