//! ValidatingAdmissionPolicy: expressions that requests must satisfy.
//!
//! Every policy is asked, so that all warnings and annotations are there; the
//! first that denies is what the client is told.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::{Cause, Reason, ResourceRegistry, Status};

use super::{
    expressions::{Scene, Violation},
    input::Input,
    matching::Form,
    policies::{Invocation, Policies, namespace},
};
use crate::{
    admission::{Admission, AdmissionRequest},
    authz::Authorizer,
};

/// Longest value of an audit annotation.
const ANNOTATION_BYTES_MAX: usize = 10 << 10;
/// Where failures of bindings with the action `Audit` are noted.
const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";

/// Evaluates the policies.
pub struct ValidatingPolicies(Policies);

/// What the policies have said so far.
#[derive(Default)]
struct Verdict {
    /// Reason (may be empty) and message of the first refusal.
    refusal: Option<(String, String)>,
    warnings: Vec<String>,
    failure: Option<Value>,
    /// Policy, key and the values of its bindings.
    annotations: Vec<(String, String, Vec<String>)>,
}

impl Verdict {
    fn refuse(&mut self, policy: &str, binding: Option<&str>, reason: String, message: &str) {
        let with = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        let text = format!("ValidatingAdmissionPolicy '{policy}'{with} denied request: {message}");
        self.refusal.get_or_insert((reason, text));
    }

    /// A violation, in the ways the binding asks for.
    fn act(&mut self, invocation: &Invocation, violation: &Violation) {
        let (policy, binding) = (&invocation.policy.name, &invocation.binding);
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => {
                    self.refuse(policy, Some(&binding.name), violation.reason.clone(), &violation.message);
                }
                "Warn" => self.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{}': {}",
                    binding.name, violation.message
                )),
                "Audit" => {
                    self.failure.get_or_insert_with(|| {
                        json!([{"message": violation.message, "policy": policy, "binding": binding.name,
                            "expressionIndex": violation.index, "validationActions": binding.actions}])
                    });
                }
                _ => {}
            }
        }
    }

    fn annotate(&mut self, policy: &str, key: &str, mut value: String) {
        if value.len() > ANNOTATION_BYTES_MAX {
            value.truncate(value.floor_char_boundary(ANNOTATION_BYTES_MAX));
        }
        match self.annotations.iter_mut().find(|(of, have, _)| of == policy && have == key) {
            Some((_, _, values)) if values.contains(&value) => {}
            Some((_, _, values)) => values.push(value),
            None => self.annotations.push((policy.to_owned(), key.to_owned(), vec![value])),
        }
    }
}

impl ValidatingPolicies {
    pub fn new(authorizer: Arc<dyn Authorizer>, resources: Arc<ResourceRegistry>) -> ValidatingPolicies {
        let (policies, bindings) = ("validatingadmissionpolicies", "validatingadmissionpolicybindings");
        ValidatingPolicies(Policies::new(authorizer, resources, policies, bindings))
    }

    /// Asks one policy.
    fn judge(
        &self,
        invocation: &Invocation,
        request: &AdmissionRequest<'_>,
        namespace: Option<&Value>,
        verdict: &mut Verdict,
    ) {
        let policy = &invocation.policy;
        let input = Input::new(request, &self.0.authorizer);
        let params = invocation.params.as_ref();
        let failed = |message: String| Violation { index: 0, reason: String::new(), message, is_error: true };
        let scene = Scene { input: &input, request, namespace, params };
        let (violations, annotations) = match policy.is_meant(&input, request, params) {
            Ok(false) => return,
            Ok(true) => (policy.expressions.violations(&scene), policy.expressions.annotations(&scene)),
            Err(error) => (vec![failed(error)], Vec::new()),
        };
        for violation in violations.iter().filter(|violation| !(violation.is_error && policy.ignores_failures)) {
            verdict.act(invocation, violation);
        }
        for (key, value) in annotations {
            match value {
                Ok(value) => verdict.annotate(&policy.name, key, value),
                Err(_) if policy.ignores_failures => {}
                Err(error) => {
                    verdict.refuse(&policy.name, Some(&invocation.binding.name), String::new(), &error);
                }
            }
        }
    }
}

