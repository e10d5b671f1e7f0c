//! Group `admissionregistration.k8s.io`: webhook configurations and policies.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats, selector},
    value::{child, default, default_map, default_text, existing, field, int, items, list, set, text},
};
use crate::admission::dynamic::{conditions as match_conditions, expressions::Expressions};

/// Mutating and validating webhook configurations.
pub struct WebhookConfigurationStrategy {
    pub mutating: bool,
}

impl Strategy for WebhookConfigurationStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        for webhook in items(object, "webhooks") {
            default(webhook, "failurePolicy", "Fail");
            default(webhook, "matchPolicy", "Equivalent");
            default_map(webhook, "namespaceSelector");
            default_map(webhook, "objectSelector");
            default(webhook, "timeoutSeconds", 10);
            if self.mutating {
                default(webhook, "reinvocationPolicy", "Never");
            }
            if let Some(service) = existing(webhook, "clientConfig").and_then(|config| existing(config, "service")) {
                default(service, "port", 443);
            }
            for rule in items(webhook, "rules") {
                default(rule, "scope", "*");
            }
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("webhooks");
        let webhooks = list(object, "webhooks");
        for (i, webhook) in webhooks.iter().enumerate() {
            let path = path.index(i);
            let name = text(webhook, "name");
            self::webhook(&mut errors, &path, webhook);
            if webhooks[..i].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        true
    }
}

fn webhook(errors: &mut Errors, path: &Path<'_>, webhook: &Value) {
    let name = text(webhook, "name");
    if name.split('.').count() < 3 {
        errors.invalid(&path.child("name"), name, "should be a domain with at least three segments separated by dots");
    } else {
        errors.invalid_all(&path.child("name"), name, formats::dns_subdomain(name));
    }
    match text(webhook, "sideEffects") {
        "" => errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        effects => {
            if !["None", "NoneOnDryRun"].contains(&effects) {
                errors.not_supported(&path.child("sideEffects"), effects, &["None", "NoneOnDryRun"]);
            }
        }
    }
    let versions: Vec<&str> = list(webhook, "admissionReviewVersions").iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        errors.required(&path.child("admissionReviewVersions"), "must specify one of v1, v1beta1");
    } else if !versions.iter().any(|version| ["v1", "v1beta1"].contains(version)) {
        errors.invalid(
            &path.child("admissionReviewVersions"),
            &webhook["admissionReviewVersions"],
            "must include at least one of v1, v1beta1",
        );
    }
    let seconds = int(webhook, "timeoutSeconds").unwrap_or(10);
    if !(1..=30).contains(&seconds) {
        errors.invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for (name, supported) in [
        ("failurePolicy", ["Fail", "Ignore"]),
        ("matchPolicy", ["Equivalent", "Exact"]),
        ("reinvocationPolicy", ["IfNeeded", "Never"]),
    ] {
        if let Some(value) = field(webhook, name).and_then(Value::as_str)
            && !supported.contains(&value)
        {
            errors.not_supported(&path.child(name), value, &supported);
        }
    }
    for name in ["namespaceSelector", "objectSelector"] {
        selector::label_selector(errors, &path.child(name), &webhook[name]);
    }
    client_config(errors, &path.child("clientConfig"), &webhook["clientConfig"]);
    let rules = path.child("rules");
    for (i, rule) in list(webhook, "rules").iter().enumerate() {
        self::rule(errors, &rules.index(i), rule);
    }
    conditions(errors, &path.child("matchConditions"), list(webhook, "matchConditions"), |expression| {
        match_conditions::check(expression, false)
    });
}

