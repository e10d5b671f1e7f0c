//! What validating and mutating policies share: which policies, bindings and
//! parameters a request meets.
//!
//! A policy says what is to be done; a binding says where it counts, and with
//! which parameters: the policy is evaluated once for each of them.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::{GroupResource, GroupVersionKind, Object, ResourceRegistry, Selector};

use super::{
    Compiled,
    conditions::Conditions,
    expressions::Expressions,
    input::Input,
    matching::{Criteria, Match, is_exempt},
};
use crate::{admission::AdmissionRequest, authz::Authorizer};

/// A policy of either kind.
pub(super) struct Policy {
    pub name: String,
    criteria: Criteria,
    conditions: Conditions,
    pub expressions: Expressions,
    /// `failurePolicy: Ignore`.
    pub ignores_failures: bool,
    /// `reinvocationPolicy: IfNeeded`.
    pub reinvoked: bool,
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
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
            params,
        }
    }

    /// Whether the conditions hold.
    pub fn is_meant(
        &self,
        input: &Input,
        request: &AdmissionRequest<'_>,
        params: Option<&Value>,
    ) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        self.conditions.hold(&input.with_params(request, params))
    }
}

/// A binding of either kind.
pub(super) struct PolicyBinding {
    pub name: String,
    policy: String,
    criteria: Criteria,
    /// Deny, Warn, Audit; of validating policies.
    pub actions: Vec<String>,
    param_ref: Value,
}

impl PolicyBinding {
    fn new(object: &Object) -> PolicyBinding {
        let binding = object.value().unwrap_or_default();
        let spec = &binding["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        PolicyBinding {
            name: object.meta.name.clone(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            criteria: Criteria::of_match_resources(&spec["matchResources"]),
            actions: actions.filter_map(Value::as_str).map(str::to_owned).collect(),
            param_ref: spec["paramRef"].clone(),
        }
    }
}

/// A policy that a request meets, by one of its bindings and with one set of parameters.
pub(super) struct Invocation {
    pub policy: Arc<Policy>,
    pub binding: Arc<PolicyBinding>,
    pub params: Option<Value>,
    pub matched: Match,
}

/// Why a policy or binding cannot be asked.
pub(super) struct Misconfigured {
    pub policy: Arc<Policy>,
    pub binding: Option<Arc<PolicyBinding>>,
    pub error: String,
}

impl Misconfigured {
    pub fn message(&self) -> String {
        let what = if self.binding.is_some() { "binding" } else { "policy" };
        format!("failed to configure {what}: {}", self.error)
    }
}

/// The policies of one kind.
pub(super) struct Policies {
    pub authorizer: Arc<dyn Authorizer>,
    resources: Arc<ResourceRegistry>,
    policies: Compiled<Policy>,
    bindings: Compiled<PolicyBinding>,
}

impl Policies {
    pub fn new(
        authorizer: Arc<dyn Authorizer>,
        resources: Arc<ResourceRegistry>,
        policies: &'static str,
        bindings: &'static str,
    ) -> Policies {
        Policies { authorizer, resources, policies: Compiled::new(policies), bindings: Compiled::new(bindings) }
    }

    /// What a request meets, in the order of names, and what stands in the way.
    pub fn invocations(&self, request: &AdmissionRequest<'_>) -> (Vec<Invocation>, Vec<Misconfigured>) {
        let (mut met, mut wrong) = (Vec::new(), Vec::new());
        if is_exempt(request) {
            return (met, wrong);
        }
        let bindings = self.bindings.all(request.snapshot, PolicyBinding::new);
        if bindings.is_empty() {
            return (met, wrong);
        }
        for policy in self.policies.all(request.snapshot, Policy::new) {
            let of_policy = |binding: &&Arc<PolicyBinding>| binding.policy == policy.name;
            if !bindings.iter().any(|binding| of_policy(&binding)) {
                continue;
            }
            let matched = match policy.criteria.matches(request) {
                Ok(Match::No) => continue,
                Ok(matched) => matched,
                Err(status) => {
                    wrong.push(Misconfigured { policy, binding: None, error: status.message });
                    continue;
                }
            };
            for binding in bindings.iter().filter(of_policy) {
                let params = match binding.criteria.matches(request) {
                    Ok(Match::No) => continue,
                    Ok(_) => self.params(&policy, binding, request),
                    Err(status) => Err(status.message),
                };
                match params {
                    Ok(params) => met.extend(params.into_iter().map(|params| Invocation {
                        policy: Arc::clone(&policy),
                        binding: Arc::clone(binding),
                        params,
                        matched: matched.clone(),
                    })),
                    Err(error) => wrong.push(Misconfigured {
                        policy: Arc::clone(&policy),
                        binding: Some(Arc::clone(binding)),
                        error,
                    }),
                }
            }
        }
        (met, wrong)
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
        let row = self.resources.by_kind(&GroupVersionKind::parse(api_version, kind));
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
            found.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
        }
        if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        found.iter().map(|object| object.value().map(Some).map_err(|error| error.to_string())).collect()
    }
}

/// The namespace a request is in.
pub(super) fn namespace(request: &AdmissionRequest<'_>) -> Option<Value> {
    let store = request.snapshot.store(&GroupResource::new("", "namespaces"))?;
    let own = request.is("", "namespaces");
    (!own && !request.namespace.is_empty()).then(|| store.get("", request.namespace)?.value().ok())?
}
