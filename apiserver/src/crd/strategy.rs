//! The behaviour of custom resources: validation against the definition's
//! schema, generations, and the `scale` view.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use skiff_api::{Cause, Status};

use super::{
    nulls,
    rules::{Pass, Rules},
    schema_validation,
};
use crate::registry::{Operation, RequestContext, Strategy, View};

/// Validates by version: objects are checked in the version of the request.
pub struct CustomStrategy {
    /// By `apiVersion`.
    versions: HashMap<String, Version>,
}

/// What one version asks for.
struct Version {
    schema: Value,
    rules: Option<Rules>,
    /// Whether a `status` subresource keeps status out of generations.
    status: bool,
    /// Warning of a deprecated version.
    deprecation: Option<String>,
}

impl CustomStrategy {
    pub fn new(definition: &Value) -> CustomStrategy {
        let group = definition["spec"]["group"].as_str().unwrap_or_default();
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default();
        let versions = definition["spec"]["versions"].as_array().into_iter().flatten().filter_map(|version| {
            let api_version = format!("{group}/{}", version["name"].as_str()?);
            let schema = version["schema"].get("openAPIV3Schema").cloned().unwrap_or_default();
            let rules = Rules::of(&schema);
            let deprecated = version["deprecated"] == true;
            let text = version["deprecationWarning"].as_str().map(str::to_owned);
            let deprecation = text.unwrap_or_else(|| format!("{api_version} {kind} is deprecated"));
            let status = version["subresources"]["status"].is_object();
            Some((api_version, Version { schema, rules, status, deprecation: deprecated.then_some(deprecation) }))
        });
        CustomStrategy { versions: versions.collect() }
    }

    fn version(&self, object: &Value) -> Option<&Version> {
        self.versions.get(object["apiVersion"].as_str().unwrap_or_default())
    }
}

impl Strategy for CustomStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        if let Some(version) = self.version(object) {
            nulls::prune(&version.schema, object);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let Some(version) = self.version(object) else { return Vec::new() };
        let mut causes = schema_validation::validate(&version.schema, object, op.old());
        // Rules assume that the types are right.
        if causes.is_empty()
            && let Some(rules) = &version.rules
        {
            let mut pass = Pass::new(false);
            pass.run(rules, "", object, op.old());
            causes.extend(pass.causes);
        }
        causes
    }

    fn warnings(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<String> {
        let Some(version) = self.version(object) else { return Vec::new() };
        let mut warnings: Vec<String> = version.deprecation.clone().into_iter().collect();
        if let (Some(rules), Some(old)) = (&version.rules, op.old()) {
            let mut pass = Pass::new(true);
            pass.run(rules, "", object, Some(old));
            warnings.extend(pass.warnings);
        }
        warnings
    }

    fn has_generation(&self, _object: &Value) -> bool {
        true
    }

    fn bumps_generation(&self, old: &Value, new: &Value) -> bool {
        let isolated = self.version(new).is_some_and(|version| version.status);
        let status_differs = !isolated && old.get("status") != new.get("status");
        status_differs || crate::registry::meta::spec_differs(old, new)
    }
}

/// `.spec.color` as a JSON pointer.
fn pointer(path: &str) -> String {
    path.split('.').filter(|part| !part.is_empty()).fold(String::new(), |pointer, part| format!("{pointer}/{part}"))
}

/// `scale` of a custom resource, by the paths of its definition.
pub struct CustomScale {
    spec_replicas: String,
    status_replicas: String,
    selector: Option<String>,
}

impl CustomScale {
    /// The scale of the first version that has one.
    pub fn new(definition: &Value) -> Option<CustomScale> {
        let versions = definition["spec"]["versions"].as_array()?;
        let scale = versions.iter().map(|version| &version["subresources"]["scale"]).find(|scale| scale.is_object())?;
        let path = |name: &str| scale[name].as_str().map(pointer);
        Some(CustomScale {
            spec_replicas: path("specReplicasPath")?,
            status_replicas: path("statusReplicasPath")?,
            selector: path("labelSelectorPath"),
        })
    }
}

impl View for CustomScale {
    fn show(&self, object: &Value) -> Result<Value, Status> {
        let replicas = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let mut metadata = Map::new();
        for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object["metadata"].get(name) {
                metadata.insert(name.to_owned(), value.clone());
            }
        }
        let mut status = json!({"replicas": replicas(&self.status_replicas)});
        let selector = self.selector.as_ref().and_then(|path| object.pointer(path)).and_then(Value::as_str);
        if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
            status["selector"] = json!(selector);
        }
        Ok(json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
            "spec": {"replicas": replicas(&self.spec_replicas)}, "status": status}))
    }

    fn replicas_path(&self) -> Vec<&str> {
        self.spec_replicas.split('/').filter(|part| !part.is_empty()).collect()
    }

    fn edit(&self, view: &Value, object: &mut Value) -> Result<(), Status> {
        let replicas = view["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let cause = Cause {
                reason: "FieldValueInvalid".to_owned(),
                field: "spec.replicas".to_owned(),
                message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            };
            let name = view["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Status::invalid("autoscaling", "Scale", name, vec![cause]));
        }
        let mut place = object;
        for part in self.replicas_path() {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[part];
        }
        *place = json!(replicas);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_follows_the_paths_of_the_definition() {
        let definition = json!({"spec": {"versions": [{"subresources": {"scale": {
            "specReplicasPath": ".spec.workers.count", "statusReplicasPath": ".status.count", "labelSelectorPath": ".status.selector"}}}]}});
        let scale = CustomScale::new(&definition).unwrap();
        let mut object = json!({"metadata": {"name": "a"}, "status": {"count": 2, "selector": "a=b"}});
        scale.edit(&json!({"spec": {"replicas": 4}}), &mut object).unwrap();
        assert_eq!(object["spec"]["workers"]["count"], 4);
        let shown = scale.show(&object).unwrap();
        assert_eq!((&shown["spec"]["replicas"], &shown["status"]["selector"]), (&json!(4), &json!("a=b")));
        assert!(scale.edit(&json!({"spec": {"replicas": -1}}), &mut object).is_err());
    }
}
