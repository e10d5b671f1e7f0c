//! PodSecurity: the Pod Security Standards, by labels of the namespace.
//!
//! `enforce` refuses pods; `warn` and `audit` also look at the templates of
//! workloads, so that a user hears of the problem where it can be fixed. Who
//! enforces more than is warned about is warned as much. Labels that cannot be
//! read enforce the strictest level.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{Cause, GroupResource, Status};

use super::{
    lookup,
    pod_security_checks::{LATEST, Level, Violation, shown, violations},
};
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::value::{at, list, text},
};

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";
/// Pods of a namespace that are looked at when it begins to enforce more.
const EXISTING_PODS_MAX: usize = 3000;

pub struct PodSecurity;

/// A level in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    minor: u32,
}

impl Policy {
    const PRIVILEGED: Policy = Policy { level: Level::Privileged, minor: LATEST };

    fn violations(self, pod: &Value) -> Vec<Violation> {
        violations(pod, self.level, self.minor)
    }

    /// What a pod would violate, as a sentence.
    fn would_violate(self, pod: &Value) -> Option<String> {
        let found = self.violations(pod);
        (!found.is_empty()).then(|| format!("would violate PodSecurity \"{self}\": {}", shown(&found)))
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.minor {
            LATEST => write!(f, "{}:latest", self.level.as_str()),
            minor => write!(f, "{}:v1.{minor}", self.level.as_str()),
        }
    }
}

/// What the labels of a namespace say.
struct Policies {
    enforce: Policy,
    audit: Policy,
    warn: Policy,
    /// Labels, their values and why these cannot be read.
    errors: Vec<(String, String, &'static str)>,
}

impl Policies {
    fn of<'l>(label: impl Fn(&str) -> Option<&'l str>) -> Policies {
        let mut errors = Vec::new();
        let mut read = |mode: &str, otherwise: Level| {
            let mut policy = Policy::PRIVILEGED;
            let key = format!("{LABEL_PREFIX}{mode}");
            let level = label(&key);
            if let Some(text) = level {
                policy.level = Level::parse(text).unwrap_or_else(|| {
                    errors.push((key.clone(), text.to_owned(), "must be one of privileged, baseline, restricted"));
                    otherwise
                });
            }
            let key = format!("{LABEL_PREFIX}{mode}-version");
            let version = label(&key);
            if let Some(text) = version {
                policy.minor = parse_version(text).unwrap_or_else(|| {
                    errors.push((key, text.to_owned(), "must be \"latest\" or \"v1.x\""));
                    LATEST
                });
            }
            (policy, level.map(|text| Level::parse(text).is_some()), version.is_some())
        };
        let (enforce, enforced, _) = read("enforce", Level::Restricted);
        // What only tells of violations fails open.
        let (audit, _, _) = read("audit", Level::Privileged);
        let (mut warn, warned, has_version) = read("warn", Level::Privileged);
        if warned.is_none() && enforced == Some(true) && enforce.level > warn.level {
            warn.level = enforce.level;
            if !has_version {
                warn.minor = enforce.minor;
            }
        }
        Policies { enforce, audit, warn, errors }
    }

    fn of_object(namespace: &Value) -> Policies {
        Policies::of(|key| namespace["metadata"]["labels"].get(key).and_then(Value::as_str))
    }

    /// What is wrong with the labels, as one text.
    fn error(&self) -> Option<String> {
        let texts: Vec<String> = self
            .errors
            .iter()
            .map(|(key, value, why)| format!("metadata.labels[{key}]: Invalid value: {value:?}: {why}"))
            .collect();
        match texts.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(format!("[{}]", several.join(", "))),
        }
    }
}

