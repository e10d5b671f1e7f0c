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

impl Strategy for AdmissionPolicyStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default(spec, "failurePolicy", "Fail");
        if let Some(constraints) = existing(spec, "matchConstraints") {
            match_resources(constraints);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        let constraints = path.child("matchConstraints");
        if field(spec, "matchConstraints").is_none() {
            errors.required(&constraints, "");
        } else if list(&spec["matchConstraints"], "resourceRules").is_empty() {
            errors.required(&constraints.child("resourceRules"), "");
        }
        let has_params = field(spec, "paramKind").is_some();
        let compile = |expression: &str| match_conditions::check(expression, has_params);
        conditions(&mut errors, &path.child("matchConditions"), list(spec, "matchConditions"), compile);
        if text(object, "kind") == "ValidatingAdmissionPolicy" {
            for (field, error) in Expressions::new(spec).problems() {
                let pointer = format!("/{}", field.replace('[', "/").replace(']', "").replace('.', "/"));
                let given = spec.pointer(&pointer).cloned().unwrap_or_default();
                errors.invalid(&path.child(&field), &given, error);
            }
        }
        errors.into_causes()
    }
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
        if text(object, "kind") == "ValidatingAdmissionPolicyBinding" {
            let actions = path.child("validationActions");
            let given = list(spec, "validationActions");
            if given.is_empty() {
                errors.required(&actions, "");
            }
            for (i, action) in given.iter().filter_map(Value::as_str).enumerate() {
                errors.one_of(&actions.index(i), action, &["Audit", "Deny", "Warn"]);
            }
        }
        errors.into_causes()
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
    use crate::registry::validation::lines;

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
