//! PodSecurity: the Pod Security Standards, by labels of the namespace.
//!
//! `enforce` refuses pods; `warn` and `audit` also look at the templates of
//! workloads, so that a user hears of the problem where it can be fixed.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{GroupResource, Status};

use super::{
    lookup,
    pod_security_checks::{Level, violations},
};
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::at,
};

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";

pub struct PodSecurity;

/// One of the three policies of a namespace.
struct Policy {
    level: Level,
    version: String,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.level.as_str(), self.version)
    }
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        matches!(operation, AdmissionOperation::Create | AdmissionOperation::Update)
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let resource = (&*request.resource.group, &*request.resource.resource);
        if resource == ("", "namespaces") && request.subresource.is_empty() {
            return labels(request);
        }
        let Some(template) = template_path(resource.0, resource.1) else { return Ok(()) };
        let is_pod = template.is_empty();
        if !matches!(request.subresource, "" | "ephemeralcontainers") || (!request.subresource.is_empty() && !is_pod) {
            return Ok(());
        }
        let namespace = lookup::find(request.snapshot, GroupResource::new("", "namespaces"), "", request.namespace);
        let Some(namespace) = namespace else { return Ok(()) };
        let policy = |mode: &str| {
            let labels = &namespace.meta.labels;
            let level = labels.get(&format!("{LABEL_PREFIX}{mode}")).and_then(|label| Level::parse(label))?;
            let version =
                labels.get(&format!("{LABEL_PREFIX}{mode}-version")).cloned().unwrap_or_else(|| "latest".to_owned());
            (level != Level::Privileged).then_some(Policy { level, version })
        };
        let (enforce, warn) = (policy("enforce"), policy("warn"));
        if enforce.is_none() && warn.is_none() {
            return Ok(());
        }
        let Some(object) = &request.object else { return Ok(()) };
        let pod = at(object, template);
        if pod.is_null() || (is_pod && unchanged(pod, request.old_object)) {
            return Ok(());
        }
        if let Some(policy) = enforce.filter(|_| is_pod) {
            let found = violations(pod, policy.level);
            if !found.is_empty() {
                return Err(request.forbidden(format!("violates PodSecurity \"{policy}\": {}", found.join(", "))));
            }
        }
        if let Some(policy) = warn {
            let found = violations(pod, policy.level);
            if !found.is_empty() {
                request.warnings.push(format!("would violate PodSecurity \"{policy}\": {}", found.join(", ")));
            }
        }
        Ok(())
    }
}

/// Where a kind keeps its pod; empty for pods themselves.
fn template_path(group: &str, resource: &str) -> Option<&'static [&'static str]> {
    Some(match (group, resource) {
        ("", "pods") => &[],
        ("", "podtemplates") => &["template"],
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets")
        | ("batch", "jobs") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    })
}

/// Updates that concern nothing a policy looks at are always allowed.
fn unchanged(pod: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return false };
    pod["spec"] == old["spec"] && pod["metadata"]["annotations"] == old["metadata"]["annotations"]
}

/// Labels of a namespace must name a level and a version.
fn labels(request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let Some(object) = &request.object else { return Ok(()) };
    for mode in ["enforce", "audit", "warn"] {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        let key = format!("{LABEL_PREFIX}{mode}");
        if let Some(level) = label(&key)
            && Level::parse(level).is_none()
        {
            return Err(invalid(request, &key, level, "must be one of privileged, baseline, restricted"));
        }
        let key = format!("{LABEL_PREFIX}{mode}-version");
        if let Some(version) = label(&key)
            && !is_version(version)
        {
            return Err(invalid(request, &key, version, "must be \"latest\" or \"v1.x\""));
        }
    }
    Ok(())
}

fn is_version(version: &str) -> bool {
    let minor =
        version.strip_prefix("v1.").is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()));
    version == "latest" || minor
}

fn invalid(request: &AdmissionRequest<'_>, key: &str, value: &str, why: &str) -> Status {
    let cause = skiff_api::Cause {
        reason: "FieldValueInvalid".to_owned(),
        field: format!("metadata.labels[{key}]"),
        message: format!("Invalid value: {value:?}: {why}"),
    };
    Status::invalid("", "Namespace", request.name, vec![cause])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    fn case(mode: &str, level: &str) -> Case {
        let labels = json!({format!("{LABEL_PREFIX}{mode}"): level});
        Case::new().with(
            "",
            "namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": labels}}),
        )
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[tokio::test]
    async fn enforcement_refuses_with_upstreams_text() {
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        let error = case("enforce", "restricted")
            .create("", "pods", "n", plain.clone())
            .validate(&PodSecurity)
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": \
             allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        assert!(case("enforce", "baseline").create("", "pods", "n", plain).validate(&PodSecurity).await.is_ok());
    }

    #[tokio::test]
    async fn templates_are_warned_about_but_not_refused() {
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"hostNetwork": true, "containers": [{"name": "c"}]}}}});
        let warnings = case("warn", "baseline")
            .create("apps", "deployments", "n", deployment.clone())
            .validate(&PodSecurity)
            .await
            .unwrap();
        assert_eq!(warnings, ["would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"]);
        assert!(
            case("enforce", "baseline")
                .create("apps", "deployments", "n", deployment)
                .validate(&PodSecurity)
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn labels_must_make_sense() {
        let case = Case::new();
        let namespace =
            |value: &str| json!({"metadata": {"name": "n", "labels": {format!("{LABEL_PREFIX}warn"): value}}});
        assert!(case.create("", "namespaces", "", namespace("baseline")).validate(&PodSecurity).await.is_ok());
        assert_eq!(
            case.create("", "namespaces", "", namespace("x")).validate(&PodSecurity).await.unwrap_err().code,
            422
        );
    }
}
