//! Group `resource.k8s.io`: devices, claims to them, and what drivers offer.

use serde_json::Value;
use skiff_api::Cause;

use super::{
    device_selectors,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{child, default, default_text, field, flag, int, items, list, text, text_at},
};

/// Requests of one claim, devices of one slice.
const REQUESTS_MAX: usize = 32;
const DEVICES_MAX: usize = 128;

/// ResourceClaims: `spec` never changes.
pub struct ResourceClaimStrategy;

impl Strategy for ResourceClaimStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        default_devices(child(object, "spec"));
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let spec = Path::new("spec");
        if let Operation::Update { old } = op {
            errors.immutable(&spec, &object["spec"], &old["spec"]);
        } else if op.is_create() {
            claim_spec(&mut errors, &spec, &object["spec"]);
        }
        errors.into_causes()
    }
}

/// ResourceClaimTemplates: `spec` never changes.
pub struct ResourceClaimTemplateStrategy;

impl Strategy for ResourceClaimTemplateStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        default_devices(child(child(object, "spec"), "spec"));
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let spec = Path::new("spec");
        match op {
            Operation::Update { old } => errors.immutable(&spec, &object["spec"], &old["spec"]),
            _ => claim_spec(&mut errors, &spec.child("spec"), &object["spec"]["spec"]),
        }
        errors.into_causes()
    }
}

fn default_devices(spec: &mut Value) {
    if field(spec, "devices").is_none() {
        return;
    }
    for request in items(child(spec, "devices"), "requests") {
        if field(request, "exactly").is_some() {
            default_request(child(request, "exactly"));
        }
        for alternative in items(request, "firstAvailable") {
            default_request(alternative);
        }
    }
}

fn default_request(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" && int(request, "count").unwrap_or(0) == 0 {
        super::value::set(request, "count", 1);
    }
    for toleration in items(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

fn claim_spec(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let path = path.child("devices");
    let path = path.child("requests");
    let requests = list(&spec["devices"], "requests");
    if requests.len() > REQUESTS_MAX {
        errors.too_many(&path, requests.len(), REQUESTS_MAX);
    }
    for (at, request) in requests.iter().enumerate() {
        let path = path.index(at);
        label_name(errors, &path.child("name"), text(request, "name"));
        if requests[..at].iter().any(|other| text(other, "name") == text(request, "name")) {
            errors.duplicate(&path.child("name"), text(request, "name"));
        }
        let alternatives = list(request, "firstAvailable");
        match (field(request, "exactly"), alternatives) {
            (Some(exactly), []) => device_request(errors, &path.child("exactly"), exactly),
            (None, [_, ..]) => {
                let path = path.child("firstAvailable");
                for (at, alternative) in alternatives.iter().enumerate() {
                    let path = path.index(at);
                    label_name(errors, &path.child("name"), text(alternative, "name"));
                    device_request(errors, &path, alternative);
                }
            }
            (None, []) => errors.required(&path, "exactly one of `exactly` or `firstAvailable` is required"),
            (Some(_), _) => {
                let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                errors.invalid(&path, &Value::Null, why);
            }
        }
    }
}

fn device_request(errors: &mut Errors, path: &Path<'_>, request: &Value) {
    match text(request, "deviceClassName") {
        "" => errors.required(&path.child("deviceClassName"), ""),
        name => errors.invalid_all(&path.child("deviceClassName"), name, formats::dns_subdomain(name)),
    }
    device_selectors::validate(errors, path, request, false);
    let count = int(request, "count").unwrap_or(0);
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.invalid(&path.child("count"), &request["count"], why);
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            errors.invalid(&path.child("count"), &request["count"], "must be greater than zero");
        }
        mode => errors.one_of(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
}

fn label_name(errors: &mut Errors, path: &Path<'_>, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        errors.invalid_all(path, name, formats::dns_label(name));
    }
}

/// DeviceClasses.
pub struct DeviceClassStrategy;

impl Strategy for DeviceClassStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let spec = &object["spec"];
        let are_stored = op.old().is_some_and(|old| old["spec"]["selectors"] == spec["selectors"]);
        device_selectors::validate(&mut errors, &Path::new("spec"), spec, are_stored);
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        true
    }
}

/// ResourceSlices: what a driver offers on a node, or everywhere.
pub struct ResourceSliceStrategy;

impl Strategy for ResourceSliceStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        match text(spec, "driver") {
            "" => errors.required(&path.child("driver"), ""),
            name => errors.invalid_all(&path.child("driver"), name, formats::dns_subdomain(name)),
        }
        let pool = path.child("pool");
        if text_at(spec, &["pool", "name"]).is_empty() {
            errors.required(&pool.child("name"), "");
        }
        if int(&spec["pool"], "resourceSliceCount").unwrap_or(0) <= 0 {
            let count = &spec["pool"]["resourceSliceCount"];
            errors.invalid(&pool.child("resourceSliceCount"), count, "must be greater than zero");
        }
        let places = [
            !text(spec, "nodeName").is_empty(),
            field(spec, "nodeSelector").is_some(),
            flag(spec, "allNodes"),
            flag(spec, "perDeviceNodeSelection"),
        ];
        let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match places.into_iter().filter(|set| *set).count() {
            0 => errors.required(&path, why),
            1 => {}
            _ => errors.invalid(&path, spec, why),
        }
        devices(&mut errors, &path.child("devices"), list(spec, "devices"));
        if let Operation::Update { old } = op {
            for name in ["driver", "nodeName", "nodeSelector", "allNodes"] {
                errors.immutable(&path.child(name), &spec[name], &old["spec"][name]);
            }
            errors.immutable(&pool.child("name"), &spec["pool"]["name"], &old["spec"]["pool"]["name"]);
        }
        errors.into_causes()
    }

    fn has_generation(&self, _object: &Value) -> bool {
        true
    }
}

