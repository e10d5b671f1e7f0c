//! The condition `Available` of an APIService: pure, upstream's reasons and wording.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use super::remote::ServiceReference;
use crate::registry::{
    meta::time_text,
    value::{list, text},
};

/// Why an APIService is not available, or that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    pub fn local() -> Verdict {
        Verdict { available: true, reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    pub fn passed() -> Verdict {
        Verdict { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    pub fn failed_discovery(message: String) -> Verdict {
        Verdict::no("FailedDiscoveryCheck", message)
    }

    fn no(reason: &'static str, message: String) -> Verdict {
        Verdict { available: false, reason, message }
    }
}

/// What speaks against the server before it is asked at all.
pub fn unreachable(
    reference: &ServiceReference,
    service: Option<&Service>,
    slices: &[Arc<EndpointSlice>],
) -> Option<Verdict> {
    let what = format!("service/{} in {:?}", reference.name, reference.namespace);
    let Some(service) = service else {
        return Some(Verdict::no("ServiceNotFound", format!("{what} is not present")));
    };
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let mut ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
    let Some(port) = ports.find(|port| port.port == i32::from(reference.port)) else {
        return Some(Verdict::no("ServicePortError", format!("{what} is not listening on port {}", reference.port)));
    };
    if slices.is_empty() {
        return Some(Verdict::no("EndpointsNotFound", format!("cannot find endpointslices for {what}")));
    }
    let name = port.name.as_deref().unwrap_or_default();
    if slices.iter().any(|slice| has_endpoint(slice, name)) {
        return None;
    }
    Some(Verdict::no(
        "MissingEndpoints",
        format!("endpointslices for {what} have no addresses with port name {name:?}"),
    ))
}

fn has_endpoint(slice: &EndpointSlice, port_name: &str) -> bool {
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .any(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    let mut ports = slice.ports.iter().flatten();
    ready && ports.any(|port| port.name.as_deref().unwrap_or_default() == port_name && port.port.is_some())
}

/// Whether the stored object says that it is available.
pub fn is_available(object: &Value) -> bool {
    condition(object).is_some_and(|condition| text(condition, "status") == "True")
}

fn condition(object: &Value) -> Option<&Value> {
    list(&object["status"], "conditions").iter().find(|condition| text(condition, "type") == "Available")
}

/// The status that shows the verdict; `None` when it is there already.
pub fn status(object: &Value, verdict: &Verdict, now: Timestamp) -> Option<Value> {
    let state = if verdict.available { "True" } else { "False" };
    let before = condition(object);
    let since = match before {
        Some(before) if text(before, "status") == state => {
            if text(before, "reason") == verdict.reason && text(before, "message") == verdict.message {
                return None;
            }
            text(before, "lastTransitionTime").to_owned()
        }
        _ => time_text(now),
    };
    let wanted = json!({"type": "Available", "status": state, "lastTransitionTime": since,
        "reason": verdict.reason, "message": verdict.message});
    let mut conditions = list(&object["status"], "conditions").to_vec();
    match conditions.iter_mut().find(|condition| text(condition, "type") == "Available") {
        Some(condition) => *condition = wanted,
        None => conditions.push(wanted),
    }
    Some(json!({"conditions": conditions}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> ServiceReference {
        ServiceReference { namespace: "n".into(), name: "s".into(), port: 443 }
    }

    fn service(port: i32) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "https", "port": port}]}}))
            .unwrap()
    }

    fn slice(ready: bool) -> Arc<EndpointSlice> {
        let slice = json!({"addressType": "IPv4", "metadata": {}, "ports": [{"name": "https", "port": 8443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    #[test]
    fn each_missing_link_has_its_reason() {
        let reason = |service: Option<&Service>, slices: &[Arc<EndpointSlice>]| {
            unreachable(&reference(), service, slices).map(|verdict| (verdict.reason, verdict.message))
        };
        assert_eq!(reason(None, &[]), Some(("ServiceNotFound", "service/s in \"n\" is not present".into())));
        assert_eq!(reason(Some(&service(80)), &[]).unwrap().0, "ServicePortError");
        assert_eq!(reason(Some(&service(443)), &[]).unwrap().0, "EndpointsNotFound");
        let (reason_name, message) = reason(Some(&service(443)), &[slice(false)]).unwrap();
        assert_eq!(reason_name, "MissingEndpoints");
        assert_eq!(message, "endpointslices for service/s in \"n\" have no addresses with port name \"https\"");
        assert_eq!(reason(Some(&service(443)), &[slice(false), slice(true)]), None);
    }

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut object = json!({});
        object["status"] = status(&object, &Verdict::failed_discovery("a".into()), first).unwrap();
        assert!(!is_available(&object));
        assert_eq!(status(&object, &Verdict::failed_discovery("a".into()), later), None);
        object["status"] = status(&object, &Verdict::failed_discovery("b".into()), later).unwrap();
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        object["status"] = status(&object, &Verdict::passed(), later).unwrap();
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T00:00:00Z");
        assert!(is_available(&object));
    }
}
