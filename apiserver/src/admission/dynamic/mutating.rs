//! MutatingAdmissionPolicy: expressions that say how objects are changed.
//!
//! Mutations are evaluated in their order, each over what the ones before it
//! made: an `Object{...}` is laid over the object as server-side apply would
//! lay it, but owns nothing; a list of `JSONPatch{...}` is applied as a patch.
//! Runs in front of the mutating webhooks, and again with them when the object
//! changed and the policy asks for it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{
    Cause, Reason, ResourceRegistry, Status, apply, codec,
    patch::{PatchError, json_patch},
    schema::Root,
};

use super::{
    expressions::{PatchType, Scene},
    input::Input,
    matching::{Form, adopt},
    policies::{Invocation, Policies, namespace},
};
use crate::{
    admission::{Admission, AdmissionRequest},
    authz::Authorizer,
};

/// Evaluates the policies.
pub struct MutatingPolicies(Policies);

/// Why a mutation cannot be made.
enum Failure {
    /// The failure policy decides.
    Policy(String),
    Refused(Box<Status>),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Refused(Box::new(status))
    }
}

/// What stands in the way of a request: reason (none: Forbidden) and message.
type Trouble = (Option<Reason>, String);

fn denied(policy: &str, binding: Option<&str>, why: &str) -> String {
    match binding {
        Some(binding) => format!("policy '{policy}' with binding '{binding}' denied request: {why}"),
        None => format!("policy {policy:?} denied request: {why}"),
    }
}

impl MutatingPolicies {
    pub fn new(authorizer: Arc<dyn Authorizer>, resources: Arc<ResourceRegistry>) -> MutatingPolicies {
        let (policies, bindings) = ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings");
        MutatingPolicies(Policies::new(authorizer, resources, policies, bindings))
    }

    /// Whether the conditions of a policy hold; or what is wrong.
    async fn is_meant(&self, invocation: &Invocation, request: &AdmissionRequest<'_>) -> Result<bool, Trouble> {
        let policy = &invocation.policy;
        let form = Form::of(request, &invocation.matched).await.map_err(|status| {
            (None, denied(&policy.name, None, &format!("failed to configure policy: {}", status.message)))
        })?;
        let converted = form.as_ref().map(|form| form.request(request));
        let seen = converted.as_ref().unwrap_or(request);
        let input = Input::new(seen, &self.0.authorizer);
        policy
            .is_meant(&input, seen, invocation.params.as_ref())
            .map_err(|error| (Some(Reason::Invalid), denied(&policy.name, Some(&invocation.binding.name), &error)))
    }

    /// What one mutation makes of the object.
    async fn mutated(
        &self,
        invocation: &Invocation,
        (index, patch): (usize, PatchType),
        request: &AdmissionRequest<'_>,
        namespace: Option<&Value>,
    ) -> Result<Value, Failure> {
        let form = Form::of(request, &invocation.matched).await?;
        let converted = form.as_ref().map(|form| form.request(request));
        let seen = converted.as_ref().unwrap_or(request);
        let root = schema(seen, form.as_ref())?;
        let input = Input::new(seen, &self.0.authorizer);
        let scene = Scene { input: &input, request: seen, namespace, params: invocation.params.as_ref() };
        let change = invocation.policy.expressions.patch(index, &scene).map_err(Failure::Policy)?;
        let object = seen.object.as_ref().unwrap_or(&Value::Null);
        match patch {
            PatchType::ApplyConfiguration => overlaid(root.as_ref(), object, change),
            PatchType::JsonPatch => patched(root.as_ref(), object, change),
        }
    }
}

/// The schema of the objects at hand; none for a custom resource that has none.
fn schema(request: &AdmissionRequest<'_>, form: Option<&Form>) -> Result<Option<Root>, Status> {
    let row = form.map(Form::row).or(request.home.map(|home| home.working));
    if let Some(row) = row {
        return Ok(row.schema.clone());
    }
    Root::for_kind(request.kind).map(Some).ok_or_else(|| {
        let kind = format!("{}/{}, Kind={}", request.kind.group, request.kind.version, request.kind.kind);
        Status::service_unavailable(format!(
            "Resource kind {kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
        ))
    })
}

fn overlaid(root: Option<&Root>, object: &Value, mut configuration: Value) -> Result<Value, Failure> {
    for field in ["apiVersion", "kind"] {
        if let Some(value) = object.get(field) {
            configuration[field] = value.clone();
        }
    }
    apply::overlay(root, object, &configuration)
        .map_err(|error| Failure::Policy(format!("error applying patch: {error}")))
}

fn patched(root: Option<&Root>, object: &Value, operations: Value) -> Result<Value, Failure> {
    let mut object = match json_patch::apply(object.clone(), operations.to_string().as_bytes()) {
        Ok(object) => object,
        // A test that fails means that there is nothing to do.
        Err(PatchError::TestFailed(_)) => return Ok(object.clone()),
        Err(error) => return Err(Failure::Policy(format!("JSONPath: {error}"))),
    };
    if let Some(root) = root {
        let unknown = codec::json::conform(root, &mut object).map_err(Status::internal)?;
        if let Some(path) = unknown.first() {
            return Err(Status::internal(format!("strict decoding error: unknown field \"{path}\"")).into());
        }
    }
    Ok(object)
}