fn devices(errors: &mut Errors, path: &Path<'_>, devices: &[Value]) {
    if devices.len() > DEVICES_MAX {
        errors.too_many(path, devices.len(), DEVICES_MAX);
    }
    for (at, device) in devices.iter().enumerate() {
        let path = path.index(at);
        label_name(errors, &path.child("name"), text(device, "name"));
        if devices[..at].iter().any(|other| text(other, "name") == text(device, "name")) {
            errors.duplicate(&path.child("name"), text(device, "name"));
        }
    }
}

/// DeviceTaintRules.
pub struct DeviceTaintRuleStrategy;

impl Strategy for DeviceTaintRuleStrategy {
    fn prepare(&self, context: &RequestContext<'_>, _op: Operation<'_>, object: &mut Value) {
        let taint = child(child(object, "spec"), "taint");
        default(taint, "timeAdded", super::meta::time_text(context.now));
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let path = path.child("taint");
        let taint = &object["spec"]["taint"];
        match text(taint, "key") {
            "" => errors.required(&path.child("key"), ""),
            key => errors.invalid_all(&path.child("key"), key, formats::qualified_name(key)),
        }
        match text(taint, "effect") {
            "" => errors.required(&path.child("effect"), ""),
            effect => errors.one_of(&path.child("effect"), effect, &["NoExecute", "NoSchedule", "None"]),
        }
        errors.into_causes()
    }
}

/// StorageVersionMigrations: which resource is rewritten never changes.
pub struct StorageVersionMigrationStrategy;

impl Strategy for StorageVersionMigrationStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        if text_at(object, &["spec", "resource", "resource"]).is_empty() {
            errors.required(&path.child("resource").child("resource"), "resource is required");
        }
        if let Operation::Update { old } = op {
            errors.immutable(&path, &object["spec"], &old["spec"]);
        }
        errors.into_causes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::testing::{made, wrong, wrong_update};

    fn claim(request: Value) -> Value {
        json!({"spec": {"devices": {"requests": [request]}}})
    }

    #[test]
    fn claims_ask_for_one_device_unless_told_otherwise_and_never_change() {
        let gpu = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}});
        let made = made(&ResourceClaimStrategy, claim(gpu.clone()));
        let exactly = &made["spec"]["devices"]["requests"][0]["exactly"];
        assert_eq!((&exactly["allocationMode"], &exactly["count"]), (&json!("ExactCount"), &json!(1)));
        assert_eq!(wrong(&ResourceClaimStrategy, claim(gpu.clone())), [""; 0]);
        let neither = wrong(&ResourceClaimStrategy, claim(json!({"name": "gpu"})));
        let why = "Required value: exactly one of `exactly` or `firstAvailable` is required";
        assert_eq!(neither, [format!("spec.devices.requests[0]: {why}")]);
        let all = json!({"name": "gpu", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 2}});
        assert_eq!(wrong(&ResourceClaimStrategy, claim(all)).len(), 1);
        let other = claim(json!({"name": "gpu", "exactly": {"deviceClassName": "other"}}));
        let changed = wrong_update(&ResourceClaimStrategy, other, claim(gpu));
        assert!(changed.len() == 1 && changed[0].ends_with("field is immutable"), "{changed:?}");
    }

    #[test]
    fn a_slice_is_of_one_driver_and_one_place() {
        let slice = |node: &str| {
            json!({"spec": {"driver": "gpu.example.com", "nodeName": node, "devices": [{"name": "a"}],
                "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})
        };
        assert_eq!(wrong(&ResourceSliceStrategy, slice("one")), [""; 0]);
        assert_eq!(wrong(&ResourceSliceStrategy, slice("")).len(), 1);
        assert_eq!(wrong(&ResourceSliceStrategy, json!({})).len(), 4);
        let moved = wrong_update(&ResourceSliceStrategy, slice("two"), slice("one"));
        assert_eq!(moved, ["spec.nodeName: Invalid value: \"two\": field is immutable"]);
    }

    #[test]
    fn taints_and_migrations_name_what_they_are_about() {
        let rule = |effect: &str| json!({"spec": {"taint": {"key": "example.com/broken", "effect": effect}}});
        assert_eq!(wrong(&DeviceTaintRuleStrategy, rule("NoExecute")), [""; 0]);
        assert_eq!(wrong(&DeviceTaintRuleStrategy, rule("Odd")).len(), 1);
        assert!(made(&DeviceTaintRuleStrategy, rule("None"))["spec"]["taint"]["timeAdded"].is_string());
        assert_eq!(
            wrong(&StorageVersionMigrationStrategy, json!({})),
            ["spec.resource.resource: Required value: resource is required"]
        );
    }
}
