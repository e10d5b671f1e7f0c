//! Server-side tables: what `kubectl get` prints.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::{Object, Resource, Status, printers, timestamp};

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
    let now = jiff::Timestamp::now();
    let rows = objects
        .iter()
        .map(|object| {
            let value = render::value_in(row, object)?;
            Ok(line(printers::cells(row, &value, now), value, include))
        })
        .collect::<Result<Vec<Value>, Status>>()?;
    let definitions = if columns { printers::column_definitions(row) } else { Vec::new() };
    Ok(json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta.value(),
        "columnDefinitions": definitions, "rows": rows}))
}

fn line(cells: Vec<Value>, object: Value, include: IncludeObject) -> Value {
    let mut line = json!({"cells": cells});
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => line["object"] = render::partial_of(&object),
        IncludeObject::Object => line["object"] = object,
    }
    line
}

/// The table of one `Scale`.
pub fn scale(scale: &Value, include: IncludeObject) -> Value {
    let age = timestamp::age(scale["metadata"]["creationTimestamp"].as_str(), jiff::Timestamp::now());
    let replicas = |of: &str| json!(scale[of]["replicas"].as_i64().unwrap_or(0));
    let cells = vec![scale["metadata"]["name"].clone(), replicas("spec"), replicas("status"), json!(age)];
    let definitions = [("Name", "string"), ("Desired", "integer"), ("Available", "integer"), ("Age", "string")];
    let define = |(name, kind)| json!({"name": name, "type": kind, "format": "", "description": "", "priority": 0});
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]},
        "columnDefinitions": definitions.map(define), "rows": [line(cells, scale.clone(), include)]})
}
