//! Priority: the name of a priority class becomes a number, once, at creation.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;
use skiff_api::{GroupResource, Status};
use skiff_client::Snapshot;

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::{
        scheduling::{SYSTEM_CLUSTER_CRITICAL, SYSTEM_NODE_CRITICAL},
        value::{child, copy_field, field, flag, int, set, text},
    },
};

const PREEMPT: &str = "PreemptLowerPriority";

pub struct Priority;

/// What a class gives to a pod.
struct Resolved {
    name: String,
    value: i64,
    preemption: String,
}

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        matches!(operation, AdmissionOperation::Create | AdmissionOperation::Update)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let Some(mut pod) = request.object.take() else { return Ok(()) };
        let result = match request.old_object {
            Some(old) => {
                keep(&mut pod, old);
                Ok(())
            }
            None => assign(request, &mut pod),
        };
        request.object = Some(pod);
        result
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("scheduling.k8s.io", "priorityclasses") {
            return Ok(());
        }
        let Some(class) = &request.object else { return Ok(()) };
        if !flag(class, "globalDefault") {
            return Ok(());
        }
        match classes(request.snapshot)
            .iter()
            .find(|class| class.global_default == Some(true))
            .and_then(|class| class.metadata.name.clone())
        {
            Some(other) if other != request.name => Err(request
                .forbidden(format!("PriorityClass {other} is already marked as default. Only one default can exist"))),
            _ => Ok(()),
        }
    }
}

fn classes(snapshot: &Snapshot) -> Vec<Arc<PriorityClass>> {
    lookup::list(snapshot, GroupResource::new("scheduling.k8s.io", "priorityclasses"), None)
        .iter()
        .filter_map(|object| object.typed::<PriorityClass>().ok())
        .collect()
}

/// An update that leaves the numbers out keeps them.
fn keep(pod: &mut Value, old: &Value) {
    let spec = child(pod, "spec");
    for name in ["priority", "preemptionPolicy"] {
        if field(spec, name).is_none() {
            copy_field(spec, &old["spec"], name);
        }
    }
}

fn assign(request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    let spec = child(pod, "spec");
    let resolved = resolve(request, text(spec, "priorityClassName"))?;
    if !resolved.name.is_empty() {
        set(spec, "priorityClassName", resolved.name);
    }
    if let Some(given) = int(spec, "priority")
        && given != resolved.value
    {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {} from the given PriorityClass name",
            resolved.value
        )));
    }
    set(spec, "priority", resolved.value);
    let given = text(spec, "preemptionPolicy");
    if !given.is_empty() && given != resolved.preemption {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {} from the given PriorityClass name",
            resolved.preemption
        )));
    }
    set(spec, "preemptionPolicy", resolved.preemption);
    Ok(())
}

fn resolve(request: &AdmissionRequest<'_>, name: &str) -> Result<Resolved, Status> {
    let of = |class: &PriorityClass| Resolved {
        name: class.metadata.name.clone().unwrap_or_default(),
        value: class.value.map_or(0, i64::from),
        preemption: class.preemption_policy.clone().unwrap_or_else(|| PREEMPT.to_owned()),
    };
    if name.is_empty() {
        let lowest = classes(request.snapshot)
            .into_iter()
            .filter(|class| class.global_default == Some(true))
            .min_by_key(|class| class.value);
        return Ok(lowest.map_or_else(
            || Resolved { name: String::new(), value: 0, preemption: PREEMPT.to_owned() },
            |class| of(&class),
        ));
    }
    let resource = GroupResource::new("scheduling.k8s.io", "priorityclasses");
    if let Some(object) = lookup::find(request.snapshot, resource, "", name) {
        let class = object.typed::<PriorityClass>().map_err(Status::internal)?;
        return Ok(of(&class));
    }
    // The two system classes hold before their objects are there.
    for (system, value) in [SYSTEM_CLUSTER_CRITICAL, SYSTEM_NODE_CRITICAL] {
        if name == system {
            return Ok(Resolved { name: system.to_owned(), value, preemption: PREEMPT.to_owned() });
        }
    }
    Err(request.forbidden(format!("no PriorityClass with name {name} was found")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    fn case() -> Case {
        let class = |name: &str, value: i64, default: bool| {
            json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "globalDefault": default, "preemptionPolicy": if default { "Never" } else { PREEMPT }})
        };
        Case::new().with("scheduling.k8s.io", "priorityclasses", class("high", 100, false)).with(
            "scheduling.k8s.io",
            "priorityclasses",
            class("usual", 5, true),
        )
    }

    #[tokio::test]
    async fn classes_become_numbers() {
        let case = case();
        for (given, want) in [
            (json!({"priorityClassName": "high"}), ("high", 100, PREEMPT)),
            (json!({}), ("usual", 5, "Never")),
            (json!({"priorityClassName": "system-node-critical"}), ("system-node-critical", 2_000_001_000, PREEMPT)),
        ] {
            let pod = case
                .create("", "pods", "n", json!({"metadata": {"name": "p"}, "spec": given}))
                .mutate(&Priority)
                .await
                .unwrap();
            let spec = &pod["spec"];
            assert_eq!(
                (text(spec, "priorityClassName"), int(spec, "priority").unwrap(), text(spec, "preemptionPolicy")),
                want
            );
        }
    }

    #[tokio::test]
    async fn numbers_are_not_chosen_by_users() {
        let case = case();
        for (spec, want) in [
            (json!({"priorityClassName": "x"}), "no PriorityClass with name x was found"),
            (
                json!({"priorityClassName": "high", "priority": 7}),
                "the integer value of priority (7) must not be provided",
            ),
        ] {
            let error = case
                .create("", "pods", "n", json!({"metadata": {"name": "p"}, "spec": spec}))
                .mutate(&Priority)
                .await
                .unwrap_err();
            assert!(error.message.contains(want), "{}", error.message);
        }
    }

    #[tokio::test]
    async fn there_is_one_default_class() {
        let second = json!({"metadata": {"name": "other"}, "globalDefault": true});
        let error =
            case().create("scheduling.k8s.io", "priorityclasses", "", second).validate(&Priority).await.unwrap_err();
        assert!(
            error.message.ends_with("PriorityClass usual is already marked as default. Only one default can exist")
        );
    }
}
