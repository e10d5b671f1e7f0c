//! Whether the parts of a schema fit each other, and its validation rules.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_cel::{Declaration, limits};

use super::{DEPTH_MAX, Lenience};
use crate::{
    crd::{field_path, rules::Rule},
    registry::validation::{Errors, Path},
};

/// The costliest rules that are named when all together cost too much.
const NAMED_MAX: usize = 4;

/// What is known on the way down.
#[derive(Clone)]
struct Place<'p> {
    /// Why a default is not allowed here.
    no_default: Option<String>,
    inside_metadata: bool,
    /// Where old and new cannot be told to be the same any more.
    uncorrelatable: Option<&'p str>,
    /// How often this place exists at most; none when nothing bounds it.
    cardinality: Option<u64>,
    /// The declaration of this place, where a rule is above it.
    declared: Option<Arc<Declaration>>,
    /// Rules are looked at.
    rules: bool,
    root: bool,
}

#[derive(Default)]
struct Total {
    cost: u64,
    rules: Vec<(u64, String)>,
    schema: Errors,
    rule_errors: Errors,
    unchanged: bool,
}

/// Checks a schema and everything below.
pub fn check(errors: &mut Errors, path: &Path<'_>, schema: &Value, structural: bool, lenience: Lenience) {
    let mut total = Total { unchanged: lenience.unchanged, ..Total::default() };
    let place = Place {
        no_default: None,
        inside_metadata: false,
        uncorrelatable: None,
        cardinality: Some(1),
        declared: None,
        rules: structural,
        root: true,
    };
    node(&mut total, path, schema, &place, 0);
    let Total { cost, mut rules, schema: found, rule_errors, .. } = total;
    errors.extend(found.into_causes());
    errors.extend(rule_errors.into_causes());
    if cost > limits::ESTIMATED_DEFINITION_COST_MAX {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.0));
        for (_, at) in rules.iter().take(NAMED_MAX) {
            let text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.forbidden(&Path::new(at), text);
        }
        let subject = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, too_expensive(subject, cost, limits::ESTIMATED_DEFINITION_COST_MAX));
    }
}

fn too_expensive(subject: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{subject} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

fn text<'s>(schema: &'s Value, name: &str) -> &'s str {
    schema[name].as_str().unwrap_or_default()
}