fn client_config(errors: &mut Errors, path: &Path<'_>, config: &Value) {
    match (field(config, "url").and_then(Value::as_str), field(config, "service")) {
        (None, None) | (Some(_), Some(_)) => errors.required(path, "exactly one of url or service is required"),
        (Some(url), None) => {
            if !url.starts_with("https://") {
                errors.invalid(
                    &path.child("url"),
                    url,
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                );
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            for name in ["name", "namespace"] {
                if text(service, name).is_empty() {
                    errors.required(&path.child(name), format!("service {name} is required").as_str());
                }
            }
        }
    }
}

fn rule(errors: &mut Errors, path: &Path<'_>, rule: &Value) {
    for name in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values = list(rule, name);
        if values.is_empty() {
            errors.required(&path.child(name), "");
        } else if values.len() > 1 && values.iter().any(|value| value == "*") {
            errors.invalid(&path.child(name), &rule[name], "if '*' is present, must not specify other values");
        }
    }
    let operations = path.child("operations");
    for (i, operation) in list(rule, "operations").iter().filter_map(Value::as_str).enumerate() {
        if !["*", "CONNECT", "CREATE", "DELETE", "UPDATE"].contains(&operation) {
            errors.not_supported(&operations.index(i), operation, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
        }
    }
    if let Some(scope) = field(rule, "scope").and_then(Value::as_str)
        && !["*", "Cluster", "Namespaced"].contains(&scope)
    {
        errors.not_supported(&path.child("scope"), scope, &["*", "Cluster", "Namespaced"]);
    }
}

/// `compile` says what is wrong with an expression.
fn conditions(
    errors: &mut Errors,
    path: &Path<'_>,
    conditions: &[Value],
    compile: impl Fn(&str) -> Result<(), String>,
) {
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(path, conditions.len(), CONDITIONS_MAX);
    }
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let name = text(condition, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_all(&path.child("name"), name, formats::qualified_name(name));
        }
        let expression = text(condition, "expression");
        if expression.trim().is_empty() {
            errors.required(&path.child("expression"), "");
        } else if let Err(error) = compile(expression) {
            errors.invalid(&path.child("expression"), expression, error);
        }
        if conditions[..i].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
}

/// Validating and mutating admission policies.
pub struct AdmissionPolicyStrategy;

/// Most match conditions and audit annotations of a policy.
const CONDITIONS_MAX: usize = 64;
const ANNOTATIONS_MAX: usize = 20;
/// Longest expression of an audit annotation.
const ANNOTATION_BYTES_MAX: usize = 5 * 1024;

impl Strategy for AdmissionPolicyStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "failurePolicy", "Fail");
        if let Some(constraints) = existing(spec, "matchConstraints") {
            match_resources(constraints);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        if matches!(op, Operation::Status { .. }) {
            return type_checking(&object["status"]["typeChecking"]);
        }
        if let Some(policy) = field(spec, "failurePolicy").and_then(Value::as_str)
            && !["Fail", "Ignore"].contains(&policy)
        {
            errors.not_supported(&path.child("failurePolicy"), policy, &["Fail", "Ignore"]);
        }
        if let Some(kind) = field(spec, "paramKind") {
            param_kind(&mut errors, &path.child("paramKind"), kind);
        }
        let constraints = path.child("matchConstraints");
        match field(spec, "matchConstraints") {
            None => errors.required(&constraints, ""),
            Some(resources) => {
                check_match_resources(&mut errors, &constraints, resources);
                if list(resources, "resourceRules").is_empty() {
                    errors.required(&constraints.child("resourceRules"), "");
                }
            }
        }
        let has_params = field(spec, "paramKind").is_some();
        let compile = |expression: &str| match_conditions::check(expression, has_params);
        conditions(&mut errors, &path.child("matchConditions"), list(spec, "matchConditions"), compile);
        for (i, variable) in list(spec, "variables").iter().enumerate() {
            let path = path.child("variables");
            let path = path.index(i);
            match text(variable, "name") {
                name if name.trim().is_empty() => errors.required(&path.child("name"), "name is not specified"),
                name if !is_identifier(name) => {
                    errors.invalid(&path.child("name"), name, "name is not a valid CEL identifier");
                }
                _ => {}
            }
            must_say(&mut errors, &path, variable, "expression");
        }
        if text(object, "kind") == "MutatingAdmissionPolicy" {
            mutations(&mut errors, &path, spec);
        } else {
            validations(&mut errors, &path, object);
        }
        for (field, error) in Expressions::new(spec).problems() {
            let pointer = format!("/{}", field.replace('[', "/").replace(']', "").replace('.', "/"));
            let given = spec.pointer(&pointer).cloned().unwrap_or_default();
            if given.as_str().is_some_and(|expression| !expression.trim().is_empty()) {
                errors.invalid(&path.child(&field), &given, error);
            }
        }
        errors.into_causes()
    }
}

