//! CustomResourceDefinition: names, versions, conversion and what may not
//! change. Schemas are checked by [`crate::crd::check`].

use serde_json::{Value, json};
use skiff_api::{Cause, json_path::JsonPath};

use super::{
    Operation, RequestContext, Strategy, meta,
    validation::{Errors, Path, formats},
};
use crate::crd::{CLEANUP_FINALIZER, check, field_path};

/// Fields of one version by which objects can be selected.
const SELECTABLE_FIELDS_MAX: usize = 8;
/// Needed on definitions in the groups of Kubernetes itself.
pub const APPROVED_ANNOTATION: &str = "api-approved.kubernetes.io";

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
        let service = spec.pointer_mut("/conversion/webhook/clientConfig/service");
        if let Some(service) = service.filter(|service| service.is_object() && service["port"].is_null()) {
            service["port"] = json!(443);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            object["status"] =
                json!({"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": []});
        }
        if matches!(op, Operation::Create | Operation::Update { .. }) {
            store_version(object);
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
            let status = Path::new("status");
            names(&mut errors, &status.child("acceptedNames"), &object["status"]["acceptedNames"]);
            return errors.into_causes();
        }
        let old = op.old();
        identity(&mut errors, object);
        validate_spec(&mut errors, &object["spec"], old);
        if let Some(old) = old {
            unchanged(&mut errors, object, old);
        }
        stored_versions(&mut errors, object);
        approval(&mut errors, object, old);
        errors.into_causes()
    }

    fn warnings(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<String> {
        let versions = object["spec"]["versions"].as_array().into_iter().flatten().enumerate();
        let mut warnings = Vec::new();
        for (index, version) in versions {
            let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
            unknown_formats(&path, &version["schema"]["openAPIV3Schema"], 0, &mut warnings);
        }
        warnings
    }
}

