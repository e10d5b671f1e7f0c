//! A custom resource definition as rows of the resource table, one per served version.

use std::borrow::Cow;

use serde_json::Value;
use skiff_api::{
    GroupResource, Resource,
    group_version::Name,
    json_path::JsonPath,
    resource::{Column, ColumnSource, FieldSource, Origin, SelectableField, Subresource, Verbs},
    schema::structural,
};

fn text(value: &Value, name: &str) -> Name {
    Cow::Owned(value[name].as_str().unwrap_or_default().to_owned())
}

fn texts(value: &Value, name: &str) -> Vec<Name> {
    let list = value[name].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(|text| Cow::Owned(text.to_owned())).collect()
}

/// The store of a definition's objects.
pub fn storage(definition: &Value) -> GroupResource {
    GroupResource { group: text(&definition["spec"], "group"), resource: text(&definition["spec"]["names"], "plural") }
}

/// The name of the version in which objects are stored.
pub fn storage_version(definition: &Value) -> Name {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    versions.into_iter().find(|version| version["storage"] == true).map(|version| text(version, "name")).unwrap_or_default()
}

/// Rows of all served versions.
pub fn rows(definition: &Value) -> Vec<Resource> {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    versions.filter(|version| version["served"] == true).map(|version| row(definition, version)).collect()
}

fn row(definition: &Value, version: &Value) -> Resource {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let accepted = &definition["status"]["acceptedNames"];
    let names = if accepted["plural"].as_str().is_some_and(|plural| !plural.is_empty()) { accepted } else { names };
    let group = text(spec, "group");
    let kind = text(names, "kind");
    let subresources = subresources(&group, version, &kind);
    Resource {
        version: text(version, "name"),
        list_kind: text(names, "listKind"),
        plural: text(names, "plural"),
        singular: text(names, "singular"),
        short_names: texts(names, "shortNames"),
        categories: texts(names, "categories"),
        namespaced: spec["scope"] == "Namespaced",
        verbs: Verbs::STANDARD,
        status_isolated: subresources.iter().any(|subresource| subresource.name == "status"),
        subresources,
        origin: Origin::Custom,
        storage: Some(storage(definition)),
        storage_version: Some((group.clone(), storage_version(definition))),
        storage_version_hash: Cow::Borrowed(""),
        selectable_fields: selectable_fields(version),
        columns: columns(version),
        schema: schema(&group, version, &kind),
        group,
        kind,
        create_on_update: false,
        unconditional_update: false,
        graceful_deletion: false,
        default_finalizers: Vec::new(),
        default_orphan: false,
    }
}

fn subresources(group: &Name, version: &Value, kind: &Name) -> Vec<Subresource> {
    let mut list = Vec::new();
    if version["subresources"]["status"].is_object() {
        list.push(Subresource {
            name: Cow::Borrowed("status"),
            group: group.clone(),
            version: text(version, "name"),
            kind: kind.clone(),
            verbs: Verbs::GET_PATCH_UPDATE,
        });
    }
    if version["subresources"]["scale"].is_object() {
        list.push(Subresource {
            name: Cow::Borrowed("scale"),
            group: Cow::Borrowed("autoscaling"),
            version: Cow::Borrowed("v1"),
            kind: Cow::Borrowed("Scale"),
            verbs: Verbs::GET_PATCH_UPDATE,
        });
    }
    list
}

/// The compiled schema; a definition whose schema does not compile is treated as schemaless.
fn schema(group: &str, version: &Value, kind: &str) -> Option<skiff_api::schema::Root> {
    let schema = version["schema"].get("openAPIV3Schema")?;
    // A root that keeps everything needs no table.
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true && schema["properties"].is_null();
    if open {
        return None;
    }
    let package = format!("{group}/{}", version["name"].as_str().unwrap_or_default());
    structural::compile(&package, kind, schema).ok()
}

/// `.spec.color` as a JSON pointer.
pub fn pointer(path: &str) -> String {
    path.split('.').filter(|part| !part.is_empty()).fold(String::new(), |pointer, part| format!("{pointer}/{part}"))
}

fn selectable_fields(version: &Value) -> Vec<SelectableField> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    fields
        .filter_map(|field| field["jsonPath"].as_str())
        .map(|path| SelectableField {
            path: Cow::Owned(path.trim_start_matches('.').to_owned()),
            source: FieldSource::Pointer(Cow::Owned(pointer(path))),
            absent: Cow::Borrowed(""),
        })
        .collect()
}

fn column(name: &'static str, column_type: &'static str, format: &'static str, source: ColumnSource) -> Column {
    Column {
        name: Cow::Borrowed(name),
        column_type: Cow::Borrowed(column_type),
        format: Cow::Borrowed(format),
        description: Cow::Borrowed(""),
        priority: 0,
        source,
        absent: Value::Null,
    }
}

/// The name, then the definition's columns, or the age when it has none.
fn columns(version: &Value) -> Vec<Column> {
    let mut columns = vec![column("Name", "string", "name", ColumnSource::Name)];
    let own = version["additionalPrinterColumns"].as_array().map(Vec::as_slice).unwrap_or_default();
    for definition in own {
        let Ok(path) = JsonPath::parse(definition["jsonPath"].as_str().unwrap_or_default()) else { continue };
        columns.push(Column {
            name: text(definition, "name"),
            column_type: text(definition, "type"),
            format: text(definition, "format"),
            description: text(definition, "description"),
            priority: definition["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            source: ColumnSource::Path(path),
            absent: Value::Null,
        });
    }
    if own.is_empty() {
        columns.push(column("Age", "date", "", ColumnSource::Age(Cow::Borrowed("/metadata/creationTimestamp"))));
    }
    columns
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_becomes_one_row_per_served_version() {
        let definition = json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {}},
                 "selectableFields": [{"jsonPath": ".spec.color"}],
                 "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}},
                {"name": "v0", "served": false, "storage": false}]}});
        let rows = rows(&definition);
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.api_version().as_str(), row.plural.as_ref()), ("example.com/v1", "widgets"));
        assert!(row.status_isolated && row.subresource("scale").is_some() && row.schema.is_some());
        assert_eq!(row.selectable_fields[0].path, "spec.color");
        assert_eq!(row.columns[1].name, "Size");
        assert_eq!(storage(&definition).to_string(), "widgets.example.com");
    }
}
