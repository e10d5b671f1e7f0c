//! What expressions of admission see of a request.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use skiff_cel::{Ask, Authorize, Binding, Decided, Declaration, Env, Type, Value as Cel};

use crate::{
    admission::AdmissionRequest,
    authn::UserInfo,
    authz::{Attributes, Authorizer, Decision},
};

/// The shape of the variable `request`.
static REQUEST: LazyLock<Arc<Declaration>> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let names = |names: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
        json!({"type": "object", "properties": properties})
    };
    let kind = names(&["group", "version", "kind"]);
    let resource = names(&["group", "version", "resource"]);
    let texts = json!({"type": "array", "items": text});
    let user = json!({"type": "object", "properties": {"username": text, "uid": text, "groups": texts,
        "extra": {"type": "object", "additionalProperties": texts}}});
    let schema = json!({"type": "object", "properties": {"kind": kind, "resource": resource, "subResource": text,
        "requestKind": kind, "requestResource": resource, "requestSubResource": text, "name": text,
        "namespace": text, "operation": text, "userInfo": user, "dryRun": {"type": "boolean"},
        "options": {"x-kubernetes-int-or-string": true}}});
    let declared = Declaration::of_schema(&schema, false, "kubernetes.AdmissionRequest");
    Arc::new(declared.unwrap_or_else(|| Declaration::of(Type::Dyn)))
});

/// The variables, in the order of [`Input::bindings`].
pub fn env() -> Env {
    Env::default()
        .with_type("object", Type::Dyn)
        .with_type("oldObject", Type::Dyn)
        .with("request", Arc::clone(&REQUEST))
        .with_type("authorizer", skiff_cel::authorizer_type())
        .with_type("authorizer.requestResource", skiff_cel::resource_check_type())
}

/// The request as a review describes it, without the objects.
pub fn describe(request: &AdmissionRequest<'_>) -> Value {
    let (gvk, gvr) = (request.kind, request.resource);
    let kind = json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
    let resource = json!({"group": gvr.group, "version": gvr.version, "resource": gvr.resource});
    let (mut asked_kind, mut asked_resource) = (kind.clone(), resource.clone());
    if let Some(home) = request.home {
        if gvk.kind == home.asked.kind {
            asked_kind = json!({"group": home.asked.group, "version": home.asked.version, "kind": home.asked.kind});
        }
        asked_resource["group"] = json!(home.asked.group);
        asked_resource["version"] = json!(home.asked.version);
    }
    let mut described = json!({"kind": kind, "resource": resource, "requestKind": asked_kind,
        "requestResource": asked_resource, "operation": request.operation.as_str(), "userInfo": request.user, "dryRun": request.dry_run,
        "options": request.options});
    for (field, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", request.namespace),
    ] {
        if !text.is_empty() {
            described[field] = json!(text);
        }
    }
    described
}

/// Asks for the user of a request.
struct Asked {
    authorizer: Arc<dyn Authorizer>,
    user: UserInfo,
}

impl Authorize for Asked {
    fn authorize(&self, ask: &Ask) -> Decided {
        let user = match &ask.service_account {
            Some((namespace, name)) => UserInfo::new(
                format!("system:serviceaccount:{namespace}:{name}"),
                &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
            ),
            None => self.user.clone(),
        };
        let text = |text: &String| text.clone();
        let decision = self.authorizer.authorize(&Attributes {
            user,
            verb: text(&ask.verb),
            namespace: text(&ask.namespace),
            group: text(&ask.group),
            version: "*".to_owned(),
            resource: text(&ask.resource),
            subresource: text(&ask.subresource),
            name: text(&ask.name),
            path: text(&ask.path),
            field_selector: ask.field_selector.parse().unwrap_or_default(),
        });
        match decision {
            Decision::Allow(reason) => Decided { allowed: true, reason, error: None },
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Decided { allowed: false, reason, error: None },
        }
    }
}

/// Values of the variables for one request.
pub struct Input {
    request: Value,
    authorizer: Arc<dyn Authorize>,
    resource: Ask,
}

impl Input {
    pub fn new(request: &AdmissionRequest<'_>, authorizer: &Arc<dyn Authorizer>) -> Input {
        let resource = Ask {
            group: request.resource.group.to_string(),
            resource: request.resource.resource.to_string(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.to_owned(),
            ..Ask::default()
        };
        let authorizer = Arc::new(Asked { authorizer: Arc::clone(authorizer), user: request.user.clone() });
        Input { request: describe(request), authorizer, resource }
    }

    pub fn bindings<'a>(&'a self, request: &'a AdmissionRequest<'_>) -> Vec<Binding<'a>> {
        let object = |value: Option<&'a Value>| value.map_or(Cel::Null, Cel::of_json).into();
        vec![
            object(request.object.as_ref()),
            object(request.old_object),
            Cel::typed(&self.request, &REQUEST.ty).into(),
            skiff_cel::authorizer_value(Arc::clone(&self.authorizer)).into(),
            skiff_cel::resource_check_value(Arc::clone(&self.authorizer), self.resource.clone()).into(),
        ]
    }

    /// The same with the parameters of a policy.
    pub fn with_params<'a>(&'a self, request: &'a AdmissionRequest<'_>, params: Option<&'a Value>) -> Vec<Binding<'a>> {
        let mut bindings = self.bindings(request);
        bindings.push(params.map_or(Cel::Null, Cel::of_json).into());
        bindings
    }
}
