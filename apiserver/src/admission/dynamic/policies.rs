//! ValidatingAdmissionPolicy: expressions that requests must satisfy.
//!
//! A policy says what must hold; a binding says where it counts, with which
//! parameters, and whether a violation refuses or only warns.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{Cause, GroupResource, Object, Reason, Resource, ResourceRegistry, Selector, Status};

use super::{
    Compiled,
    conditions::Conditions,
    expressions::{Decision, Expressions},
    input::Input,
    matching::{Criteria, is_exempt},
};
use crate::{
    admission::{Admission, AdmissionRequest},
    authz::Authorizer,
};

struct Policy {
    name: String,
    criteria: Criteria,
    conditions: Conditions,
    expressions: Expressions,
    /// `failurePolicy: Ignore`.
    ignores_failures: bool,
    /// `apiVersion` and `kind` of parameters.
    params: Option<(String, String)>,
}

impl Policy {
    fn new(object: &Object) -> Policy {
        let policy = object.value().unwrap_or_default();
        let spec = &policy["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = &spec["paramKind"];
        let params = (!kind.is_null()).then(|| (text(&kind["apiVersion"]), text(&kind["kind"])));
        Policy {
            name: object.meta.name.clone(),
            criteria: Criteria::of_match_resources(&spec["matchConstraints"]),
            conditions: Conditions::of_policy(&spec["matchConditions"], params.is_some()),
            expressions: Expressions::new(spec),
            ignores_failures: spec["failurePolicy"] == "Ignore",
            params,
        }
    }
}

struct PolicyBinding {
    name: String,
    policy: String,
    criteria: Criteria,
    denies: bool,
    warns: bool,
    param_ref: Value,
}

impl PolicyBinding {
    fn new(object: &Object) -> PolicyBinding {
        let binding = object.value().unwrap_or_default();
        let spec = &binding["spec"];
        let acts = |action: &str| {
            spec["validationActions"].as_array().is_some_and(|actions| actions.iter().any(|have| have == action))
        };
        PolicyBinding {
            name: object.meta.name.clone(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            criteria: Criteria::of_match_resources(&spec["matchResources"]),
            denies: acts("Deny"),
            warns: acts("Warn"),
            param_ref: spec["paramRef"].clone(),
        }
    }
}

/// Evaluates the policies.
pub struct ValidatingPolicies {
    authorizer: Arc<dyn Authorizer>,
    resources: Arc<ResourceRegistry>,
    policies: Compiled<Policy>,
    bindings: Compiled<PolicyBinding>,
}

/// A refusal in the making: reason and message.
type Refusal = (String, String);

impl ValidatingPolicies {
    pub fn new(authorizer: Arc<dyn Authorizer>, resources: Arc<ResourceRegistry>) -> ValidatingPolicies {
        ValidatingPolicies {
            authorizer,
            resources,
            policies: Compiled::new("validatingadmissionpolicies"),
            bindings: Compiled::new("validatingadmissionpolicybindings"),
        }
    }

