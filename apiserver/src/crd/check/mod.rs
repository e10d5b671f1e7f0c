//! Whether the schema of a definition may be used: it must be structural, its
//! parts must fit each other, its rules must compile and be affordable.

mod defaults;
mod openapi;
mod structural;

use serde_json::Value;

use crate::registry::validation::{Errors, Path};

/// What an update may keep though a new definition may not have it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lenience {
    /// The schema is as it was: estimates of single rules do not refuse it again.
    pub unchanged: bool,
}

/// Levels of schema that are looked at; deeper ones are refused elsewhere.
const DEPTH_MAX: usize = 100;

/// Checks `openAPIV3Schema` at `path`.
pub(crate) fn schema(errors: &mut Errors, path: &Path<'_>, schema: &Value, status: bool, lenience: Lenience) {
    let before = errors.len();
    if status {
        at_root_with_status(errors, path, schema);
    }
    if schema["nullable"] == true {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let mut found = Errors::new();
    structural::check(&mut found, path, schema);
    if found.is_empty() {
        defaults::check(&mut found, path, schema);
    }
    let structural = found.is_empty();
    let mut causes = found.into_causes();
    causes.sort_by(|a, b| (&a.field, &a.message).cmp(&(&b.field, &b.message)));
    errors.extend(causes);
    openapi::check(errors, path, schema, structural, lenience);
    if errors.len() == before
        && let Err(error) = skiff_api::schema::structural::compile("", "", schema)
    {
        errors.invalid(path, "", error.to_string());
    }
}

/// With a status subresource the root may only say what its parts are.
fn at_root_with_status(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    const ALLOWED: [&str; 10] = [
        "properties",
        "required",
        "description",
        "title",
        "type",
        "example",
        "externalDocs",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
        "default",
    ];
    if schema["type"].as_str().is_some_and(|name| name != "object") {
        errors.invalid(
            &path.child("type"),
            &schema["type"],
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        );
        return;
    }
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(_) => false,
    };
    for (name, value) in schema.as_object().into_iter().flatten() {
        if !empty(value) && !ALLOWED.contains(&name.as_str()) {
            errors.invalid(path, schema, "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled");
            return;
        }
    }
}
