//! Group `authorization.k8s.io`: may somebody do something.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{
    endpoint::{Endpoint, EndpointRequest, EndpointResponse},
    validation::{Errors, Path},
    value::{field, list, namespace, set, text},
};
use crate::{
    authn::UserInfo,
    authz::{Attributes, Authorizer, Decision, PolicyRule},
};

/// Which of the three access reviews.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Review {
    /// SubjectAccessReview: anybody, anywhere.
    Subject,
    /// SelfSubjectAccessReview: the caller.
    SelfSubject,
    /// LocalSubjectAccessReview: anybody, in one namespace.
    Local,
}

/// Answers the three access reviews.
pub struct AccessReviewEndpoint {
    pub authorizer: Arc<dyn Authorizer>,
    pub review: Review,
}

#[async_trait]
impl Endpoint for AccessReviewEndpoint {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status> {
        let mut body = request.body;
        validate(&body, self.review, request.context.namespace)?;
        let user = match self.review {
            Review::SelfSubject => request.context.user.clone(),
            Review::Subject | Review::Local => subject(&body["spec"]),
        };
        let decision = self.authorizer.authorize(&attributes(user, &body["spec"]));
        set(&mut body, "status", status(decision));
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}

fn validate(body: &Value, review: Review, own_namespace: &str) -> Result<(), Status> {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    let spec = &body["spec"];
    let both = (field(spec, "resourceAttributes"), field(spec, "nonResourceAttributes"));
    match both {
        (Some(_), Some(_)) => {
            errors.invalid(
                &path.child("nonResourceAttributes"),
                &spec["nonResourceAttributes"],
                "cannot be specified in combination with resourceAttributes",
            );
        }
        (None, None) => {
            errors.invalid(
                &path.child("resourceAttributes"),
                &spec["resourceAttributes"],
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
        }
        _ => {}
    }
    if review != Review::SelfSubject && text(spec, "user").is_empty() && list(spec, "groups").is_empty() {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    let kind = match review {
        Review::Subject => "SubjectAccessReview",
        Review::SelfSubject => "SelfSubjectAccessReview",
        Review::Local => "LocalSubjectAccessReview",
    };
    if review == Review::Local {
        if text(&spec["resourceAttributes"], "namespace") != own_namespace {
            let given = text(&spec["resourceAttributes"], "namespace");
            let own = if namespace(body).is_empty() { own_namespace } else { namespace(body) };
            errors.invalid(
                &path.child("resourceAttributes").child("namespace"),
                given,
                format!("must match metadata.namespace: {own}"),
            );
        }
        if both.1.is_some() {
            errors.invalid(
                &path.child("nonResourceAttributes"),
                &spec["nonResourceAttributes"],
                "disallowed on this kind of request",
            );
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("authorization.k8s.io", kind, "", errors.into_causes()))
    }
}

fn subject(spec: &Value) -> UserInfo {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    UserInfo {
        username: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: texts(&spec["groups"]),
        extra: super::value::entries(spec, "extra").map(|(key, values)| (key.to_lowercase(), texts(values))).collect(),
    }
}

/// The selector of a review in the form that requests have; requirements other than for one value narrow nothing.
fn field_selector(selector: &Value) -> String {
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let terms = list(selector, "requirements").iter().filter_map(|requirement| match list(requirement, "values") {
        [Value::String(value)] if text(requirement, "operator") == "In" => {
            Some(format!("{}={value}", text(requirement, "key")))
        }
        _ => None,
    });
    terms.collect::<Vec<_>>().join(",")
}

fn attributes(user: UserInfo, spec: &Value) -> Attributes {
    let owned = |value: &Value, name: &str| text(value, name).to_owned();
    match field(spec, "resourceAttributes") {
        Some(resource) => Attributes {
            user,
            verb: owned(resource, "verb"),
            namespace: owned(resource, "namespace"),
            group: owned(resource, "group"),
            version: owned(resource, "version"),
            resource: owned(resource, "resource"),
            subresource: owned(resource, "subresource"),
            name: owned(resource, "name"),
            path: String::new(),
            field_selector: field_selector(&resource["fieldSelector"]),
        },
        None => {
            let path = &spec["nonResourceAttributes"];
            Attributes { user, verb: owned(path, "verb"), path: owned(path, "path"), ..Attributes::default() }
        }
    }
}

fn status(decision: Decision) -> Value {
    let mut status = json!({"allowed": decision.is_allowed()});
    let (denied, reason) = match decision {
        Decision::Allow(reason) => (false, reason),
        Decision::Deny(reason) => (true, reason),
        Decision::NoOpinion(reason) => (false, reason),
    };
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// Lists what the caller may do in a namespace (`kubectl auth can-i --list`).
pub struct RulesReviewEndpoint {
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Endpoint for RulesReviewEndpoint {
    async fn create(&self, request: EndpointRequest<'_>) -> Result<EndpointResponse, Status> {
        let mut body = request.body;
        let wanted = text(&body["spec"], "namespace").to_owned();
        if wanted.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let rules = self.authorizer.rules_for(request.context.user, &wanted);
        set(&mut body, "status", rules_status(&rules));
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}

fn rules_status(rules: &[PolicyRule]) -> Value {
    let (paths, resources): (Vec<&PolicyRule>, Vec<&PolicyRule>) =
        rules.iter().partition(|rule| !rule.non_resource_urls.is_empty());
    let resources: Vec<Value> = resources
        .iter()
        .map(|rule| {
            let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                shown["resourceNames"] = json!(rule.resource_names);
            }
            shown
        })
        .collect();
    let paths: Vec<Value> =
        paths.iter().map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls})).collect();
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_say_exactly_one_thing() {
        let both = json!({"spec": {"user": "u", "resourceAttributes": {}, "nonResourceAttributes": {}}});
        assert!(validate(&both, Review::Subject, "").is_err());
        assert!(validate(&json!({"spec": {"user": "u"}}), Review::Subject, "").is_err());
        assert!(validate(&json!({"spec": {"resourceAttributes": {}}}), Review::Subject, "").is_err());
        assert!(validate(&json!({"spec": {"resourceAttributes": {}}}), Review::SelfSubject, "").is_ok());
        let local = json!({"spec": {"user": "u", "resourceAttributes": {"namespace": "a"}}});
        assert!(validate(&local, Review::Local, "a").is_ok() && validate(&local, Review::Local, "b").is_err());
    }

    #[test]
    fn denials_and_opinions_differ() {
        assert_eq!(status(Decision::Allow("r".into())), json!({"allowed": true, "reason": "r"}));
        assert_eq!(status(Decision::Deny("r".into())), json!({"allowed": false, "denied": true, "reason": "r"}));
        assert_eq!(status(Decision::NoOpinion(String::new())), json!({"allowed": false}));
    }
}