    /// The first refusal of a policy's bindings.
    fn judge(
        &self,
        policy: &Policy,
        bindings: &[Arc<PolicyBinding>],
        request: &mut AdmissionRequest<'_>,
    ) -> Result<(), Refusal> {
        let refuse = |binding: Option<&PolicyBinding>, reason: String, message: &str| {
            let with = binding.map(|binding| format!(" with binding '{}'", binding.name)).unwrap_or_default();
            (reason, format!("ValidatingAdmissionPolicy '{}'{with} denied request: {message}", policy.name))
        };
        let misconfigured = |binding: Option<&PolicyBinding>, error: &str| {
            if policy.ignores_failures {
                return Ok(());
            }
            let what = if binding.is_some() { "binding" } else { "policy" };
            Err(refuse(binding, String::new(), &format!("failed to configure {what}: {error}")))
        };
        match policy.criteria.matches(request) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(status) => return misconfigured(None, &status.message),
        }
        let mut refusal = None;
        for binding in bindings.iter().filter(|binding| binding.policy == policy.name) {
            match binding.criteria.matches(request) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(status) => {
                    misconfigured(Some(binding), &status.message)?;
                    continue;
                }
            }
            let params = match self.params(policy, binding, request) {
                Ok(params) => params,
                Err(error) => {
                    misconfigured(Some(binding), &error)?;
                    continue;
                }
            };
            for params in &params {
                for (reason, message) in self.decide(policy, params.as_ref(), request) {
                    if binding.warns {
                        request.warnings.push(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                            policy.name, binding.name
                        ));
                    }
                    if binding.denies && refusal.is_none() {
                        refusal = Some(refuse(Some(binding), reason, &message));
                    }
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Violations, with the failure policy applied.
    fn decide(&self, policy: &Policy, params: Option<&Value>, request: &AdmissionRequest<'_>) -> Vec<Refusal> {
        let input = Input::new(request, &self.authorizer);
        let decisions = match policy.conditions.hold(&input.with_params(request, params)) {
            Ok(false) => return Vec::new(),
            Ok(true) => {
                let namespace = namespace(request);
                policy.expressions.decide(&input, request, namespace.as_ref(), params)
            }
            Err(error) => vec![Decision::Error(error)],
        };
        let counted = decisions.into_iter().filter_map(|decision| match decision {
            Decision::Deny { reason, message } => Some((reason, message)),
            Decision::Error(_) if policy.ignores_failures => None,
            Decision::Error(error) => Some((String::new(), error)),
        });
        counted.collect()
    }

    /// The parameters a policy is evaluated with: once for each.
    fn params(
        &self,
        policy: &Policy,
        binding: &PolicyBinding,
        request: &AdmissionRequest<'_>,
    ) -> Result<Vec<Option<Value>>, String> {
        let Some((api_version, kind)) = &policy.params else { return Ok(vec![None]) };
        let reference = &binding.param_ref;
        if reference.is_null() {
            return Ok(vec![None]);
        }
        let row = self.row(api_version, kind);
        let row = row
            .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"))?;
        let named = reference["namespace"].as_str().unwrap_or_default();
        let namespace = match (row.namespaced, named) {
            (false, "") => "",
            (false, _) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
            }
            (true, "") if request.namespace.is_empty() => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned()
                );
            }
            (true, "") => request.namespace,
            (true, named) => named,
        };
        let store = row.storage.as_ref().and_then(|storage| request.snapshot.store(storage));
        let store = store.ok_or_else(|| format!("paramKind kind `{api_version}, Kind={kind}` not known"))?;
        let mut found: Vec<Arc<Object>> = Vec::new();
        if let Some(name) = reference["name"].as_str().filter(|name| !name.is_empty()) {
            found.extend(store.get(namespace, name));
        } else {
            let selector = Selector::from_value(Some(&reference["selector"])).map_err(|error| error.to_string())?;
            let all = store.list(row.namespaced.then_some(namespace));
            found.extend(all.into_iter().filter(|object| selector.matches(&object.meta.labels)));
        }
        if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        found.iter().map(|object| object.value().map(Some).map_err(|error| error.to_string())).collect()
    }

    fn row(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let table = self.resources.table();
        table.rows().iter().find(|row| row.group == group && row.version == version && row.kind == kind).cloned()
    }
}

/// The namespace a request is in.
fn namespace(request: &AdmissionRequest<'_>) -> Option<Value> {
    let store = request.snapshot.store(&GroupResource::new("", "namespaces"))?;
    let own = request.is("", "namespaces");
    (!own && !request.namespace.is_empty()).then(|| store.get("", request.namespace)?.value().ok())?
}

