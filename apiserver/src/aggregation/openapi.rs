//! Parts of remote servers in our OpenAPI documents: pure.

use serde_json::{Map, Value, json};

use super::Learned;

/// What of a remote server's v2 document is about its group version: those
/// paths, and the definitions they need, directly or not.
pub fn part_of(mut document: Value, group: &str, version: &str) -> Value {
    let prefix = format!("/apis/{group}/{version}/");
    let paths: Map<String, Value> = match document["paths"].take() {
        Value::Object(paths) => paths.into_iter().filter(|(path, _)| path.starts_with(&prefix)).collect(),
        _ => Map::new(),
    };
    let Value::Object(all) = document["definitions"].take() else { return Value::Null };
    let mut definitions = Map::new();
    let mut open = Vec::new();
    paths.values().for_each(|item| references(item, &mut open));
    let of_group = |definition: &Value| {
        let kinds = definition["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|kind| kind["group"] == group && kind["version"] == version)
    };
    open.extend(all.iter().filter(|(_, definition)| of_group(definition)).map(|(name, _)| name.clone()));
    while let Some(name) = open.pop() {
        if definitions.contains_key(&name) {
            continue;
        }
        let Some(definition) = all.get(&name) else { continue };
        references(definition, &mut open);
        definitions.insert(name, definition.clone());
    }
    if paths.is_empty() && definitions.is_empty() {
        return Value::Null;
    }
    json!({"paths": paths, "definitions": definitions})
}

/// Names of the definitions a value refers to.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().filter(|_| key == "$ref").and_then(|text| text.strip_prefix("#/definitions/")) {
                    Some(name) => found.push(name.to_owned()),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// Adds the remote parts to our document; what we say ourselves stands.
pub fn merge_v2(document: &mut Value, learned: &[Learned]) {
    for part in learned.iter().map(|learned| &learned.openapi_v2) {
        for kind in ["paths", "definitions"] {
            let (Some(into), Some(from)) = (document[kind].as_object_mut(), part[kind].as_object()) else { continue };
            for (name, value) in from {
                into.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Adds the remote documents to our v3 index.
pub fn merge_v3(paths: &mut Map<String, Value>, learned: &[Learned]) {
    for remote in learned {
        if let Some(url) = &remote.openapi_v3 {
            paths.insert(format!("apis/{}/{}", remote.group, remote.version), json!({"serverRelativeURL": url}));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_part_is_what_the_group_version_needs() {
        let document = json!({
            "paths": {"/apis/g/v1/flunders": {"get": {"schema": {"$ref": "#/definitions/Flunder"}}}, "/version": {}},
            "definitions": {
                "Flunder": {"properties": {"metadata": {"$ref": "#/definitions/Meta"}}},
                "Meta": {"type": "object"}, "Other": {},
                "Kind": {"x-kubernetes-group-version-kind": [{"group": "g", "version": "v1", "kind": "Kind"}]},
            },
        });
        let part = part_of(document, "g", "v1");
        assert_eq!(part["paths"].as_object().unwrap().len(), 1);
        let names: Vec<&String> = part["definitions"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["Flunder", "Kind", "Meta"]);
        let mut ours = json!({"paths": {}, "definitions": {"Meta": {"ours": true}}});
        merge_v2(&mut ours, &[Learned { openapi_v2: Arc::new(part), ..Learned::default() }]);
        assert_eq!(ours["definitions"]["Meta"], json!({"ours": true}));
        assert!(ours["definitions"]["Flunder"].is_object());
    }
}