/// An expression that must be there.
fn must_say(errors: &mut Errors, path: &Path<'_>, owner: &Value, name: &str) {
    if text(owner, name).trim().is_empty() {
        errors.required(&path.child(name), &format!("{name} is not specified"));
    }
}

/// Whether expressions can name a variable so.
fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && skiff_cel::escape(name).is_some_and(|escaped| !escaped.starts_with("__") || escaped == name)
}

fn param_kind(errors: &mut Errors, path: &Path<'_>, kind: &Value) {
    match text(kind, "apiVersion") {
        "" => errors.required(&path.child("apiVersion"), ""),
        version if version.matches('/').count() > 1 => {
            let why = format!("unexpected GroupVersion string: {version}");
            errors.invalid(&path.child("apiVersion"), version, why);
        }
        version => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            if !group.is_empty() {
                errors.invalid_all(&path.child("apiVersion"), group, formats::dns_subdomain(group));
            }
            errors.invalid_all(&path.child("apiVersion"), version, formats::dns_1035_label(version));
        }
    }
    if text(kind, "kind").is_empty() {
        errors.required(&path.child("kind"), "");
    }
}

fn validations(errors: &mut Errors, path: &Path<'_>, object: &Value) {
    const NONE: &str = "validations or auditAnnotations must contain at least one item";
    const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    let spec = &object["spec"];
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        errors.required(&path.child("validations"), NONE);
        errors.required(&path.child("auditAnnotations"), NONE);
    }
    for (i, validation) in validations.iter().enumerate() {
        let path = path.child("validations");
        let path = path.index(i);
        must_say(errors, &path, validation, "expression");
        for (name, blank) in [
            ("messageExpression", "must be non-empty if specified"),
            ("message", "message must be non-empty if specified"),
        ] {
            let given = text(validation, name);
            if !given.is_empty() && given.trim().is_empty() {
                errors.invalid(&path.child(name), given, blank);
            }
        }
        let message = text(validation, "message");
        if message.trim().contains(['\n', '\r']) {
            errors.invalid(&path.child("message"), message, "message must not contain line breaks");
        }
        if let Some(reason) = field(validation, "reason").and_then(Value::as_str)
            && !REASONS.contains(&reason)
        {
            errors.not_supported(&path.child("reason"), reason, &REASONS);
        }
    }
    let path = path.child("auditAnnotations");
    if annotations.len() > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(&path, &spec["auditAnnotations"], why);
    }
    for (i, annotation) in annotations.iter().enumerate() {
        let path = path.index(i);
        let key = text(annotation, "key");
        let whole = format!("{}/{key}", text(&object["metadata"], "name"));
        errors.invalid_all(&path.child("key"), &whole, formats::qualified_name(&whole));
        must_say(errors, &path, annotation, "valueExpression");
        if text(annotation, "valueExpression").trim().len() > ANNOTATION_BYTES_MAX {
            let why = format!("must not exceed {ANNOTATION_BYTES_MAX} bytes in length");
            errors.required(&path.child("valueExpression"), &why);
        }
        if annotations[..i].iter().any(|other| text(other, "key") == key) {
            errors.duplicate(&path.child("key"), key);
        }
    }
}