/// Names an invocation, for the second pass.
fn key(invocation: &Invocation) -> String {
    let metadata = invocation.params.as_ref().map(|params| &params["metadata"]);
    let text = |field: &str| metadata.and_then(|metadata| metadata[field].as_str()).unwrap_or_default();
    format!("{} {} {}/{}", invocation.policy.name, invocation.binding.name, text("namespace"), text("name"))
}

/// The refusal of a request.
fn refusal(request: &AdmissionRequest<'_>, troubles: Vec<Trouble>) -> Result<(), Status> {
    let Some((reason, message)) = troubles.first() else { return Ok(()) };
    let mut status = request.forbidden("");
    status.message = message.clone();
    // The code stays that of a refusal, whatever the reason says.
    status.reason = reason.unwrap_or(status.reason);
    let causes = troubles.into_iter().map(|(_, message)| Cause { message, ..Cause::default() });
    status.details.get_or_insert_default().causes.extend(causes);
    Err(status)
}

#[async_trait]
impl Admission for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let (invocations, wrong) = self.0.invocations(request);
        let mut troubles: Vec<Trouble> = Vec::new();
        for wrong in wrong.iter().filter(|wrong| !wrong.policy.ignores_failures) {
            let binding = wrong.binding.as_ref().map(|binding| binding.name.as_str());
            troubles.push((None, denied(&wrong.policy.name, binding, &wrong.message())));
        }
        if invocations.is_empty() {
            return refusal(request, troubles);
        }
        let again = request.reinvocation.again;
        let namespace = namespace(request);
        request.reinvocation.policies.enter(again, request.object.as_ref());
        let mut changed = false;
        for invocation in &invocations {
            let mut trouble = |trouble: Trouble| {
                if !invocation.policy.ignores_failures {
                    troubles.push(trouble);
                }
            };
            match self.is_meant(invocation, request).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    trouble(error);
                    continue;
                }
            }
            let key = key(invocation);
            if request.object.is_none() || !request.reinvocation.policies.is_due(again, &key) {
                continue;
            }
            let before = request.object.clone();
            for mutation in invocation.policy.expressions.patches().enumerate() {
                match self.mutated(invocation, mutation, request, namespace.as_ref()).await {
                    Ok(object) => adopt(request, &invocation.matched, object).await?,
                    Err(Failure::Refused(status)) => return Err(*status),
                    Err(Failure::Policy(error)) => {
                        let binding = Some(invocation.binding.name.as_str());
                        trouble((Some(Reason::Invalid), denied(&invocation.policy.name, binding, &error)));
                    }
                }
            }
            changed |= request.object != before;
            if invocation.policy.reinvoked {
                request.reinvocation.policies.saw(key);
            }
        }
        if changed {
            // Those that made the change look at it once more, too.
            request.reinvocation.policies.changed();
            request.reinvocation.wanted = true;
        }
        request.reinvocation.policies.leave(request.object.as_ref());
        refusal(request, troubles)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        admission::{self, dynamic::testing::policy_case},
        authz::Masters,
        warnings::Warnings,
    };

    fn plugin() -> MutatingPolicies {
        MutatingPolicies::new(Arc::new(Masters), Arc::new(ResourceRegistry::builtin()))
    }

    fn apply(expression: &str) -> Value {
        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
    }

    fn patch(expression: &str) -> Value {
        json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
    }

    async fn try_it(spec: Value, binding: Value) -> Result<Value, Status> {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "ns"},
            "data": {"n": "5"}});
        let case = policy_case("mutating", spec, binding);
        case.create("", "configmaps", "ns", object).mutate(&plugin()).await
    }

    async fn mutations(mutations: Value) -> Result<Value, Status> {
        try_it(json!({"mutations": mutations, "reinvocationPolicy": "Never"}), json!({})).await
    }

    #[tokio::test]
    async fn configurations_are_laid_over_and_patches_applied_in_order() {
        let made = mutations(json!([
            apply("Object{metadata: Object.metadata{labels: {'a/b': 'c'}}, data: {'m': object.data.n}}"),
            patch(
                "[JSONPatch{op: 'test', path: '/data/m', value: '5'}, \
                JSONPatch{op: 'replace', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: object.data.m}]"
            ),
            patch("[JSONPatch{op: 'test', path: '/data/m', value: 'no'}, JSONPatch{op: 'remove', path: '/data'}]")
        ]));
        let made = made.await.unwrap();
        assert_eq!(made["data"], json!({"n": "5", "m": "5"}));
        assert_eq!(made["metadata"]["labels"], json!({"a/b": "5"}));
    }

    #[tokio::test]
    async fn lists_with_keys_are_merged_and_atomic_ones_refused() {
        let spec = |expression: &str| {
            json!({"mutations": [apply(expression)], "reinvocationPolicy": "Never", "matchConstraints": {"resourceRules":
                [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}})
        };
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a", "image": "i"}], "initContainers": [{"name": "z"}]}});
        let container = "Object.spec.containers{name: 'b', image: 'j'}";
        let case = policy_case(
            "mutating",
            spec(&format!("Object{{spec: Object.spec{{containers: [{container}]}}}}")),
            json!({}),
        );
        let made = case.create("", "pods", "ns", pod.clone()).mutate(&plugin()).await.unwrap();
        let wanted = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]);
        assert_eq!(made["spec"]["containers"], wanted);
        let atomic = "Object{spec: Object.spec{nodeSelector: {'a': 'b'}}}";
        let case = policy_case("mutating", spec(atomic), json!({}));
        let status = case.create("", "pods", "ns", pod).mutate(&plugin()).await.unwrap_err();
        assert_eq!(
            (status.code, status.reason, status.message.as_str()),
            (
                403,
                Reason::Invalid,
                "policy 'p' with binding 'b' denied request: error applying patch: invalid \
                ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.nodeSelector"
            )
        );
    }

    #[tokio::test]
    async fn failures_are_the_failure_policys_to_judge() {
        let spec =
            json!({"mutations": [apply("Object{data: {'x': object.nothing}}"), apply("Object{data: {'y': 'z'}}")]});
        let status = try_it(spec.clone(), json!({})).await.unwrap_err();
        let text = "policy 'p' with binding 'b' denied request: expression 'Object{data: {'x': object.nothing}}' \
            resulted in error: no such key: nothing";
        assert_eq!(status.message, text);
        let mut ignoring = spec;
        ignoring["failurePolicy"] = json!("Ignore");
        assert_eq!(try_it(ignoring, json!({})).await.unwrap()["data"], json!({"n": "5", "y": "z"}));
        let unknown = mutations(json!([apply("Object{nothing: 1}")])).await.unwrap_err();
        assert!(unknown.message.ends_with(".nothing: field not declared in schema"), "{}", unknown.message);
        let misplaced = mutations(json!([apply("Object{metadata: Object.spec{}}")])).await.unwrap_err();
        assert!(misplaced.message.contains("unexpected type name"), "{}", misplaced.message);
    }

    #[tokio::test]
    async fn conditions_and_parameters_decide() {
        let spec = json!({"mutations": [apply("Object{data: {'max': params.data.max}}")],
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "c", "expression": "object.data.n == '5' && params.data.max != '9'"}]});
        let by_name = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
        assert_eq!(try_it(spec.clone(), by_name.clone()).await.unwrap()["data"]["max"], "3");
        let by_label =
            json!({"paramRef": {"selector": {"matchLabels": {"kind": "limits"}}, "parameterNotFoundAction": "Deny"}});
        assert_eq!(try_it(spec.clone(), by_label).await.unwrap()["data"]["max"], "3");
        let missing = |action: &str| json!({"paramRef": {"name": "none", "parameterNotFoundAction": action}});
        assert!(try_it(spec.clone(), missing("Allow")).await.unwrap()["data"]["max"].is_null());
        let status = try_it(spec.clone(), missing("Deny")).await.unwrap_err();
        let text = "policy 'p' with binding 'b' denied request: failed to configure binding: no params found for policy \
            binding with `Deny` parameterNotFoundAction";
        assert_eq!((status.reason, status.message.as_str()), (Reason::Forbidden, text));
        let mut other = spec;
        other["matchConditions"][0]["expression"] = json!("object.data.n == '6'");
        assert!(try_it(other, by_name).await.unwrap()["data"]["max"].is_null());
    }

    /// Changes the object in every pass.
    struct Counter;

    #[async_trait]
    impl Admission for Counter {
        fn name(&self) -> &'static str {
            "Counter"
        }

        async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
            let object = request.object.as_mut().unwrap();
            object["data"]["n"] = json!(format!("{}i", object["data"]["n"].as_str().unwrap()));
            Ok(())
        }
    }

    #[tokio::test]
    async fn policies_that_want_it_see_what_changed_after_them() {
        let count = apply("Object{data: {'seen': (has(object.data.seen) ? object.data.seen : '') + object.data.n}}");
        for (reinvocation, wanted) in [("IfNeeded", "5i5ii"), ("Never", "5i")] {
            let spec = json!({"mutations": [count], "reinvocationPolicy": reinvocation});
            let case = policy_case("mutating", spec, json!({}));
            let object = json!({"metadata": {"name": "x", "namespace": "ns"}, "data": {"n": "5"}});
            let bench = case.create("", "configmaps", "ns", object);
            let options = json!({});
            let mut request = bench.request(&options);
            let plugins: [Arc<dyn Admission>; 2] = [Arc::new(Counter), Arc::new(plugin())];
            admission::mutate(&plugins, &mut request, &Warnings::default()).await.unwrap();
            assert_eq!(request.object.unwrap()["data"], json!({"n": "5ii", "seen": wanted}), "{reinvocation}");
        }
    }
}
