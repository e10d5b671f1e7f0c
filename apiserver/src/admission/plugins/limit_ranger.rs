//! LimitRanger: defaults and bounds of a namespace for containers, pods and claims.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Quantity, Status};

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    registry::{
        validation::numbers::parse_quantity,
        value::{child, entries, field, list, set, text},
    },
};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        matches!(operation, AdmissionOperation::Create | AdmissionOperation::Update)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !request.is("", "pods") || request.operation != AdmissionOperation::Create {
            return Ok(());
        }
        let limits = limits(request);
        if let Some(pod) = &mut request.object {
            for limit in limits.iter().filter(|limit| text(limit, "type") == "Container") {
                defaults(pod, limit);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let pods = request.is("", "pods") && request.operation == AdmissionOperation::Create
            || request.resource.group.is_empty()
                && request.resource.resource == "pods"
                && request.subresource == "resize";
        let claims = request.is("", "persistentvolumeclaims");
        if !pods && !claims {
            return Ok(());
        }
        let Some(object) = &request.object else { return Ok(()) };
        let mut refusals = Vec::new();
        for limit in limits(request) {
            match text(&limit, "type") {
                "Container" if pods => {
                    for container in
                        list(&object["spec"], "containers").iter().chain(list(&object["spec"], "initContainers"))
                    {
                        let resources = &container["resources"];
                        check(&mut refusals, "Container", &limit, &resources["requests"], &resources["limits"]);
                    }
                }
                "Pod" if pods => {
                    let requests = sum(&object["spec"], "requests");
                    let limits = sum(&object["spec"], "limits");
                    check(&mut refusals, "Pod", &limit, &requests, &limits);
                }
                "PersistentVolumeClaim" if claims => {
                    let requests = &object["spec"]["resources"]["requests"];
                    check(&mut refusals, "PersistentVolumeClaim", &limit, requests, &Value::Null);
                }
                _ => {}
            }
        }
        match refusals.as_slice() {
            [] => Ok(()),
            [one] => Err(request.forbidden(one)),
            many => Err(request.forbidden(format!("[{}]", many.join(", ")))),
        }
    }
}

fn limits(request: &AdmissionRequest<'_>) -> Vec<Value> {
    lookup::list(request.snapshot, GroupResource::new("", "limitranges"), Some(request.namespace))
        .iter()
        .filter_map(|range| range.typed::<Value>().ok())
        .flat_map(|range| list(&range["spec"], "limits").to_vec())
        .collect()
}

/// Fills missing requests and limits of all containers, and notes what was done.
fn defaults(pod: &mut Value, limit: &Value) {
    let mut notes = Vec::new();
    for (list_name, kind) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(containers) = child(pod, "spec").get_mut(list_name).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = text(container, "name").to_owned();
            let mut filled = |kind_of: &str, source: &str| {
                let mut names = Vec::new();
                for (resource, quantity) in entries(limit, source) {
                    let target = child(child(container, "resources"), kind_of);
                    if field(target, resource).is_none() {
                        set(target, resource, quantity.clone());
                        names.push(resource.as_str());
                    }
                }
                names.join(", ")
            };
            let requests = filled("requests", "defaultRequest");
            let limits = filled("limits", "default");
            for (what, names) in [("request", requests), ("limit", limits)] {
                if !names.is_empty() {
                    notes.push(format!("{names} {what} for {kind} {name}"));
                }
            }
        }
    }
    if !notes.is_empty() {
        let annotations = child(child(pod, "metadata"), "annotations");
        set(annotations, ANNOTATION, format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

fn check(refusals: &mut Vec<String>, kind: &str, limit: &Value, requests: &Value, limits: &Value) {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (name, bound) in entries(limit, "min") {
        let Some(least) = parse_quantity(bound) else { continue };
        let (request, upper) = (parse_quantity(&requests[name]), parse_quantity(&limits[name]));
        match request {
            None => {
                refusals.push(format!("minimum {name} usage per {kind} is {}.  No request is specified", shown(bound)))
            }
            Some(request) if request < least => {
                refusals.push(format!(
                    "minimum {name} usage per {kind} is {}, but request is {}",
                    shown(bound),
                    shown(&requests[name])
                ));
            }
            _ => {}
        }
        if upper.is_some_and(|upper| upper < least) {
            refusals.push(format!(
                "minimum {name} usage per {kind} is {}, but limit is {}",
                shown(bound),
                shown(&limits[name])
            ));
        }
    }
    for (name, bound) in entries(limit, "max") {
        let Some(most) = parse_quantity(bound) else { continue };
        if kind == "PersistentVolumeClaim" {
            if parse_quantity(&requests[name]).is_some_and(|request| request > most) {
                refusals.push(format!(
                    "maximum {name} usage per {kind} is {}, but request is {}",
                    shown(bound),
                    shown(&requests[name])
                ));
            }
            continue;
        }
        match parse_quantity(&limits[name]) {
            None => {
                refusals.push(format!("maximum {name} usage per {kind} is {}.  No limit is specified", shown(bound)))
            }
            Some(upper) if upper > most => {
                refusals.push(format!(
                    "maximum {name} usage per {kind} is {}, but limit is {}",
                    shown(bound),
                    shown(&limits[name])
                ));
            }
            _ => {}
        }
        if parse_quantity(&requests[name]).is_some_and(|request| request > most) {
            refusals.push(format!(
                "maximum {name} usage per {kind} is {}, but request is {}",
                shown(bound),
                shown(&requests[name])
            ));
        }
    }
    for (name, bound) in entries(limit, "maxLimitRequestRatio") {
        let (Some(most), Some(request), Some(upper)) =
            (parse_quantity(bound), parse_quantity(&requests[name]), parse_quantity(&limits[name]))
        else {
            refusals.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but no request is specified or request is 0",
                shown(bound)
            ));
            continue;
        };
        let ratio = upper.as_f64() / request.as_f64();
        if ratio > most.as_f64() {
            refusals.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but provided ratio is {ratio:.6}",
                shown(bound)
            ));
        }
    }
}

