//! CustomResourceDefinition: names, versions and what may not change.

use serde_json::{Value, json};
use skiff_api::{Cause, Status, json_path::JsonPath};

use super::{
    Operation, RequestContext, Strategy, meta,
    validation::{Errors, Path, formats},
};
use crate::crd::CLEANUP_FINALIZER;

/// The strategy of definitions.
pub struct CustomResourceDefinitionStrategy;

impl Strategy for CustomResourceDefinitionStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
        if spec["names"].is_object() && !kind.is_empty() {
            let names = &mut spec["names"];
            let empty = |value: &Value| value.as_str().unwrap_or_default().is_empty();
            if empty(&names["singular"]) {
                names["singular"] = json!(kind.to_lowercase());
            }
            if empty(&names["listKind"]) {
                names["listKind"] = json!(format!("{kind}List"));
            }
        }
        if spec["conversion"].is_null() {
            spec["conversion"] = json!({"strategy": "None"});
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            object["status"] =
                json!({"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": []});
            let storage = object["spec"]["versions"].as_array().into_iter().flatten().find(|v| v["storage"] == true);
            if let Some(name) = storage.map(|version| version["name"].clone()) {
                object["status"]["storedVersions"] = json!([name]);
            }
        }
        // The objects must go before their definition does.
        if matches!(op, Operation::Create) {
            let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
            if !finalizers.iter().any(|name| name == CLEANUP_FINALIZER) {
                finalizers.push(CLEANUP_FINALIZER.to_owned());
            }
            meta::set_finalizers(object, &finalizers);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if matches!(op, Operation::Status { .. }) {
            return errors.into_causes();
        }
        let spec = &object["spec"];
        let path = Path::new("spec");
        validate_names(&mut errors, &path, object);
        if let Some(old) = op.old() {
            for field in ["group", "scope"] {
                errors.immutable(&path.child(field), &spec[field], &old["spec"][field]);
            }
            let names = path.child("names");
            for field in ["plural", "kind"] {
                if established(old) {
                    errors.immutable(&names.child(field), &spec["names"][field], &old["spec"]["names"][field]);
                }
            }
        }
        validate_versions(&mut errors, &path.child("versions"), spec);
        errors.into_causes()
    }

    fn validate_delete(&self, _context: &RequestContext<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }
}

fn established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

fn validate_names(errors: &mut Errors, path: &Path<'_>, object: &Value) {
    let spec = &object["spec"];
    let group = spec["group"].as_str().unwrap_or_default();
    let names = path.child("names");
    if group.is_empty() {
        errors.required(&path.child("group"), "");
    } else {
        errors.invalid_all(&path.child("group"), group, formats::dns_subdomain(group));
        if !group.contains('.') {
            errors.invalid(&path.child("group"), group, "should be a domain with at least one dot");
        }
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let text = spec["names"][field].as_str().unwrap_or_default();
        if text.is_empty() {
            errors.required(&names.child(field), "");
        } else {
            errors.invalid_all(&names.child(field), text, formats::dns_1035_label(&text.to_lowercase()));
        }
    }
    let name = meta::text(object, "name");
    let wanted = format!("{}.{group}", spec["names"]["plural"].as_str().unwrap_or_default());
    if name != wanted {
        let metadata = Path::new("metadata");
        errors.invalid(&metadata.child("name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    errors.one_of(&path.child("scope"), spec["scope"].as_str().unwrap_or_default(), &["Cluster", "Namespaced"]);
    let strategy = spec["conversion"]["strategy"].as_str().unwrap_or_default();
    errors.one_of(&path.child("conversion").child("strategy"), strategy, &["None", "Webhook"]);
}

fn validate_versions(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let storage = versions.iter().filter(|version| version["storage"] == true).count();
    if storage != 1 {
        errors.invalid(path, &spec["versions"], "must have exactly one version marked as storage version");
    }
    for (index, version) in versions.iter().enumerate() {
        let at = path.index(index);
        let name = version["name"].as_str().unwrap_or_default();
        errors.invalid_all(&at.child("name"), name, formats::dns_1035_label(name));
        if versions[..index].iter().any(|other| other["name"] == name) {
            errors.duplicate(&at.child("name"), name);
        }
        let schema = at.child("schema");
        let root = &version["schema"]["openAPIV3Schema"];
        if root.is_null() {
            errors.required(&schema.child("openAPIV3Schema"), "schemas are required");
        } else if root["type"] != "object" && root["x-kubernetes-preserve-unknown-fields"] != true {
            let type_path = schema.child("openAPIV3Schema");
            if root["type"].is_null() {
                errors.required(&type_path.child("type"), "must not be empty at the root");
            } else {
                errors.invalid(&type_path.child("type"), &root["type"], "must be object at the root");
            }
        }
        validate_patterns(errors, &schema.child("openAPIV3Schema"), root, 0);
        let columns = at.child("additionalPrinterColumns");
        for (index, column) in version["additionalPrinterColumns"].as_array().into_iter().flatten().enumerate() {
            let text = column["jsonPath"].as_str().unwrap_or_default();
            if JsonPath::parse(text).is_err() {
                errors.invalid(&columns.index(index).child("jsonPath"), text, "is an invalid path");
            }
        }
    }
}

/// Patterns are compiled when objects are checked, so they must compile.
fn validate_patterns(errors: &mut Errors, path: &Path<'_>, schema: &Value, depth: usize) {
    const DEPTH_MAX: usize = 100;
    if depth > DEPTH_MAX {
        return;
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex::Regex::new(pattern)
    {
        errors.invalid(
            &path.child("pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {error}"),
        );
    }
    let properties = path.child("properties");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        validate_patterns(errors, &properties.key(name), property, depth + 1);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            validate_patterns(errors, &path.child(name), &schema[name], depth + 1);
        }
    }
}