#[async_trait]
impl Admission for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if is_exempt(request) {
            return Ok(());
        }
        let bindings = self.bindings.all(request.snapshot, PolicyBinding::new);
        if bindings.is_empty() {
            return Ok(());
        }
        for policy in self.policies.all(request.snapshot, Policy::new) {
            if let Err((reason, message)) = self.judge(&policy, &bindings, request) {
                let mut status = request.forbidden(&message);
                status.reason = serde_json::from_value(Value::String(reason)).unwrap_or(Reason::Invalid);
                if status.reason == Reason::Unknown {
                    status.reason = Reason::Invalid;
                }
                status.code = status.reason.code();
                let details = status.details.get_or_insert_default();
                details.causes.push(Cause { message, ..Cause::default() });
                return Err(status);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{admission::testing::Case, authz::Masters};

    const GROUP: &str = "admissionregistration.k8s.io";

    fn case(spec: Value, binding: Value) -> Case {
        let mut spec = spec;
        spec["matchConstraints"] = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["configmaps"]}]});
        let mut bound = json!({"policyName": "p", "validationActions": ["Deny", "Warn"]});
        for (name, value) in binding.as_object().into_iter().flatten() {
            bound[name] = value.clone();
        }
        Case::new()
            .with("", "namespaces", json!({"metadata": {"name": "ns", "labels": {"a": "b"}}}))
            .with("", "configmaps", json!({"metadata": {"name": "limits", "namespace": "ns"}, "data": {"max": "3"}}))
            .with(GROUP, "validatingadmissionpolicies", json!({"metadata": {"name": "p"}, "spec": spec}))
            .with(GROUP, "validatingadmissionpolicybindings", json!({"metadata": {"name": "b"}, "spec": bound}))
    }

    async fn try_it(spec: Value, binding: Value) -> Result<Vec<String>, (u16, String)> {
        let case = case(spec, binding);
        let plugin = ValidatingPolicies::new(Arc::new(Masters), Arc::new(ResourceRegistry::builtin()));
        let object = json!({"metadata": {"name": "x", "namespace": "ns"}, "data": {"n": "5"}});
        let tried = case.create("", "configmaps", "ns", object).validate(&plugin).await;
        tried.map_err(|status| (status.code, status.message))
    }

    #[tokio::test]
    async fn what_does_not_hold_is_refused() {
        let spec = json!({"variables": [{"name": "n", "expression": "int(object.data.n)"},
            {"name": "twice", "expression": "variables.n * 2"}, {"name": "bad", "expression": "object.nothing"}],
            "validations": [{"expression": "variables.twice <= 9",
                "messageExpression": "'twice is ' + string(variables.twice)", "reason": "Forbidden"}]});
        let refused = "configmaps \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
        assert_eq!(try_it(spec.clone(), json!({})).await, Err((403, format!("{refused}twice is 10"))));
        let warned = try_it(spec.clone(), json!({"validationActions": ["Warn"]})).await.unwrap();
        let text = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': twice is 10";
        assert_eq!(warned, [text]);
        let nowhere = json!({"matchResources": {"namespaceSelector": {"matchLabels": {"a": "c"}}}});
        assert_eq!(try_it(spec, nowhere).await, Ok(vec![]));
        let holds = json!({"validations": [{"expression": "namespaceObject.metadata.labels.a == 'b'"}]});
        assert_eq!(try_it(holds, json!({})).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn errors_are_the_failure_policys_to_judge() {
        let spec = json!({"variables": [{"name": "bad", "expression": "object.nothing"}],
            "validations": [{"expression": "variables.bad == 1"}]});
        let (code, message) = try_it(spec.clone(), json!({})).await.unwrap_err();
        assert!(code == 422 && message.contains("composited variable \"bad\" fails to evaluate"), "{code} {message}");
        let mut ignoring = spec;
        ignoring["failurePolicy"] = json!("Ignore");
        assert_eq!(try_it(ignoring, json!({})).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn parameters_are_found() {
        let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [{"expression": "int(object.data.n) <= int(params.data.max)"}]});
        let found = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
        let (code, message) = try_it(spec.clone(), found).await.unwrap_err();
        assert!(code == 422 && message.contains("failed expression: int(object.data.n)"), "{code} {message}");
        let missing = |action: &str| json!({"paramRef": {"name": "none", "parameterNotFoundAction": action}});
        assert_eq!(try_it(spec.clone(), missing("Allow")).await, Ok(vec![]));
        let (_, message) = try_it(spec, missing("Deny")).await.unwrap_err();
        assert!(
            message.ends_with("no params found for policy binding with `Deny` parameterNotFoundAction"),
            "{message}"
        );
    }
}