fn mutations(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let mutations = list(spec, "mutations");
    if mutations.is_empty() {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    match text(spec, "reinvocationPolicy") {
        "" => errors.required(&path.child("reinvocationPolicy"), ""),
        policy if !["IfNeeded", "Never"].contains(&policy) => {
            errors.not_supported(&path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        }
        _ => {}
    }
    let path = path.child("mutations");
    for (i, mutation) in mutations.iter().enumerate() {
        let path = path.index(i);
        let (own, other) = match text(mutation, "patchType") {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "" => {
                errors.required(&path.child("patchType"), "");
                continue;
            }
            patch => {
                errors.not_supported(&path.child("patchType"), patch, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        let patch = text(mutation, "patchType");
        match field(mutation, own) {
            None => {
                let why = format!("must be specified when patchType is {patch}");
                errors.required(&path.child(own), &why);
            }
            Some(given) => must_say(errors, &path.child(own), given, "expression"),
        }
        if field(mutation, other).is_some() {
            errors.invalid(
                &path.child(other),
                format!("{{{other}}}").as_str(),
                format!("must not be specified when patchType is {patch}"),
            );
        }
    }
}

/// Warnings that the type checker left in the status.
fn type_checking(checked: &Value) -> Vec<Cause> {
    let mut errors = Errors::new();
    let path = Path::new("status.typeChecking.expressionWarnings");
    for (i, warning) in list(checked, "expressionWarnings").iter().enumerate() {
        for name in ["warning", "fieldRef"] {
            if text(warning, name).trim().is_empty() {
                errors.required(&path.index(i).child(name), "");
            }
        }
    }
    errors.into_causes()
}

/// Bindings of admission policies.
pub struct AdmissionPolicyBindingStrategy;

impl Strategy for AdmissionPolicyBindingStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        if let Some(resources) = existing(child(object, "spec"), "matchResources") {
            match_resources(resources);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        match text(spec, "policyName") {
            "" => errors.required(&path.child("policyName"), ""),
            name => errors.invalid_all(&path.child("policyName"), name, formats::dns_subdomain(name)),
        }
        if let Some(reference) = field(spec, "paramRef") {
            param_ref(&mut errors, &path.child("paramRef"), reference);
        }
        if let Some(resources) = field(spec, "matchResources") {
            // Upstream spells it so.
            check_match_resources(&mut errors, &path.child("matchResouces"), resources);
        }
        if text(object, "kind") == "ValidatingAdmissionPolicyBinding" {
            let actions = path.child("validationActions");
            let given = list(spec, "validationActions");
            if given.is_empty() {
                errors.required(&actions, "at least one validation action is required");
            }
            for (i, action) in given.iter().filter_map(Value::as_str).enumerate() {
                errors.one_of(&actions.index(i), action, &["Audit", "Deny", "Warn"]);
                if given[..i].iter().any(|other| other == action) {
                    errors.duplicate(&actions.index(i), action);
                }
            }
            let has = |wanted: &str| given.iter().any(|action| action == wanted);
            if has("Deny") && has("Warn") {
                let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
                errors.invalid(&actions, &spec["validationActions"], why);
            }
        }
        errors.into_causes()
    }
}

fn param_ref(errors: &mut Errors, path: &Path<'_>, reference: &Value) {
    const BOTH: &str = "name and selector are mutually exclusive";
    let selector = field(reference, "selector");
    match (text(reference, "name"), selector) {
        ("", None) => errors.required(path, "one of name or selector must be specified"),
        ("", Some(_)) | (_, None) => {}
        _ => {
            errors.forbidden(&path.child("name"), BOTH);
            errors.forbidden(&path.child("selector"), BOTH);
        }
    }
    if let Some(given) = selector {
        selector::label_selector(errors, &path.child("selector"), given);
    }
    match text(reference, "parameterNotFoundAction") {
        "" => errors.required(&path.child("parameterNotFoundAction"), ""),
        action if !["Deny", "Allow"].contains(&action) => {
            errors.not_supported(&path.child("parameterNotFoundAction"), action, &["Deny", "Allow"]);
        }
        _ => {}
    }
}

fn check_match_resources(errors: &mut Errors, path: &Path<'_>, resources: &Value) {
    match text(resources, "matchPolicy") {
        "Equivalent" | "Exact" | "" => {}
        policy => errors.not_supported(&path.child("matchPolicy"), policy, &["Equivalent", "Exact"]),
    }
    for name in ["namespaceSelector", "objectSelector"] {
        selector::label_selector(errors, &path.child(name), &resources[name]);
    }
    for name in ["resourceRules", "excludeResourceRules"] {
        let rules = path.child(name);
        for (i, rule) in list(resources, name).iter().enumerate() {
            self::rule(errors, &rules.index(i), rule);
        }
    }
}

fn match_resources(resources: &mut Value) {
    default_text(resources, "matchPolicy", "Equivalent");
    default_map(resources, "namespaceSelector");
    default_map(resources, "objectSelector");
    for kind in ["resourceRules", "excludeResourceRules"] {
        for rule in items(resources, kind) {
            if field(rule, "scope").is_none() {
                set(rule, "scope", json!("*"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{testing::wrong, validation::lines};

    fn policy(kind: &str, spec: Value) -> Vec<String> {
        let mut object = json!({"kind": kind, "metadata": {"name": "p.example.com"}, "spec": spec});
        object["spec"]["matchConstraints"] = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["pods"]}]});
        wrong(&AdmissionPolicyStrategy, object)
    }

    #[test]
    fn mutating_policies_are_checked() {
        let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
        let of = |mutations: Value| {
            policy("MutatingAdmissionPolicy", json!({"mutations": mutations, "reinvocationPolicy": "Never"}))
        };
        assert_eq!(of(json!([apply("Object{metadata: Object.metadata{labels: {'a': variables.x}}}")])).len(), 1);
        assert!(of(json!([apply("Object{}"), {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'test', path: '/a'}]"}}])).is_empty());
        let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
        let one = "JSONPatch{op: 'add', path: '/metadata/labels', value: {'a': 'b'}}";
        let fine = [
            apply("has(object.spec) ? Object{spec: Object.spec{containers: []}} : Object{}"),
            patch(&format!("[{one}] + (has(object.spec) ? [{one}] : [])")),
            patch("object.spec.containers.map(c, JSONPatch{op: 'remove', path: '/spec/' + c.name})"),
        ];
        assert_eq!(of(json!(fine)), [""; 0]);
        assert_eq!(of(json!([]))[0], "spec.mutations: Required value: mutations must contain at least one item");
        let wrong = of(json!([apply("'text'")]));
        assert_eq!(
            wrong,
            [
                "spec.mutations[0].applyConfiguration.expression: Invalid value: \"'text'\": must evaluate to Object but got string"
            ]
        );
        let both = json!({"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}});
        let both = of(json!([both]));
        assert_eq!(
            both[0],
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch"
        );
        assert!(both[1].contains("must not be specified when patchType is JSONPatch"), "{both:?}");
        let none = policy("MutatingAdmissionPolicy", json!({"mutations": [apply("Object{}")]}));
        assert_eq!(none, ["spec.reinvocationPolicy: Required value"]);
    }

    #[test]
    fn validating_policies_are_checked() {
        let of = |spec: Value| policy("ValidatingAdmissionPolicy", spec);
        assert_eq!(of(json!({})).len(), 2);
        let odd = of(json!({"validations": [{"expression": "true", "reason": "Whim"}, {"expression": " "}],
            "variables": [{"name": "in", "expression": "1"}],
            "auditAnnotations": [{"key": "a", "valueExpression": "1"}, {"key": "a", "valueExpression": "'x'"}]}));
        assert_eq!(odd.len(), 5, "{odd:?}");
    }

    #[test]
    fn bindings_are_checked() {
        let of = |spec: Value| {
            wrong(&AdmissionPolicyBindingStrategy, json!({"kind": "ValidatingAdmissionPolicyBinding", "spec": spec}))
        };
        let good = json!({"policyName": "p", "validationActions": ["Deny"],
            "paramRef": {"name": "x", "parameterNotFoundAction": "Deny"}});
        assert!(of(good).is_empty());
        let bad = of(json!({"policyName": "p", "validationActions": ["Deny", "Warn"],
            "paramRef": {"name": "x", "selector": {}}}));
        assert_eq!(bad.len(), 4, "{bad:?}");
    }

    #[test]
    fn webhooks_are_completed_and_checked() {
        let mut object = json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        WebhookConfigurationStrategy { mutating: true }.default(Operation::Create, &mut object);
        let made = &object["webhooks"][0];
        assert_eq!(
            (&made["timeoutSeconds"], &made["rules"][0]["scope"], &made["reinvocationPolicy"]),
            (&json!(10), &json!("*"), &json!("Never"))
        );
        assert_eq!(made["clientConfig"]["service"]["port"], 443);
        let mut errors = Errors::new();
        webhook(&mut errors, &Path::new("w"), made);
        assert!(errors.is_empty());
        webhook(&mut errors, &Path::new("w"), &json!({"name": "a"}));
        let lines = lines(errors.into_causes());
        assert_eq!(
            lines[0],
            "w.name: Invalid value: \"a\": should be a domain with at least three segments separated by dots"
        );
        assert!(
            lines.contains(&"w.clientConfig: Required value: exactly one of url or service is required".to_owned())
        );
    }
}
