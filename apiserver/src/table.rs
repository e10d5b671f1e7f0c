//! Server-side tables: what `kubectl get` prints.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::{
    Object, Resource, Status,
    resource::{Column, ColumnSource},
};

use crate::render::{self, ListMeta};

/// How much of the object stands in each row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// From the query; 400 for other texts.
    pub fn parse(text: &str) -> Result<IncludeObject, Status> {
        match text {
            "" | "Metadata" => Ok(IncludeObject::Metadata),
            "None" => Ok(IncludeObject::None),
            "Object" => Ok(IncludeObject::Object),
            other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// The table of some objects. Column definitions can be left out, as in all
/// but the first event of a watch.
pub fn table(
    row: &Resource,
    objects: &[Arc<Object>],
    meta: &ListMeta,
    include: IncludeObject,
    columns: bool,
) -> Result<Value, Status> {
    let definitions = row.table_columns();
    let now = jiff::Timestamp::now();
    let rows = objects
        .iter()
        .map(|object| {
            let value = render::value_in(row, object)?;
            let cells: Vec<Value> = definitions.iter().map(|column| cell(column, &value, now)).collect();
            let mut line = json!({"cells": cells});
            match include {
                IncludeObject::None => {}
                IncludeObject::Metadata => {
                    line["object"] = json!({"kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]})
                }
                IncludeObject::Object => line["object"] = value,
            }
            Ok(line)
        })
        .collect::<Result<Vec<Value>, Status>>()?;
    let definitions: Vec<Value> = if columns { definitions.iter().map(definition).collect() } else { Vec::new() };
    Ok(json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta.value(),
        "columnDefinitions": definitions, "rows": rows}))
}

trait TableColumns {
    fn table_columns(&self) -> Vec<Column>;
}

impl TableColumns for Resource {
    /// The row's columns, or name and age.
    fn table_columns(&self) -> Vec<Column> {
        if !self.columns.is_empty() {
            return self.columns.clone();
        }
        let column = |name: &'static str, column_type: &'static str, format: &'static str, source| Column {
            name: name.into(),
            column_type: column_type.into(),
            format: format.into(),
            description: "".into(),
            priority: 0,
            source,
            absent: Value::Null,
        };
        vec![
            column("Name", "string", "name", ColumnSource::Name),
            column("Age", "date", "", ColumnSource::Age("/metadata/creationTimestamp".into())),
        ]
    }
}

fn definition(column: &Column) -> Value {
    json!({"name": column.name, "type": column.column_type, "format": column.format,
        "description": column.description, "priority": column.priority})
}

fn cell(column: &Column, object: &Value, now: jiff::Timestamp) -> Value {
    let found = match &column.source {
        ColumnSource::Name => object["metadata"]["name"].clone(),
        ColumnSource::Age(pointer) => {
            let time = object.pointer(pointer).and_then(Value::as_str);
            Value::String(skiff_api::timestamp::age(time, now))
        }
        ColumnSource::Pointer(pointer) => object.pointer(pointer).cloned().unwrap_or(Value::Null),
        ColumnSource::Path(path) => path_cell(column, path.select(object), now),
        ColumnSource::Computed(compute) => compute(object, now),
    };
    let empty = found.is_null() || found.as_str() == Some("");
    if empty && !column.absent.is_null() { column.absent.clone() } else { found }
}

/// Cells of custom resources are typed by their column.
fn path_cell(column: &Column, found: Vec<&Value>, now: jiff::Timestamp) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match column.column_type.as_ref() {
        "date" => Value::String(skiff_api::timestamp::age(first.as_str(), now)),
        "integer" | "number" | "boolean" if !first.is_string() => (*first).clone(),
        _ => match first {
            Value::String(text) => Value::String(text.clone()),
            other => Value::String(other.to_string()),
        },
    }
}