fn parse_version(text: &str) -> Option<u32> {
    if text == "latest" {
        return Some(LATEST);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor == "0" || (!minor.starts_with('0') && minor.bytes().all(|byte| byte.is_ascii_digit()));
    minor.parse().ok().filter(|_| plain)
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
            return namespace(request);
        }
        let Some(template) = template_path(resource.0, resource.1) else { return Ok(()) };
        let is_pod = template.is_empty();
        let subresource_counts = is_pod && matches!(request.subresource, "ephemeralcontainers" | "resize");
        if !request.subresource.is_empty() && !subresource_counts {
            return Ok(());
        }
        let namespace = lookup::find(request.snapshot, GroupResource::new("", "namespaces"), "", request.namespace);
        let Some(namespace) = namespace else { return Ok(()) };
        let policies = Policies::of(|key| namespace.meta.labels.get(key).map(String::as_str));
        let Some(object) = &request.object else { return Ok(()) };
        let pod = at(object, template);
        if pod.is_null() {
            return Ok(());
        }
        if is_pod && request.old_object.is_some_and(|old| !is_significant(pod, old)) {
            return Ok(());
        }
        let (mut notes, mut warnings, mut refusal) = (Vec::new(), Vec::new(), None);
        notes.extend(policies.error().map(|error| ("error", format!("Failed to parse policy: {error}"))));
        if is_pod {
            notes.push(("enforce-policy", policies.enforce.to_string()));
            let found = policies.enforce.violations(pod);
            if !found.is_empty() {
                let why = format!("violates PodSecurity \"{}\": {}", policies.enforce, shown(&found));
                refusal = Some(request.forbidden(why));
            }
        }
        notes.extend(policies.audit.would_violate(pod).map(|text| ("audit-violations", text)));
        if refusal.is_none() {
            warnings.extend(policies.warn.would_violate(pod));
        }
        request.warnings.extend(warnings);
        request.annotations.extend(notes.into_iter().map(|(key, text)| (format!("{LABEL_PREFIX}{key}"), text)));
        refusal.map_or(Ok(()), Err)
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

/// Whether an update changes what the standards look at: of what may change in a pod, its containers and their images.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let containers = |pod: &Value, name: &str| -> Vec<(String, String)> {
        let containers = list(&pod["spec"], name).iter();
        containers.map(|container| (text(container, "name").to_owned(), text(container, "image").to_owned())).collect()
    };
    let images =
        |pod: &Value, name: &str| containers(pod, name).into_iter().map(|(_, image)| image).collect::<Vec<_>>();
    let before = containers(old, "ephemeralContainers");
    ["containers", "initContainers"].iter().any(|name| images(pod, name) != images(old, name))
        || containers(pod, "ephemeralContainers").iter().any(|container| !before.contains(container))
}

/// Labels of a namespace must make sense where they change, and pods that are there already are told of.
fn namespace(request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    let Some(object) = &request.object else { return Ok(()) };
    let new = Policies::of_object(object);
    let old = request.old_object.map(Policies::of_object);
    if !new.errors.is_empty() && old.as_ref().is_none_or(|old| old.errors != new.errors) {
        let cause = |(key, value, why): &(String, String, &str)| Cause {
            reason: "FieldValueInvalid".to_owned(),
            field: format!("metadata.labels[{key}]"),
            message: format!("Invalid value: {value:?}: {why}"),
        };
        return Err(Status::invalid("", "Namespace", request.name, new.errors.iter().map(cause).collect()));
    }
    let Some(old) = old else { return Ok(()) };
    let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
    if new.enforce.level != Level::Privileged && !relaxed {
        let warnings = existing(request, new.enforce);
        request.warnings.extend(warnings);
    }
    Ok(())
}