/// What a pod asks for: the sum of its containers, or its largest init container.
fn sum(spec: &Value, kind: &str) -> Value {
    let mut totals: Vec<(String, Quantity)> = Vec::new();
    let mut slot =
        |name: &str, change: &dyn Fn(Quantity) -> Quantity| match totals.iter_mut().find(|(have, _)| have == name) {
            Some((_, total)) => *total = change(*total),
            None => totals.push((name.to_owned(), change(Quantity::ZERO))),
        };
    for container in list(spec, "containers") {
        for (name, value) in entries(&container["resources"], kind) {
            if let Some(quantity) = parse_quantity(value) {
                slot(name, &|total| if total.is_zero() { quantity } else { total.saturating_add(quantity) });
            }
        }
    }
    for container in list(spec, "initContainers") {
        for (name, value) in entries(&container["resources"], kind) {
            if let Some(quantity) = parse_quantity(value) {
                slot(name, &|total| total.max(quantity));
            }
        }
    }
    Value::Object(totals.into_iter().map(|(name, quantity)| (name, json!(quantity.to_string()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;

    fn case() -> Case {
        Case::new().with("", "limitranges", json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}, "min": {"cpu": "500m"}, "max": {"cpu": "3"}},
            {"type": "Pod", "max": {"cpu": "4"}}]}}))
    }

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
    }

    #[tokio::test]
    async fn missing_values_are_filled_and_noted() {
        let made = case().create("", "pods", "n", pod(json!([{"name": "c"}]))).mutate(&LimitRanger).await.unwrap();
        assert_eq!(
            made["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}})
        );
        assert_eq!(
            made["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[tokio::test]
    async fn bounds_hold_for_containers_and_pods() {
        let container = |request: &str, limit: &str| json!({"name": "c", "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}});
        let case = case();
        let check = |containers: Value| {
            let bench = case.create("", "pods", "n", pod(containers));
            async move { bench.validate(&LimitRanger).await.map_err(|status| status.message) }
        };
        assert!(check(json!([container("1", "2")])).await.is_ok());
        assert_eq!(
            check(json!([container("100m", "2")])).await.unwrap_err(),
            "pods \"p\" is forbidden: minimum cpu usage per Container is 500m, but request is 100m"
        );
        assert_eq!(
            check(json!([container("1", "5")])).await.unwrap_err(),
            "pods \"p\" is forbidden: [maximum cpu usage per Container is 3, but limit is 5, maximum cpu usage per Pod is 4, but limit is 5]"
        );
        assert_eq!(
            check(json!([container("1", "3"), container("1", "3")])).await.unwrap_err(),
            "pods \"p\" is forbidden: maximum cpu usage per Pod is 4, but limit is 6"
        );
    }
}
