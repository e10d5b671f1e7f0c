//! Objects of kinds served in two versions, from the stored one to the one asked for.
//!
//! Only two pairs exist: events (`v1` and `events.k8s.io/v1`) and horizontal
//! pod autoscalers (`autoscaling/v1` and `v2`). Custom resources without a
//! conversion webhook differ in `apiVersion` alone.

use serde_json::{Map, Value, json};
use skiff_api::{Resource, resource::Origin};

/// Old and new names of an event's fields.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
const CONTROLLER_FIELDS: [(&str, &str); 1] = [("reportingComponent", "reportingController")];
/// Metrics of v2 that v1 has no field for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The object in the version of `row`.
pub fn to_row(mut object: Value, row: &Resource) -> Value {
    let target = row.api_version();
    let have = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    if have == target {
        return object;
    }
    match (have.as_str(), target.as_str()) {
        ("v1", "events.k8s.io/v1") => rename(&mut object, false),
        ("events.k8s.io/v1", "v1") => rename(&mut object, true),
        ("autoscaling/v2", "autoscaling/v1") => scaler_to_v1(&mut object),
        ("autoscaling/v1", "autoscaling/v2") => scaler_to_v2(&mut object),
        _ => {}
    }
    object["apiVersion"] = Value::String(target);
    // The other version prints other fields when they are unset.
    if let Some(root) = row.schema.as_ref().filter(|_| row.origin == Origin::BuiltIn) {
        skiff_api::codec::json::minimize(root, &mut object);
        skiff_api::codec::json::canonicalize(root, &mut object);
    }
    object
}

fn rename(object: &mut Value, back: bool) {
    let Some(fields) = object.as_object_mut() else { return };
    for (old, new) in EVENT_FIELDS.into_iter().chain(CONTROLLER_FIELDS) {
        let (from, to) = if back { (new, old) } else { (old, new) };
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

fn annotations(object: &mut Value) -> &mut Map<String, Value> {
    let metadata = crate::registry::meta::metadata_mut(object);
    let slot = metadata.entry("annotations").or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_i64()
}

fn scaler_to_v1(object: &mut Value) {
    let metrics = object.get_mut("spec").and_then(Value::as_object_mut).and_then(|spec| spec.remove("metrics"));
    let metrics = metrics.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
    let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu_utilization);
    if let Some(cpu) = cpu.first() {
        object["spec"]["targetCPUUtilizationPercentage"] = cpu["resource"]["target"]["averageUtilization"].clone();
    }
    let behavior = object.get_mut("spec").and_then(Value::as_object_mut).and_then(|spec| spec.remove("behavior"));
    if !others.is_empty() {
        annotations(object).insert(METRICS_ANNOTATION.to_owned(), json!(Value::Array(others).to_string()));
    }
    if let Some(behavior) = behavior {
        annotations(object).insert(BEHAVIOR_ANNOTATION.to_owned(), json!(behavior.to_string()));
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let current = status.remove("currentMetrics");
        status.remove("conditions");
        let cpu = current
            .as_ref()
            .and_then(Value::as_array)
            .and_then(|metrics| metrics.iter().find(|metric| metric["resource"]["name"] == "cpu").cloned());
        if let Some(value) = cpu.map(|metric| metric["resource"]["current"]["averageUtilization"].clone())
            && !value.is_null()
        {
            status.insert("currentCPUUtilizationPercentage".to_owned(), value);
        }
    }
}

fn scaler_to_v2(object: &mut Value) {
    let mut metrics = Vec::new();
    let target = object
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .and_then(|spec| spec.remove("targetCPUUtilizationPercentage"));
    if let Some(target) = target.filter(|target| !target.is_null()) {
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": target}}}));
    }
    let kept = |text: Option<Value>| text.and_then(|text| serde_json::from_str::<Value>(text.as_str()?).ok());
    if object.pointer("/metadata/annotations").is_some_and(Value::is_object) {
        if let Some(Value::Array(others)) = kept(annotations(object).remove(METRICS_ANNOTATION)) {
            metrics.extend(others);
        }
        if let Some(behavior) = kept(annotations(object).remove(BEHAVIOR_ANNOTATION)) {
            object["spec"]["behavior"] = behavior;
        }
        if annotations(object).is_empty() {
            crate::registry::meta::metadata_mut(object).remove("annotations");
        }
    }
    if !metrics.is_empty() {
        object["spec"]["metrics"] = Value::Array(metrics);
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
        && let Some(value) = status.remove("currentCPUUtilizationPercentage")
    {
        status.insert(
            "currentMetrics".to_owned(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": value}}}]),
        );
    }
}

#[cfg(test)]
mod tests {
    use skiff_api::ResourceRegistry;

    use super::*;

    fn there_and_back(object: Value, group: &str, version: &str, plural: &str, home: (&str, &str)) -> Value {
        let registry = ResourceRegistry::builtin();
        let there = to_row(object, &registry.lookup(group, version, plural).unwrap());
        let back = to_row(there.clone(), &registry.lookup(home.0, home.1, plural).unwrap());
        json!({"there": there, "back": back})
    }

    /// The object as it prints in its own version.
    fn printed(mut object: Value, group: &str, version: &str, plural: &str) -> Value {
        let row = ResourceRegistry::builtin().lookup(group, version, plural).unwrap();
        skiff_api::codec::json::canonicalize(row.schema.as_ref().unwrap(), &mut object);
        object
    }

    #[test]
    fn events_change_names_and_come_back() {
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
            "involvedObject": {"name": "p"}, "message": "m", "count": 3, "reportingComponent": "c"});
        let both = there_and_back(event.clone(), "events.k8s.io", "v1", "events", ("", "v1"));
        assert_eq!(both["there"]["regarding"]["name"], "p");
        assert_eq!(both["there"]["note"], "m");
        assert_eq!(both["there"]["reportingController"], "c");
        assert_eq!(both["there"]["eventTime"], Value::Null, "printed as null");
        assert_eq!(both["back"], printed(event, "", "v1", "events"));
    }

    #[test]
    fn scalers_keep_what_the_old_version_cannot_say() {
        let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {}}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                {"type": "Pods", "pods": {}}]}});
        let both =
            there_and_back(scaler.clone(), "autoscaling", "v1", "horizontalpodautoscalers", ("autoscaling", "v2"));
        assert_eq!(both["there"]["spec"]["targetCPUUtilizationPercentage"], 80);
        assert_eq!(both["back"], printed(scaler, "autoscaling", "v2", "horizontalpodautoscalers"));
    }
}
