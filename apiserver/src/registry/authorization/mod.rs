//! Group `authorization.k8s.io`: may somebody do something.

mod selectors;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{
    endpoint::{Endpoint, EndpointRequest, EndpointResponse},
    validation::{Errors, Path},
    value::{field, list, set, text},
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
        let mut ignored = Vec::new();
        let decision = self.authorizer.authorize(&attributes(user, &body["spec"], &mut ignored));
        set(&mut body, "status", status(decision, &ignored));
        Ok(EndpointResponse { code: 201, body, warnings: Vec::new() })
    }
}

fn validate(body: &Value, review: Review, own_namespace: &str) -> Result<(), Status> {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    let spec = &body["spec"];
    let both = (field(spec, "resourceAttributes"), field(spec, "nonResourceAttributes"));
    if both.0.is_some() == both.1.is_some() {
        errors.invalid(
            &path,
            &spec["nonResourceAttributes"],
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
    }
    if review != Review::SelfSubject && text(spec, "user").is_empty() && list(spec, "groups").is_empty() {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    if let Some(resource) = both.0 {
        selectors::validate(&mut errors, &path.child("resourceAttributes"), resource);
    }
    metadata(&mut errors, &body["metadata"], review);
    if review == Review::Local {
        if let Some(resource) = both.0
            && text(resource, "namespace") != own_namespace
        {
            let field = path.child("resourceAttributes");
            errors.invalid(&field.child("namespace"), text(resource, "namespace"), "must match metadata.namespace");
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
        return Ok(());
    }
    let kind = match review {
        Review::Subject => "SubjectAccessReview",
        Review::SelfSubject => "SelfSubjectAccessReview",
        Review::Local => "LocalSubjectAccessReview",
    };
    Err(Status::invalid("authorization.k8s.io", kind, "", errors.into_causes()))
}

/// A review is no object: nothing of it is kept, so it has no name.
fn metadata(errors: &mut Errors, metadata: &Value, review: Review) {
    let local = review == Review::Local;
    let ignored = |name: &str| name == "managedFields" || (local && name == "namespace");
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    if metadata.as_object().into_iter().flatten().any(|(name, value)| !ignored(name) && !is_empty(value)) {
        let detail = if local { "must be empty except for namespace" } else { "must be empty" };
        errors.invalid(&Path::new("metadata"), metadata, detail);
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

/// The question of a review. What of its selectors cannot be understood is
/// left out, which asks for more, and told in `ignored`.
fn attributes(user: UserInfo, spec: &Value, ignored: &mut Vec<String>) -> Attributes {
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
            field_selector: selectors::read(resource, ignored),
        },
        None => {
            let path = &spec["nonResourceAttributes"];
            Attributes { user, verb: owned(path, "verb"), path: owned(path, "path"), ..Attributes::default() }
        }
    }
}

fn status(decision: Decision, ignored: &[String]) -> Value {
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
    if !ignored.is_empty() {
        status["evaluationError"] = ignored.join("; ").into();
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
        let user = request.context.user;
        let mut status = rules_status(&self.authorizer.rules_for(user, &wanted));
        if let Some(missing) = self.authorizer.rules_missing(user) {
            status["incomplete"] = true.into();
            status["evaluationError"] = missing.into();
        }
        set(&mut body, "status", status);
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
    fn a_review_has_no_metadata_and_a_local_one_names_its_namespace_twice() {
        let refusal = |body: &Value, review| validate(body, review, "a").unwrap_err().message;
        let named = json!({"metadata": {"name": "x", "creationTimestamp": null}, "spec": {"resourceAttributes": {}}});
        assert!(refusal(&named, Review::SelfSubject).ends_with(": must be empty"));
        let managed = json!({"metadata": {"managedFields": [{}], "namespace": "a", "creationTimestamp": null},
            "spec": {"user": "u", "resourceAttributes": {"namespace": "a"}}});
        assert!(validate(&managed, Review::Local, "a").is_ok() && validate(&managed, Review::Subject, "").is_err());
        let elsewhere = json!({"spec": {"user": "u", "resourceAttributes": {"namespace": "b"}}});
        assert!(
            refusal(&elsewhere, Review::Local)
                .ends_with("spec.resourceAttributes.namespace: Invalid value: \"b\": must match metadata.namespace")
        );
    }

    #[test]
    fn denials_and_opinions_differ() {
        let status = |decision| status(decision, &[]);
        assert_eq!(status(Decision::Allow("r".into())), json!({"allowed": true, "reason": "r"}));
        assert_eq!(status(Decision::Deny("r".into())), json!({"allowed": false, "denied": true, "reason": "r"}));
        assert_eq!(status(Decision::NoOpinion(String::new())), json!({"allowed": false}));
    }
}