fn node(total: &mut Total, path: &Path<'_>, schema: &Value, place: &Place<'_>, depth: usize) {
    if depth > DEPTH_MAX || !schema.is_object() {
        return;
    }
    let before = total.schema.len();
    keywords(&mut total.schema, path, schema, place);
    lists(&mut total.schema, path, schema);
    let has_rules = schema["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty());
    let declared = match (&place.declared, has_rules && place.rules) {
        (Some(declared), _) => Some(Arc::clone(declared)),
        (None, true) => {
            let whole = place.root || schema["x-kubernetes-embedded-resource"] == true;
            Declaration::of_schema(schema, whole, "selfType").map(Arc::new)
        }
        (None, false) => None,
    };
    children(total, path, schema, place, declared.as_ref(), depth);
    if has_rules {
        rule_texts(&mut total.schema, path, schema);
        if place.rules && total.schema.len() == before {
            match &declared {
                Some(declared) => rules(total, path, schema, place, declared),
                None => total.rule_errors.invalid(
                    &path.child("x-kubernetes-validations"),
                    "",
                    "failed to convert to declType for CEL validation rules",
                ),
            }
        }
    }
}

fn keywords(errors: &mut Errors, path: &Path<'_>, schema: &Value, place: &Place<'_>) {
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    let name = text(schema, "type");
    if !name.is_empty() && !TYPES.contains(&name) {
        errors.not_supported(&path.child("type"), name, &TYPES);
    }
    if let Some(reason) = &place.no_default
        && !schema["default"].is_null()
    {
        errors.forbidden(&path.child("default"), format!("must not be set {reason}").trim());
    }
    if schema["uniqueItems"] == true {
        errors.forbidden(
            &path.child("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let additional = &schema["additionalProperties"];
    let has_properties = schema["properties"].as_object().is_some_and(|properties| !properties.is_empty());
    if has_properties && (additional.is_object() || *additional == false) {
        errors
            .forbidden(&path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive");
    } else if *additional == false {
        errors.forbidden(&path.child("additionalProperties"), "additionalProperties cannot be set to false");
    }
    for name in ["definitions", "dependencies", "patternProperties"] {
        if schema[name].as_object().is_some_and(|fields| !fields.is_empty()) {
            errors.forbidden(&path.child(name), format!("{name} is not supported"));
        }
    }
    for name in ["id", "$ref"] {
        if !text(schema, name).is_empty() {
            errors.forbidden(&path.child(name), format!("{name} is not supported"));
        }
    }
    if schema["items"].as_array().is_some_and(|items| !items.is_empty()) {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        errors.invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    let map_type = text(schema, "x-kubernetes-map-type");
    if !map_type.is_empty() {
        wanted_type(errors, path, name, "object", "x-kubernetes-map-type");
        if !matches!(map_type, "atomic" | "granular") {
            errors.not_supported(&path.child("x-kubernetes-map-type"), map_type, &["atomic", "granular"]);
        }
    }
}

fn wanted_type(errors: &mut Errors, path: &Path<'_>, name: &str, wanted: &str, extension: &str) {
    let detail = format!("must be {wanted} if {extension} is specified");
    if name.is_empty() {
        errors.required(&path.child("type"), &detail);
    } else if name != wanted {
        errors.invalid(&path.child("type"), name, detail);
    }
}

fn lists(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    let kind = text(schema, "x-kubernetes-list-type");
    let keys: Vec<&str> =
        schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let at_kind = path.child("x-kubernetes-list-type");
    if !keys.is_empty() && kind != "map" {
        const TEXT: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        if kind.is_empty() { errors.required(&at_kind, TEXT) } else { errors.invalid(&at_kind, kind, TEXT) }
    }
    if kind.is_empty() {
        return;
    }
    wanted_type(errors, path, text(schema, "type"), "array", "x-kubernetes-list-type");
    if !matches!(kind, "atomic" | "set" | "map") {
        errors.not_supported(&at_kind, kind, &["atomic", "map", "set"]);
    }
    let items = &schema["items"];
    let at_items = path.child("items");
    if matches!(kind, "set" | "map") && items["nullable"] == true {
        errors.forbidden(
            &at_items.child("nullable"),
            format!("cannot be nullable when x-kubernetes-list-type is {kind}"),
        );
    }
    const ATOMIC: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
    match (kind, text(items, "type")) {
        ("set", "array") if !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic") => {
            errors.invalid(&at_items.child("x-kubernetes-list-type"), text(items, "x-kubernetes-list-type"), ATOMIC);
        }
        ("set", "object") if text(items, "x-kubernetes-map-type") != "atomic" => {
            errors.invalid(&at_items.child("x-kubernetes-map-type"), text(items, "x-kubernetes-map-type"), ATOMIC);
        }
        ("map", _) => keyed(errors, path, schema, &keys),
        _ => {}
    }
}

fn keyed(errors: &mut Errors, path: &Path<'_>, schema: &Value, keys: &[&str]) {
    let at_keys = path.child("x-kubernetes-list-map-keys");
    let at_items = path.child("items");
    let items = &schema["items"];
    if keys.is_empty() {
        errors.required(&at_keys, "must not be empty if x-kubernetes-list-type is map");
    }
    if items.is_null() {
        errors.required(&at_items, "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if items["type"] != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(&at_items.child("type"), text(items, "type"), detail);
        return;
    }
    let properties = at_items.child("properties");
    for (index, key) in keys.iter().enumerate() {
        let at = properties.key(key);
        match items["properties"].get(key) {
            Some(property) => {
                if matches!(text(property, "type"), "array" | "object") {
                    let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errors.invalid(&at.child("type"), text(items, "type"), detail);
                }
                let required = items["required"].as_array().is_some_and(|names| names.contains(&json!(key)));
                if !required && property["default"].is_null() {
                    errors.required(&at.child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property");
                }
                if property["nullable"] == true {
                    errors.forbidden(
                        &at.child("nullable"),
                        "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
                    );
                }
            }
            None => errors.invalid(
                &at_keys,
                &schema["x-kubernetes-list-map-keys"],
                "entries must all be names of item properties",
            ),
        }
        if keys[..index].contains(key) {
            errors.invalid(&at_keys, &schema["x-kubernetes-list-map-keys"], "must not contain duplicate entries");
        }
    }
}

/// How many values of a child one value of this schema holds.
fn elements_max(schema: &Value) -> Option<u64> {
    let bound = |name: &str| schema[name].as_u64().or_else(|| schema[name].as_f64().map(|bound| bound as u64));
    match text(schema, "type") {
        "object" if !schema["additionalProperties"].is_null() => bound("maxProperties"),
        "array" => bound("maxItems"),
        _ => Some(1),
    }
}

fn children(
    total: &mut Total,
    path: &Path<'_>,
    schema: &Value,
    place: &Place<'_>,
    declared: Option<&Arc<Declaration>>,
    depth: usize,
) {
    let cardinality = place.cardinality.zip(elements_max(schema)).map(|(a, b)| a.saturating_mul(b));
    let shown = path.to_string();
    let below = Place { cardinality, root: false, ..place.clone() };
    let element = declared.and_then(|declared| declared.element.clone());
    if schema["additionalProperties"].is_object() {
        let mut place = Place { declared: element.clone(), ..below.clone() };
        if place.inside_metadata {
            place.no_default = Some("inside additionalProperties applying to object metadata".to_owned());
        }
        node(total, &path.child("additionalProperties"), &schema["additionalProperties"], &place, depth + 1);
    }
    let place_is_root = place.root;
    let resource = place_is_root || schema["x-kubernetes-embedded-resource"] == true;
    let properties = path.child("properties");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let found = skiff_cel::escape(name).and_then(|name| declared?.fields.get(&name).cloned());
        let mut place = Place { declared: found, ..below.clone() };
        if resource && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            place.inside_metadata = true;
            if place_is_root {
                place.no_default = Some(format!("in top-level {name}"));
            }
        }
        node(total, &properties.key(name), property, &place, depth + 1);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        let at = path.child(name);
        for (index, part) in schema[name].as_array().into_iter().flatten().enumerate() {
            node(total, &at.index(index), part, &Place { rules: false, declared: None, ..below.clone() }, depth + 1);
        }
    }
    if schema["not"].is_object() {
        let place = Place { rules: false, declared: None, ..below.clone() };
        node(total, &path.child("not"), &schema["not"], &place, depth + 1);
    }
    if schema["items"].is_object() {
        let mut place = Place { declared: element, ..below };
        if text(schema, "x-kubernetes-list-type") != "map" && place.uncorrelatable.is_none() {
            place.uncorrelatable = Some(&shown);
        }
        node(total, &path.child("items"), &schema["items"], &place, depth + 1);
    }
}

fn rule_texts(errors: &mut Errors, path: &Path<'_>, schema: &Value) {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let at = path.child("x-kubernetes-validations");
    for (index, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        let at = at.index(index);
        let (source, message) = (text(rule, "rule"), text(rule, "message"));
        let broken = |text: &str| text.contains(['\n', '\r']);
        if source.trim().is_empty() {
            errors.required(&at.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&at.child("message"), message, "must be non-empty if specified");
        } else if broken(message.trim()) {
            errors.invalid(&at.child("message"), message, "must not contain line breaks");
        } else if broken(source.trim()) && message.trim().is_empty() {
            errors.required(&at.child("message"), "message must be specified if rule contains line breaks");
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(&at.child("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule["reason"].as_str()
            && !REASONS.contains(&reason)
        {
            errors.not_supported(&at.child("reason"), reason, &REASONS);
        }
        let field = text(rule, "fieldPath");
        if !field.is_empty() {
            let at = at.child("fieldPath");
            if field.trim().is_empty() {
                errors.invalid(&at, field, "must be non-empty if specified");
            }
            if broken(field) {
                errors.invalid(&at, field, "must not contain line breaks");
            }
            if field_path::normalize(field, schema).is_err() {
                errors.invalid(&at, field, "must be a valid path");
            }
        }
    }
}

fn rules(total: &mut Total, path: &Path<'_>, schema: &Value, place: &Place<'_>, declared: &Arc<Declaration>) {
    let list = path.child("x-kubernetes-validations");
    for (index, given) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        let at = list.index(index);
        let rule = Rule::compile(given, schema, declared);
        let at_rule = at.child("rule");
        match &rule.program {
            Some(Ok(program)) => {
                let times = place.cardinality.unwrap_or_else(|| declared.cardinality_max());
                cost(total, &at_rule, "estimated rule cost", program.estimate().max.saturating_mul(times));
            }
            Some(Err(error)) => total.rule_errors.invalid(&at_rule, &shown(given), error),
            None => {}
        }
        let at_message = at.child("messageExpression");
        match &rule.message_program {
            Some(Ok(program)) => cost(total, &at_message, "estimated messageExpression cost", program.estimate().max),
            Some(Err(error)) => total.rule_errors.invalid(&at_message, &shown(given), error),
            None => {}
        }
        if rule.uses_old {
            if let Some(uncorrelatable) = place.uncorrelatable {
                let text = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {uncorrelatable}"
                );
                total.rule_errors.invalid(&at_rule, self::text(given, "rule"), text);
            }
        } else if let Some(optional) = given["optionalOldSelf"].as_bool()
            && matches!(rule.program, Some(Ok(_)))
        {
            let text = "may not be set if oldSelf is not used in rule";
            total.rule_errors.invalid(&at.child("optionalOldSelf"), optional, text);
        }
    }
}

fn cost(total: &mut Total, at: &Path<'_>, subject: &str, cost: u64) {
    if !total.unchanged && cost > limits::ESTIMATED_RULE_COST_MAX {
        total.rule_errors.forbidden(at, too_expensive(subject, cost, limits::ESTIMATED_RULE_COST_MAX));
    }
    total.cost = total.cost.saturating_add(cost);
    if cost >= limits::ESTIMATED_DEFINITION_COST_MAX / 100 {
        total.rules.push((cost, at.to_string()));
    }
}

/// A rule as errors show it.
fn shown(rule: &Value) -> Value {
    let mut fields = serde_json::Map::new();
    for name in ["rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf"] {
        if let Some(value) = rule.get(name).filter(|value| !value.is_null()) {
            fields.insert(name.to_owned(), value.clone());
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    fn found(schema: Value) -> Vec<String> {
        let mut errors = Errors::new();
        check(&mut errors, &Path::new("openAPIV3Schema"), &schema, true, Lenience::default());
        lines(errors.into_causes())
    }

    fn with_rule(rule: Value, items: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [rule],
            "properties": {"size": {"type": "integer"}, "list": {"type": "array", "items": items}}}}})
    }

    #[test]
    fn rules_must_compile_into_a_bool() {
        let text = json!({"type": "string"});
        assert!(found(with_rule(json!({"rule": "self.size > 1"}), text.clone())).is_empty());
        let lines = found(with_rule(json!({"rule": "self.sise > 1"}), text.clone()));
        assert!(
            lines[0].starts_with("openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: {"),
            "{lines:?}"
        );
        assert!(
            lines[0].ends_with(
                "compilation failed: ERROR: <input>:1:5: undefined field 'sise'\n | self.sise > 1\n | ....^"
            ),
            "{lines:?}"
        );
        assert!(
            found(with_rule(json!({"rule": "self.size"}), text.clone()))[0]
                .ends_with("cel expression must evaluate to a bool")
        );
        assert!(
            found(with_rule(json!({"rule": "true", "messageExpression": "1"}), text.clone()))[0]
                .ends_with("messageExpression must evaluate to a string")
        );
        assert_eq!(
            found(with_rule(json!({"rule": "true", "optionalOldSelf": true}), text.clone())),
            [
                "openAPIV3Schema.properties[spec].x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ]
        );
        assert_eq!(found(with_rule(json!({"rule": " "}), text)).len(), 1);
    }

    #[test]
    fn unbounded_rules_are_too_expensive() {
        let rule = json!({"rule": "self.list.all(x, self.list.all(y, x == y))"});
        let lines = found(with_rule(rule.clone(), json!({"type": "string"})));
        assert_eq!(
            lines[0],
            "openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
        );
        assert_eq!(lines.len(), 3);
        let mut bounded = with_rule(rule, json!({"type": "string", "maxLength": 10}));
        bounded["properties"]["spec"]["properties"]["list"]["maxItems"] = json!(10);
        assert!(found(bounded).is_empty());
    }

    #[test]
    fn old_values_need_a_place_that_can_be_told() {
        let item = json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.a == oldSelf.a"}]});
        let mut schema =
            json!({"type": "object", "properties": {"list": {"type": "array", "maxItems": 5, "items": item}}});
        assert!(found(schema.clone())[0].ends_with(
            "oldSelf cannot be used on the uncorrelatable portion of the schema within openAPIV3Schema.properties[list]"
        ));
        let list = &mut schema["properties"]["list"];
        list["x-kubernetes-list-type"] = json!("map");
        list["x-kubernetes-list-map-keys"] = json!(["a"]);
        list["items"]["required"] = json!(["a"]);
        list["items"]["properties"]["a"]["maxLength"] = json!(10);
        assert!(found(schema).is_empty());
    }

    #[test]
    fn list_and_map_types_fit_their_schemas() {
        assert_eq!(
            found(json!({"type": "object", "properties": {
                "a": {"type": "string", "x-kubernetes-list-type": "set"},
                "b": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}},
                "c": {"type": "array", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "string"}},
                "d": {"type": "frog"}, "e": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}})),
            [
                "openAPIV3Schema.properties[a].type: Invalid value: \"string\": must be array if x-kubernetes-list-type is specified",
                "openAPIV3Schema.properties[b].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
                "openAPIV3Schema.properties[c].x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
                "openAPIV3Schema.properties[d].type: Unsupported value: \"frog\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
                "openAPIV3Schema.properties[e].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ]
        );
    }
}