/// Warnings about the pods of a namespace, those of each kind of violation together.
fn existing(request: &AdmissionRequest<'_>, enforce: Policy) -> Vec<String> {
    let Some(store) = request.snapshot.store(&GroupResource::new("", "pods")) else { return Vec::new() };
    let (mut first, mut others, mut owners) = (Vec::new(), Vec::new(), HashSet::new());
    for pod in store.list(Some(request.name)) {
        // One pod of each controller comes before its likes.
        let controller = pod.meta.owner_references.iter().find(|owner| owner.controller == Some(true));
        let is_first = controller.is_none_or(|owner| owners.insert(owner.uid.clone()));
        if is_first { &mut first } else { &mut others }.push(pod);
    }
    let total = first.len() + others.len();
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in first.iter().chain(&others).take(EXISTING_PODS_MAX) {
        let found = pod.value().map(|pod| enforce.violations(&pod)).unwrap_or_default();
        if !found.is_empty() {
            let reasons = found.iter().map(|violation| violation.reason).collect::<Vec<_>>().join(", ");
            kinds.entry(reasons).or_default().push(pod.meta.name.clone());
        }
    }
    let mut warnings = Vec::new();
    if total > EXISTING_PODS_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {EXISTING_PODS_MAX} of {total} existing pods"
        ));
    }
    if !kinds.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {:?} violate the new PodSecurity enforce level \"{enforce}\"",
            request.name
        ));
    }
    let mut pods: Vec<String> = kinds
        .into_iter()
        .map(|(reasons, mut names)| {
            names.sort();
            match names.as_slice() {
                [one] => format!("{one}: {reasons}"),
                [one, _] => format!("{one} (and 1 other pod): {reasons}"),
                names => format!("{} (and {} other pods): {reasons}", names[0], names.len() - 1),
            }
        })
        .collect();
    pods.sort();
    warnings.append(&mut pods);
    warnings
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
        // Who enforces is warned as well.
        let tried =
            case("enforce", "baseline").create("apps", "deployments", "n", deployment).validate(&PodSecurity).await;
        assert_eq!(
            tried.unwrap(),
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"]
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

    fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
        let labels: BTreeMap<String, &str> =
            labels.iter().map(|(key, value)| (format!("{LABEL_PREFIX}{key}"), *value)).collect();
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    }

    #[test]
    fn labels_that_cannot_be_read_enforce_the_most_and_warnings_follow_enforcement() {
        let read = |labels: &[(&str, &str)]| {
            let policies = Policies::of_object(&namespace("n", labels));
            let Policies { enforce, audit, warn, ref errors } = policies;
            (format!("{enforce} {audit} {warn}"), errors.len())
        };
        assert_eq!(read(&[]), ("privileged:latest privileged:latest privileged:latest".into(), 0));
        let enforced = [("enforce", "baseline"), ("enforce-version", "v1.30")];
        assert_eq!(read(&enforced), ("baseline:v1.30 privileged:latest baseline:v1.30".into(), 0));
        assert_eq!(
            read(&[("enforce", "restricted"), ("warn", "baseline")]),
            ("restricted:latest privileged:latest baseline:latest".into(), 0)
        );
        assert_eq!(
            read(&[("enforce", "x"), ("audit", "x"), ("warn-version", "v1.01")]),
            ("restricted:latest privileged:latest privileged:latest".into(), 3)
        );
    }

    #[tokio::test]
    async fn the_audit_log_hears_what_was_enforced_and_what_would_violate() {
        let labels = [("enforce", "privileged"), ("audit", "baseline"), ("warn", "privileged")];
        let case = Case::new().with("", "namespaces", namespace("n", &labels));
        let bench = case.create("", "pods", "n", pod(json!({"hostPID": true, "containers": [{"name": "c"}]})));
        let options = json!({});
        let mut request = bench.request(&options);
        PodSecurity.validate(&mut request).await.unwrap();
        let noted = |key: &str, text: &str| (format!("{LABEL_PREFIX}{key}"), text.to_owned());
        assert_eq!(
            request.annotations,
            [
                noted("enforce-policy", "privileged:latest"),
                noted(
                    "audit-violations",
                    "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
                )
            ]
        );
        assert!(request.warnings.is_empty());
    }

    #[tokio::test]
    async fn pods_that_are_there_are_told_of_when_more_is_enforced() {
        let mut case = Case::new();
        for (name, spec) in [
            ("a", json!({"hostPID": true})),
            ("b", json!({"hostPID": true})),
            ("c", json!({"hostPID": true})),
            ("d", json!({"securityContext": {"sysctls": [{"name": "x"}]}})),
            ("e", json!({})),
        ] {
            case = case.with("", "pods", json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec}));
        }
        let update = async |old: &str, new: &str| {
            let (old, new) = (namespace("n", &[("enforce", old)]), namespace("n", &[("enforce", new)]));
            case.update("", "namespaces", "", new, old).validate(&PodSecurity).await.unwrap()
        };
        assert_eq!(
            update("privileged", "baseline").await,
            [
                "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 2 other pods): host namespaces",
                "d: forbidden sysctls"
            ]
        );
        assert!(update("restricted", "baseline").await.is_empty());
    }

    #[test]
    fn only_new_images_and_containers_matter_to_an_update() {
        let pod = |image: &str, ephemeral: Value, toleration: &str| {
            json!({"spec": {"containers": [{"name": "c", "image": image}], "ephemeralContainers": ephemeral,
                "tolerations": [{"key": toleration}]}})
        };
        let old = pod("i", json!([]), "a");
        assert!(!is_significant(&pod("i", json!([]), "b"), &old));
        assert!(is_significant(&pod("j", json!([]), "a"), &old));
        assert!(is_significant(&pod("i", json!([{"name": "e", "image": "i"}]), "a"), &old));
    }
}