/// The storage version is a stored version.
fn store_version(object: &mut Value) {
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let storage = versions.into_iter().find(|version| version["storage"] == true);
    let Some(name) = storage.map(|version| version["name"].clone()) else { return };
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    match object["status"]["storedVersions"].as_array_mut() {
        Some(stored) if stored.contains(&name) => {}
        Some(stored) => stored.push(name),
        None => object["status"]["storedVersions"] = json!([name]),
    }
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

fn identity(errors: &mut Errors, object: &Value) {
    let name = meta::text(object, "name");
    let spec = &object["spec"];
    if name != format!("{}.{}", text(&spec["names"], "plural"), text(spec, "group")) {
        let metadata = Path::new("metadata");
        errors.invalid(&metadata.child("name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
}

fn validate_spec(errors: &mut Errors, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    let group = text(spec, "group");
    let at_group = path.child("group");
    let problems = formats::dns_subdomain(group);
    if group.is_empty() {
        errors.required(&at_group, "");
    } else if !problems.is_empty() {
        errors.invalid(&at_group, group, problems.join(","));
    } else if !group.contains('.') {
        errors.invalid(&at_group, group, "should be a domain with at least one dot");
    }
    errors.one_of(&path.child("scope"), text(spec, "scope"), &["Cluster", "Namespaced"]);
    let at_versions = path.child("versions");
    let all = list(spec, "versions");
    for (index, version) in all.iter().enumerate() {
        let before = old.map(|old| list(&old["spec"], "versions"));
        let before = before.and_then(|all| all.iter().find(|other| other["name"] == version["name"]));
        validate_version(errors, &at_versions.index(index), version, before);
    }
    let repeated = all
        .iter()
        .enumerate()
        .any(|(index, version)| all[..index].iter().any(|other| other["name"] == version["name"]));
    if repeated {
        errors.invalid(&at_versions, &spec["versions"], "must contain unique version names");
    }
    if all.iter().filter(|version| version["storage"] == true).count() != 1 {
        errors.invalid(&at_versions, &spec["versions"], "must have exactly one version marked as storage version");
    }
    if spec["preserveUnknownFields"] == true {
        errors.invalid(
            &path.child("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    let at_names = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], field).is_empty() {
            errors.required(&at_names.child(field), "");
        }
    }
    names(errors, &at_names, &spec["names"]);
    conversion(errors, &path.child("conversion"), &spec["conversion"]);
}

fn names(errors: &mut Errors, path: &Path<'_>, names: &Value) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = text(names, field);
        let problems = formats::dns_1035_label(&name.to_lowercase());
        let mixed = field.to_lowercase().ends_with("kind");
        let problems = if mixed { problems } else { formats::dns_1035_label(name) };
        if !name.is_empty() && !problems.is_empty() {
            let lead = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(&path.child(field), name, format!("{lead}{}", problems.join(",")));
        }
    }
    for field in ["shortNames", "categories"] {
        let at = path.child(field);
        for (index, name) in list(names, field).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let problems = formats::dns_1035_label(name);
            if !problems.is_empty() {
                errors.invalid(&at.index(index), name, problems.join(","));
            }
        }
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        errors.invalid(&path.child("listKind"), kind, "kind and listKind may not be the same");
    }
}

fn validate_version(errors: &mut Errors, path: &Path<'_>, version: &Value, old: Option<&Value>) {
    let name = text(version, "name");
    let problems = formats::dns_1035_label(name);
    if !problems.is_empty() {
        errors.invalid(&path.child("name"), name, problems.join(","));
    }
    deprecation(errors, path, version);
    let at_schema = path.child("schema");
    let schema = &version["schema"]["openAPIV3Schema"];
    if schema.is_object() {
        let unchanged = old.is_some_and(|old| old["schema"] == version["schema"]);
        let status = version["subresources"]["status"].is_object();
        check::schema(errors, &at_schema.child("openAPIV3Schema"), schema, status, check::Lenience { unchanged });
    } else {
        errors.required(&at_schema.child("openAPIV3Schema"), "schemas are required");
    }
    subresources(errors, &path.child("subresources"), &version["subresources"]);
    let columns = path.child("additionalPrinterColumns");
    for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        printer_column(errors, &columns.index(index), column);
    }
    selectable_fields(errors, &path.child("selectableFields"), version, schema, old);
}

fn deprecation(errors: &mut Errors, path: &Path<'_>, version: &Value) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let at = path.child("deprecationWarning");
    if version["deprecated"] != true {
        errors.invalid(&at, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        errors.invalid(&at, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(&at, warning, "must not be an empty string");
    }
    if let Some((index, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let text = "must only contain printable UTF-8 characters; non-printable character found at index";
        errors.invalid(&at, warning, format!("{text} {index}"));
    }
}

fn subresources(errors: &mut Errors, path: &Path<'_>, subresources: &Value) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    let at = path.child("scale");
    for (field, root, required) in [
        ("specReplicasPath", ".spec", true),
        ("statusReplicasPath", ".status", true),
        ("labelSelectorPath", ".status", false),
    ] {
        let value = text(scale, field);
        let at = at.child(field);
        if value.is_empty() {
            if required {
                errors.required(&at, "");
            }
            continue;
        }
        if !simple_path(value) {
            errors.invalid(&at, value, "is an invalid path: only simple dot paths are supported");
            continue;
        }
        let allowed =
            value.starts_with(&format!("{root}.")) || field == "labelSelectorPath" && value.starts_with(".spec.");
        if !allowed {
            let where_ = match field {
                "labelSelectorPath" => "should be a json path under either .spec or .status",
                "specReplicasPath" => "should be a json path under .spec",
                _ => "should be a json path under .status",
            };
            errors.invalid(&at, value, where_);
        }
    }
}

/// `.a.b.c`, without brackets.
fn simple_path(path: &str) -> bool {
    let parts = path.strip_prefix('.').map(|rest| rest.split('.').collect::<Vec<_>>()).unwrap_or_default();
    !parts.is_empty() && parts.iter().all(|part| !part.is_empty() && !part.contains(['[', ']', '{', '}', '*', '@']))
}

fn printer_column(errors: &mut Errors, path: &Path<'_>, column: &Value) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 7] = ["byte", "date", "date-time", "double", "float", "int32", "int64"];
    if text(column, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    let kind = text(column, "type");
    let types = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        errors.required(&path.child("type"), &types);
    } else if !TYPES.contains(&kind) {
        errors.invalid(&path.child("type"), kind, types);
    }
    let format = text(column, "format");
    if !format.is_empty() && format != "password" && !FORMATS.contains(&format) {
        let formats = "must be one of byte,date,date-time,double,float,int32,int64,password";
        errors.invalid(&path.child("format"), format, formats);
    }
    let json_path = text(column, "jsonPath");
    if json_path.is_empty() {
        errors.required(&path.child("JSONPath"), "");
    } else if let Err(error) = JsonPath::parse(json_path) {
        errors.invalid(&path.child("JSONPath"), json_path, format!("is an invalid path: {error}"));
    }
}

fn selectable_fields(errors: &mut Errors, path: &Path<'_>, version: &Value, schema: &Value, old: Option<&Value>) {
    let mut seen: Vec<String> = Vec::new();
    for (index, field) in list(version, "selectableFields").iter().enumerate() {
        let json_path = text(field, "jsonPath");
        let at = path.index(index);
        let at = at.child("jsonPath");
        if json_path.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let (normal, found) = match field_path::resolve(json_path, schema, false) {
            Ok(found) => found,
            Err(error) => {
                errors.invalid(&at, json_path, format!("is an invalid path: {error}"));
                continue;
            }
        };
        if normal == "metadata" || normal.starts_with("metadata.") {
            errors.invalid(&at, json_path, "must not point to fields in metadata");
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            errors.invalid(&at, json_path, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
        }
        if seen.contains(&normal) {
            errors.duplicate(&at, json_path);
        } else {
            seen.push(normal);
        }
    }
    let kept = old.is_some_and(|old| old["selectableFields"] == version["selectableFields"]);
    if seen.len() > SELECTABLE_FIELDS_MAX && !kept {
        errors.too_many(path, seen.len(), SELECTABLE_FIELDS_MAX);
    }
}

fn conversion(errors: &mut Errors, path: &Path<'_>, conversion: &Value) {
    let strategy = text(conversion, "strategy");
    errors.one_of(&path.child("strategy"), strategy, &["None", "Webhook"]);
    let webhook = &conversion["webhook"];
    // These names are those of upstream's internal form, and clients see them.
    let (at_client, at_versions) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if strategy != "Webhook" {
        if webhook["clientConfig"].is_object() {
            errors.forbidden(&at_client, "should not be set when strategy is not set to Webhook");
        }
        if !list(webhook, "conversionReviewVersions").is_empty() {
            errors.forbidden(&at_versions, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    let client = &webhook["clientConfig"];
    let (url, service) = (client["url"].as_str(), client["service"].is_object());
    if !client.is_object() {
        errors.required(&at_client, "required when strategy is set to Webhook");
    } else if url.is_some() == service {
        errors.required(&at_client, "exactly one of url or service is required");
    } else if let Some(url) = url {
        webhook_url(errors, &at_client.child("url"), url);
    } else {
        webhook_service(errors, &at_client.child("service"), &client["service"]);
    }
    let versions = list(webhook, "conversionReviewVersions");
    if versions.is_empty() {
        errors.required(&at_versions, "");
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if versions[..index].contains(version) {
            errors.invalid(&at_versions.index(index), name, "duplicate version");
        } else {
            errors.invalid_all(&at_versions.index(index), name, formats::dns_1035_label(name));
        }
    }
    if !versions.iter().any(|version| matches!(version.as_str(), Some("v1" | "v1beta1"))) {
        let given = &webhook["conversionReviewVersions"];
        errors.invalid(&at_versions, given, "must include at least one of v1, v1beta1");
    }
}

fn webhook_url(errors: &mut Errors, path: &Path<'_>, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Ok(uri) = url.parse::<http::Uri>() else {
        errors.required(path, &format!("url must be a valid URL: {url:?}{FORM}"));
        return;
    };
    if uri.scheme_str() != Some("https") {
        errors.invalid(
            path,
            uri.scheme_str().unwrap_or_default(),
            format!("'https' is the only allowed URL scheme{FORM}"),
        );
    }
    if uri.host().unwrap_or_default().is_empty() {
        errors.invalid(path, uri.host().unwrap_or_default(), format!("host must be specified{FORM}"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        errors.invalid(path, url, "user information is not permitted in the URL");
    }
    if url.contains('#') {
        errors.invalid(path, url, "fragments are not permitted in the URL");
    }
    if let Some(query) = uri.query() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(errors: &mut Errors, path: &Path<'_>, service: &Value) {
    for (field, what) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        if text(service, field).is_empty() {
            errors.required(&path.child(field), what);
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if let Some(problem) = formats::port_number(port) {
        errors.invalid(&path.child("port"), port, format!("port is not valid: {problem}"));
    }
    let Some(value) = service["path"].as_str() else { return };
    let at = path.child("path");
    if !value.starts_with('/') {
        errors.invalid(&at, value, "must start with a '/'");
    }
    let steps: Vec<&str> = value.trim_start_matches('/').trim_end_matches('/').split('/').collect();
    if value != "/" {
        for (index, step) in steps.iter().enumerate() {
            if step.is_empty() {
                errors.invalid(&at, value, format!("segment[{index}] may not be empty"));
            } else {
                for problem in formats::dns_subdomain(step) {
                    errors.invalid(&at, value, format!("segment[{index}]: {problem}"));
                }
            }
        }
    }
}

fn unchanged(errors: &mut Errors, object: &Value, old: &Value) {
    let path = Path::new("spec");
    let at_names = path.child("names");
    let (spec, before) = (&object["spec"], &old["spec"]);
    if established(old) {
        errors.immutable(&path.child("scope"), &spec["scope"], &before["scope"]);
        errors.immutable(&at_names.child("kind"), &spec["names"]["kind"], &before["names"]["kind"]);
    }
    errors.immutable(&path.child("group"), &spec["group"], &before["group"]);
    errors.immutable(&at_names.child("plural"), &spec["names"]["plural"], &before["names"]["plural"]);
}

/// A version that was stored stays until nothing is stored in it.
fn stored_versions(errors: &mut Errors, object: &Value) {
    let path = Path::new("status");
    let path = path.child("storedVersions");
    let stored = list(&object["status"], "storedVersions");
    if stored.is_empty() {
        errors.invalid(&path, &json!([]), "must have at least one stored version");
        return;
    }
    let versions = list(&object["spec"], "versions");
    for version in versions.iter().filter(|version| version["storage"] == true) {
        if !stored.contains(&version["name"]) {
            let text = format!("must have the storage version {}", text(version, "name"));
            errors.invalid(&path, &object["status"]["storedVersions"], text);
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let shown = name.as_str().unwrap_or_default();
            errors.invalid(&path.index(index), name, format!("missing from spec.versions; {shown} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {shown} and removes {shown} from status.storedVersions"));
        }
    }
}

/// Whether a group belongs to Kubernetes itself.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|suffix| group == *suffix || group.ends_with(&format!(".{suffix}")))
}

/// What the approval annotation says: reason and message; the error of a bad one.
pub fn approval_of(annotation: &str) -> Result<(&'static str, String), (&'static str, String)> {
    if annotation.is_empty() {
        return Err((
            "MissingAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVED_ANNOTATION:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ));
    }
    if annotation.starts_with("unapproved") {
        return Ok(("UnapprovedAnnotation", "not approved: ".to_owned() + &format!("{annotation:?}")));
    }
    let url = annotation.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
    if url {
        return Ok(("ApprovedAnnotation", format!("approved in {annotation}")));
    }
    Err((
        "InvalidAnnotation",
        format!(
            "protected groups must have approval annotation {APPROVED_ANNOTATION:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
        ),
    ))
}

fn approval(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let annotation =
        |object: &Value| object["metadata"]["annotations"][APPROVED_ANNOTATION].as_str().unwrap_or_default().to_owned();
    let given = annotation(object);
    let kept = old.is_some_and(|old| annotation(old) == given);
    if kept || !is_protected(text(&object["spec"], "group")) {
        return;
    }
    let path = Path::new("metadata");
    let path = path.child("annotations");
    match approval_of(&given) {
        Err(("MissingAnnotation", text)) => errors.required(&path.key(APPROVED_ANNOTATION), &text),
        Err((_, text)) => errors.invalid(&path.key(APPROVED_ANNOTATION), &given, text),
        Ok(_) => {}
    }
}

/// Formats that nothing will enforce.
fn unknown_formats(path: &str, schema: &Value, depth: usize, warnings: &mut Vec<String>) {
    const DEPTH_MAX: usize = 100;
    const WARNINGS_MAX: usize = 100;
    const OTHER: [&str; 6] = ["int32", "int64", "float", "double", "datetime", "int-or-string"];
    if depth > DEPTH_MAX || warnings.len() >= WARNINGS_MAX {
        return;
    }
    let format = text(schema, "format");
    if !format.is_empty() && !crate::crd::FORMATS.contains(&format) && !OTHER.contains(&format) {
        warnings.push(format!("unrecognized format \"{format}\""));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        unknown_formats(&format!("{path}.properties[{name}]"), property, depth + 1, warnings);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            unknown_formats(&format!("{path}.{name}"), &schema[name], depth + 1, warnings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    fn definition() -> Value {
        json!({"metadata": {"name": "ws.e.io"}, "spec": {"group": "e.io", "scope": "Namespaced",
            "names": {"plural": "ws", "kind": "W", "singular": "w", "listKind": "WList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"c": {"type": "string"}, "o": {"type": "object"}}}}}}}]},
            "status": {"storedVersions": ["v1"]}})
    }

    fn found(definition: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        identity(&mut errors, definition);
        validate_spec(&mut errors, &definition["spec"], None);
        stored_versions(&mut errors, definition);
        approval(&mut errors, definition, None);
        lines(errors.into_causes())
    }

    #[test]
    fn a_good_definition_passes_and_parts_are_checked() {
        assert!(found(&definition()).is_empty(), "{:?}", found(&definition()));
        let mut bad = definition();
        bad["spec"]["names"]["shortNames"] = json!(["No"]);
        bad["spec"]["versions"][0]["selectableFields"] =
            json!([{"jsonPath": ".spec.c"}, {"jsonPath": ".spec.c"}, {"jsonPath": ".spec.o"}, {"jsonPath": ".spec.x"}]);
        bad["spec"]["versions"][0]["additionalPrinterColumns"] =
            json!([{"name": "a", "type": "frog", "jsonPath": ".spec.c"}]);
        bad["spec"]["versions"][0]["subresources"] =
            json!({"scale": {"specReplicasPath": ".status.a", "statusReplicasPath": ".status.b"}});
        bad["status"]["storedVersions"] = json!(["v0"]);
        let fields: Vec<String> =
            found(&bad).into_iter().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect();
        assert_eq!(
            fields,
            [
                "spec.versions[0].subresources.scale.specReplicasPath",
                "spec.versions[0].additionalPrinterColumns[0].type",
                "spec.versions[0].selectableFields[1].jsonPath",
                "spec.versions[0].selectableFields[2].jsonPath",
                "spec.versions[0].selectableFields[3].jsonPath",
                "spec.names.shortNames[0]",
                "status.storedVersions",
                "status.storedVersions[0]",
            ]
        );
    }

    #[test]
    fn a_conversion_webhook_is_complete() {
        let mut bad = definition();
        bad["spec"]["conversion"] = json!({"strategy": "Webhook"});
        assert_eq!(found(&bad).len(), 2);
        bad["spec"]["conversion"]["webhook"] =
            json!({"conversionReviewVersions": ["v9"], "clientConfig": {"url": "http://a"}});
        assert_eq!(
            found(&bad),
            [
                "spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "spec.conversion.conversionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
            ]
        );
    }

    #[test]
    fn groups_of_kubernetes_need_an_approval() {
        let mut protected = definition();
        protected["metadata"]["name"] = json!("ws.e.k8s.io");
        protected["spec"]["group"] = json!("e.k8s.io");
        assert_eq!(found(&protected).len(), 1);
        protected["metadata"]["annotations"] = json!({APPROVED_ANNOTATION: "unapproved, testing"});
        assert!(found(&protected).is_empty());
        protected["metadata"]["annotations"] = json!({APPROVED_ANNOTATION: "https://example.com/1"});
        assert!(found(&protected).is_empty());
    }
}
