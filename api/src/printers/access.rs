//! Tables of RBAC, certificates, admission, fairness and API extension.

use serde_json::Value;

use super::{Refine, age, computed, condition, count, created_at, integer, items, name, str_at, text};
use crate::{resource::Column, timestamp};

pub(crate) fn roles() -> Vec<Column> {
    vec![name(), created_at()]
}

pub(crate) fn bindings() -> Vec<Column> {
    vec![
        name(),
        computed("Role", |binding, _| {
            format!("{}/{}", str_at(binding, "/roleRef/kind"), str_at(binding, "/roleRef/name")).into()
        }),
        age(),
        computed("Users", |binding, _| subjects(binding, "User").into()).wide(),
        computed("Groups", |binding, _| subjects(binding, "Group").into()).wide(),
        computed("ServiceAccounts", |binding, _| subjects(binding, "ServiceAccount").into()).wide(),
    ]
}

fn subjects(binding: &Value, kind: &str) -> String {
    let of_kind = items(binding, "/subjects").iter().filter(|subject| str_at(subject, "/kind") == kind);
    let names = of_kind.map(|subject| match str_at(subject, "/namespace") {
        "" => str_at(subject, "/name").to_owned(),
        namespace => format!("{namespace}/{}", str_at(subject, "/name")),
    });
    names.collect::<Vec<_>>().join(", ")
}

pub(crate) fn signing_requests() -> Vec<Column> {
    vec![
        name(),
        age(),
        text("SignerName", "/spec/signerName").or("<none>"),
        text("Requestor", "/spec/username"),
        computed("RequestedDuration", |request, _| {
            let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
            seconds.map_or(Value::Null, |seconds| {
                timestamp::human_duration(jiff::SignedDuration::from_secs(seconds)).into()
            })
        })
        .or("<none>"),
        computed("Condition", |request, _| request_condition(request).into()),
    ]
}

fn request_condition(request: &Value) -> String {
    let has = |kind: &str| items(request, "/status/conditions").iter().any(|c| str_at(c, "/type") == kind);
    let mut text = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        text += ",Failed";
    }
    if !str_at(request, "/status/certificate").is_empty() {
        text += ",Issued";
    }
    text
}

pub(crate) fn trust_bundles() -> Vec<Column> {
    vec![name(), text("SignerName", "/spec/signerName").or("<none>")]
}

pub(crate) fn pod_certificate_requests() -> Vec<Column> {
    vec![
        name(),
        text("PodName", "/spec/podName"),
        text("ServiceAccountName", "/spec/serviceAccountName"),
        text("NodeName", "/spec/nodeName"),
        text("SignerName", "/spec/signerName"),
        computed("State", |request, _| {
            let states = ["Issued", "Denied", "Failed"].into_iter();
            let found = states.into_iter().find(|state| condition(request, state) == "True");
            found.unwrap_or("Pending").into()
        }),
        age(),
    ]
}

pub(crate) fn webhooks() -> Vec<Column> {
    vec![name(), count("Webhooks", |object, _| items(object, "/webhooks").len().into()), age()]
}

pub(crate) fn validating_policies() -> Vec<Column> {
    vec![name(), count("Validations", |policy, _| items(policy, "/spec/validations").len().into()), param_kind(), age()]
}

pub(crate) fn mutating_policies() -> Vec<Column> {
    vec![name(), count("Mutations", |policy, _| items(policy, "/spec/mutations").len().into()), param_kind(), age()]
}

fn param_kind() -> Column {
    computed("ParamKind", |policy, _| match str_at(policy, "/spec/paramKind/kind") {
        "" => Value::Null,
        kind => format!("{}/{kind}", str_at(policy, "/spec/paramKind/apiVersion")).into(),
    })
    .or("<unset>")
}

pub(crate) fn policy_bindings() -> Vec<Column> {
    vec![
        name(),
        text("PolicyName", "/spec/policyName"),
        computed("ParamRef", |binding, _| {
            let Some(reference) = binding.pointer("/spec/paramRef") else { return Value::Null };
            match (str_at(reference, "/namespace"), str_at(reference, "/name")) {
                ("", "") => super::selector(reference.get("selector")).into(),
                ("", name) => format!("*/{name}").into(),
                (namespace, name) => format!("{namespace}/{name}").into(),
            }
        })
        .or("<unset>"),
        age(),
    ]
}

pub(crate) fn flow_schemas() -> Vec<Column> {
    vec![
        name(),
        text("PriorityLevel", "/spec/priorityLevelConfiguration/name"),
        integer("MatchingPrecedence", "/spec/matchingPrecedence"),
        text("DistinguisherMethod", "/spec/distinguisherMethod/type").or("<none>"),
        age(),
        computed("MissingPL", |schema, _| match condition(schema, "Dangling") {
            "" => "?".into(),
            status => status.into(),
        }),
    ]
}

pub(crate) fn priority_levels() -> Vec<Column> {
    let none = "<none>";
    vec![
        name(),
        text("Type", "/spec/type"),
        text("NominalConcurrencyShares", "/spec/limited/nominalConcurrencyShares").or(none),
        text("Queues", "/spec/limited/limitResponse/queuing/queues").or(none),
        text("HandSize", "/spec/limited/limitResponse/queuing/handSize").or(none),
        text("QueueLengthLimit", "/spec/limited/limitResponse/queuing/queueLengthLimit").or(none),
        age(),
    ]
}

pub(crate) fn api_services() -> Vec<Column> {
    vec![
        name(),
        computed("Service", |service, _| match str_at(service, "/spec/service/name") {
            "" => "Local".into(),
            name => format!("{}/{name}", str_at(service, "/spec/service/namespace")).into(),
        }),
        computed("Available", |service, _| {
            let conditions = items(service, "/status/conditions");
            let Some(found) = conditions.iter().find(|c| str_at(c, "/type") == "Available") else {
                return "Unknown".into();
            };
            match str_at(found, "/status") {
                "True" => "True".into(),
                status => format!("{status} ({})", str_at(found, "/reason")).into(),
            }
        }),
        age(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{meta, row};
    use serde_json::json;

    #[test]
    fn bindings_list_their_subjects() {
        let binding = json!({"metadata": meta("b"), "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "User", "name": "w"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
        assert_eq!(
            row("rbac.authorization.k8s.io", "v1", "clusterrolebindings", binding),
            ["b", "ClusterRole/r", "60s", "u, w", "", "n/s"]
        );
    }

    #[test]
    fn signing_requests_show_how_far_they_are() {
        let mut request =
            json!({"metadata": meta("c"), "spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600}});
        assert_eq!(
            row("certificates.k8s.io", "v1", "certificatesigningrequests", request.clone()),
            ["c", "60s", "s", "u", "60m", "Pending"]
        );
        request["status"] = json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="});
        assert_eq!(row("certificates.k8s.io", "v1", "certificatesigningrequests", request)[5], "Approved,Issued");
    }

    #[test]
    fn api_services_tell_why_they_are_unavailable() {
        let local =
            json!({"metadata": meta("v1."), "status": {"conditions": [{"type": "Available", "status": "True"}]}});
        assert_eq!(row("apiregistration.k8s.io", "v1", "apiservices", local), ["v1.", "Local", "True", "60s"]);
        let remote = json!({"metadata": meta("a"), "spec": {"service": {"namespace": "n", "name": "s"}},
            "status": {"conditions": [{"type": "Available", "status": "False", "reason": "MissingEndpoints"}]}});
        assert_eq!(
            row("apiregistration.k8s.io", "v1", "apiservices", remote)[1..3],
            ["n/s", "False (MissingEndpoints)"]
        );
    }
}