#[async_trait]
impl Admission for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let (invocations, wrong) = self.0.invocations(request);
        let mut verdict = Verdict::default();
        for wrong in wrong.iter().filter(|wrong| !wrong.policy.ignores_failures) {
            let binding = wrong.binding.as_ref().map(|binding| binding.name.as_str());
            verdict.refuse(&wrong.policy.name, binding, String::new(), &wrong.message());
        }
        let namespace = if invocations.is_empty() { None } else { namespace(request) };
        for invocation in &invocations {
            match Form::of(request, &invocation.matched).await {
                Ok(None) => self.judge(invocation, request, namespace.as_ref(), &mut verdict),
                Ok(Some(form)) => self.judge(invocation, &form.request(request), namespace.as_ref(), &mut verdict),
                Err(_) if invocation.policy.ignores_failures => {}
                Err(status) => {
                    let error = format!("failed to configure policy: failed to convert object version: {status}");
                    verdict.refuse(&invocation.policy.name, None, String::new(), &error);
                }
            }
        }
        request.warnings.extend(verdict.warnings);
        request.annotations.extend(verdict.failure.map(|failure| (FAILURE_ANNOTATION.to_owned(), failure.to_string())));
        for (policy, key, values) in verdict.annotations {
            request.annotations.push((format!("{policy}/{key}"), values.join(", ")));
        }
        let Some((reason, message)) = verdict.refusal else { return Ok(()) };
        let mut status = request.forbidden(&message);
        status.reason = serde_json::from_value(Value::String(reason)).unwrap_or(Reason::Invalid);
        if status.reason == Reason::Unknown {
            status.reason = Reason::Invalid;
        }
        status.code = status.reason.code();
        let details = status.details.get_or_insert_default();
        details.causes.push(Cause { message, ..Cause::default() });
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{dynamic::testing::policy_case, testing::Case},
        authz::Masters,
    };

    fn case(spec: Value, binding: Value) -> Case {
        let mut bound = json!({"validationActions": ["Deny", "Warn", "Audit"]});
        for (name, value) in binding.as_object().into_iter().flatten() {
            bound[name] = value.clone();
        }
        policy_case("validating", spec, bound)
    }

    fn plugin() -> ValidatingPolicies {
        ValidatingPolicies::new(Arc::new(Masters), Arc::new(ResourceRegistry::builtin()))
    }

    async fn try_it(spec: Value, binding: Value) -> Result<Vec<String>, (u16, String)> {
        let case = case(spec, binding);
        let object = json!({"metadata": {"name": "x", "namespace": "ns"}, "data": {"n": "5"}});
        let tried = case.create("", "configmaps", "ns", object).validate(&plugin()).await;
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
    async fn a_variable_that_is_passed_over_neither_fails_nor_costs() {
        let dear = "object.data.l.split(',').all(a, object.data.l.split(',').all(b, object.data.l.split(',').all(c, \
            a == b || c == '')))";
        let spec = |validation: &str| {
            json!({"variables": [{"name": "bad", "expression": "object.nothing"}, {"name": "dear", "expression": dear},
                {"name": "either", "expression": "object.data.n == '5' ? 5 : variables.bad"}],
                "validations": [{"expression": validation}]})
        };
        let try_it = async |validation: &str| {
            let object = json!({"metadata": {"name": "x", "namespace": "ns"},
                "data": {"n": "5", "l": vec![""; 200].join(",")}});
            let case = case(spec(validation), json!({}));
            let tried = case.create("", "configmaps", "ns", object).validate(&plugin()).await;
            tried.map(|_| ()).map_err(|status| status.message)
        };
        assert_eq!(try_it("object.data.n == '5' || variables.bad == 1 || variables.dear").await, Ok(()));
        assert_eq!(try_it("has(variables.bad) && variables.either == 5").await, Ok(()));
        let error = try_it("variables.dear").await.unwrap_err();
        assert!(error.contains("composited variable \"dear\" fails to evaluate: "), "{error}");
        assert!(try_it("object.data.n == '6' || variables.bad == 1").await.is_err());
    }

    #[tokio::test]
    async fn long_chains_of_deep_variables_are_evaluated() {
        let deep = |inner: String| (0..80).fold(inner, |inner, _| format!("(1 + {inner})"));
        let variables: Vec<Value> = (0..400)
            .map(|number: u32| {
                let before = number.checked_sub(1).map_or("0".to_owned(), |before| format!("variables.v{before}"));
                json!({"name": format!("v{number}"), "expression": deep(before)})
            })
            .collect();
        let validation = format!("{} == 80 * 401", deep("variables.v399".to_owned()));
        let spec = json!({"variables": variables, "validations": [{"expression": validation}]});
        assert_eq!(try_it(spec, json!({})).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn what_is_used_twice_is_paid_once_and_the_end_of_the_budget_ends_it_all() {
        let try_it = async |variable: &str, validation: &str| {
            let validations: Vec<Value> = (0..30).map(|_| json!({"expression": validation})).collect();
            let spec = json!({"variables": [{"name": "dear", "expression": variable}], "validations": validations});
            let object = json!({"metadata": {"name": "x", "namespace": "ns"}, "data": {"l": vec![""; 300].join(",")}});
            let case = case(spec, json!({"validationActions": ["Deny", "Warn"]}));
            case.create("", "configmaps", "ns", object).validate(&plugin()).await.map_err(|status| status.message)
        };
        let dear = "object.data.l.split(',').all(a, ([a] + object.data.l.split(',')).all(b, a == b))";
        assert_eq!(try_it(dear, "variables.dear").await, Ok(vec![]));
        let error = try_it("1", dear).await.unwrap_err();
        let text = "denied request: validation failed due to running out of cost budget, no further validation rules will be run";
        assert!(error.ends_with(text), "{error}");
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

    #[tokio::test]
    async fn annotations_and_failures_are_noted_for_the_audit_log() {
        let spec = json!({"validations": [{"expression": "true"}, {"expression": "object.data.n == '4'", "message": "no four"}],
            "auditAnnotations": [{"key": "n", "valueExpression": "'n is ' + string(object.data.n)"},
                {"key": "none", "valueExpression": "null"}]});
        let case = case(spec, json!({"validationActions": ["Audit"]}));
        let object = json!({"metadata": {"name": "x", "namespace": "ns"}, "data": {"n": "5"}});
        let bench = case.create("", "configmaps", "ns", object);
        let options = json!({});
        let mut request = bench.request(&options);
        plugin().validate(&mut request).await.unwrap();
        let failure =
            r#"[{"message":"no four","policy":"p","binding":"b","expressionIndex":1,"validationActions":["Audit"]}]"#;
        let noted: Vec<(&str, Value)> = request
            .annotations
            .iter()
            .map(|(key, value)| (key.as_str(), serde_json::from_str(value).unwrap_or(json!(value))))
            .collect();
        let failure: Value = serde_json::from_str(failure).unwrap();
        assert_eq!(noted, [(FAILURE_ANNOTATION, failure), ("p/n", json!("n is 5"))]);
    }
}
