//! Metrics of types `Pods`, `Object` and `External`: where adapters serve them
//! (`custom.metrics.k8s.io`, `external.metrics.k8s.io`), and what their values ask for.
//!
//! Pure: a metric becomes a path, an answer becomes a proposal.

use std::collections::BTreeMap;

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use skiff_api::{GroupVersionKind, Quantity, Selector};
use skiff_client::Snapshot;

use super::{
    Failure,
    replicas::{self, Workload, ceil},
};
use crate::{garbage_collector::resource_of, pod};

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// All but what never has a meaning in an address.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whether an adapter has to be asked for such a metric.
pub fn is_adapters(metric: &Value) -> bool {
    matches!(metric["type"].as_str(), Some("Pods" | "Object" | "External"))
}

/// What a metric asks for.
pub struct Answered {
    pub replicas: i64,
    /// As in messages.
    pub name: String,
    /// As in the status.
    pub current: Value,
}

/// The part of a metric that its type names.
fn source(metric: &Value) -> &Value {
    &metric[metric["type"].as_str().unwrap_or_default().to_lowercase()]
}

fn name(metric: &Value) -> &str {
    source(metric)["metric"]["name"].as_str().unwrap_or_default()
}

/// Puts upstream's words around what went wrong.
pub fn failure(metric: &Value, why: String) -> Failure {
    let kind = metric["type"].as_str().unwrap_or_default();
    let name = name(metric);
    let whole = match kind {
        "External" if source(metric)["target"]["averageValue"].is_null() => {
            format!("failed to get {name} external metric value: failed to get external metric {name}: {why}")
        }
        "External" => {
            format!("failed to get {name} external metric value: failed to get {name} external metric: {why}")
        }
        other => format!("failed to get {} metric value: {why}", other.to_lowercase()),
    };
    Failure { reason: format!("FailedGet{kind}Metric"), why, whole }
}

/// Where the metric is served.
pub fn path(metric: &Value, namespace: &str, pods: &Selector, world: &Snapshot) -> Result<String, String> {
    let source = source(metric);
    let selector = selector(&source["metric"]["selector"])?;
    let segment = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    let (namespace, metric_name) = (segment(namespace), segment(name(metric)));
    if metric["type"] == "External" {
        let version = version(world, EXTERNAL, &["v1beta1"]).ok_or(
            "unable to fetch metrics from external metrics API: the server could not find the requested resource",
        )?;
        let query = query(&[("labelSelector", &selector)]);
        return Ok(format!("/apis/{EXTERNAL}/{version}/namespaces/{namespace}/{metric_name}{query}"));
    }
    let version = version(world, CUSTOM, &["v1beta2", "v1beta1"])
        .ok_or_else(|| format!("unable to get metric {}: no custom metrics API ({CUSTOM}) registered", name(metric)))?;
    let base = format!("/apis/{CUSTOM}/{version}");
    if metric["type"] == "Pods" {
        let query = query(&[("labelSelector", &pods.to_string()), ("metricLabelSelector", &selector)]);
        return Ok(format!("{base}/namespaces/{namespace}/pods/*/{metric_name}{query}"));
    }
    let object = &source["describedObject"];
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let query = query(&[("metricLabelSelector", &selector)]);
    if text("kind") == "Namespace" && !text("apiVersion").contains('/') {
        return Ok(format!("{base}/namespaces/{namespace}/metrics/{metric_name}{query}"));
    }
    let kind = GroupVersionKind::parse(text("apiVersion"), text("kind"));
    let (resource, namespaced) = resource_of(&kind, world)
        .ok_or_else(|| format!("no matches for kind {:?} in version {:?}", text("kind"), text("apiVersion")))?;
    let (resource, object) = (resource.group_resource(), segment(text("name")));
    let scope = if namespaced { format!("namespaces/{namespace}/") } else { String::new() };
    Ok(format!("{base}/{scope}{resource}/{object}/{metric_name}{query}"))
}

/// The version of a group that an adapter has registered.
fn version<'a>(world: &Snapshot, group: &str, wanted: &[&'a str]) -> Option<&'a str> {
    let is_registered = |version: &&&str| world.object::<APIService>("", &format!("{version}.{group}")).is_some();
    wanted.iter().find(is_registered).copied()
}

fn selector(selector: &Value) -> Result<String, String> {
    if selector.is_null() {
        return Ok(String::new());
    }
    Ok(Selector::from_value(Some(selector)).map_err(|error| error.to_string())?.to_string())
}

fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED)))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// What an adapter's answer asks for.
pub fn propose(metric: &Value, answer: &Value, workload: Workload<'_>) -> Result<Answered, String> {
    let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
    let values = items.iter().map(|item| Some((item, quantity(&item["value"])?)));
    let Some(values) = values.collect::<Option<Vec<(&Value, i64)>>>() else {
        return Err(format!("unable to get metric {}: a value is no quantity", name(metric)));
    };
    if values.is_empty() {
        return Err(format!("unable to get metric {}: no metrics returned from metrics API", name(metric)));
    }
    let source = source(metric);
    let goal = &source["target"];
    let (total_goal, average_goal) = (quantity(&goal["value"]), quantity(&goal["averageValue"]));
    let kind = metric["type"].as_str().unwrap_or_default();
    if kind == "Pods" {
        let goal = average_goal.ok_or("invalid pods metric source: no target average value was set")?;
        let of_pods = values
            .iter()
            .map(|(item, value)| (item["describedObject"]["name"].as_str().unwrap_or_default().to_owned(), *value));
        let of_pods: BTreeMap<String, i64> = of_pods.collect();
        let proposal = replicas::propose_plain(goal, workload, &of_pods)?;
        let current = json!({"averageValue": text(proposal.average)});
        let name = format!("pods metric {}", name(metric));
        return Ok(Answered { replicas: proposal.replicas, name, current: status(metric, current) });
    }
    // The value of one object; series of an external metric are summed up.
    let used = if kind == "Object" { values[0].1 } else { values.iter().map(|(_, value)| value).sum() };
    let shown = format!("external metric {}({})", name(metric), labels(&source["metric"]["selector"]));
    if let Some(goal) = total_goal.filter(|_| goal["type"] != "AverageValue") {
        let name = match kind {
            "Object" => {
                let of = source["describedObject"]["kind"].as_str().unwrap_or_default();
                format!("{of} metric {}", name(metric))
            }
            _ => shown,
        };
        let replicas = by_ratio(used as f64 / goal.max(1) as f64, workload);
        return Ok(Answered { replicas, name, current: status(metric, json!({"value": text(used)})) });
    }
    let Some(goal) = average_goal else {
        let kind = kind.to_lowercase();
        return Err(format!(
            "invalid {kind} metric source: neither a value target nor an average value target was set"
        ));
    };
    let running = workload.running;
    let is_within = running > 0 && workload.tolerance.allows(used as f64 / (goal.max(1) as f64 * running as f64));
    let replicas = if is_within { running } else { ceil(used as f64 / goal.max(1) as f64) };
    let average = if running > 0 { ceil(used as f64 / running as f64) } else { 0 };
    Ok(Answered { replicas, name: shown, current: status(metric, json!({"averageValue": text(average)})) })
}

/// As many as the ready pods would have to be; from nothing, as many as the ratio says.
fn by_ratio(ratio: f64, workload: Workload<'_>) -> i64 {
    if workload.replicas == 0 {
        return ceil(ratio);
    }
    if workload.tolerance.allows(ratio) {
        return workload.replicas;
    }
    let ready = workload.pods.iter().filter(|have| pod::phase(have) == "Running" && pod::is_ready(have)).count();
    ceil(ratio * ready as f64)
}

fn quantity(value: &Value) -> Option<i64> {
    Some(value.as_str()?.parse::<Quantity>().ok()?.milli_value())
}

fn text(milli: i64) -> String {
    Quantity::from_millis(milli).to_string()
}

/// The metric as the status shows it.
fn status(metric: &Value, current: Value) -> Value {
    let kind = metric["type"].as_str().unwrap_or_default();
    let source = source(metric);
    let mut shown = json!({"metric": source["metric"], "current": current});
    if kind == "Object" {
        shown["describedObject"] = source["describedObject"].clone();
    }
    json!({"type": kind, kind.to_lowercase(): shown})
}

/// A label selector as upstream's messages show one.
fn labels(selector: &Value) -> String {
    if selector.is_null() {
        return "nil".to_owned();
    }
    let mut labels = String::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        labels.push_str(&format!("{key}: {},", value.as_str().unwrap_or_default()));
    }
    let mut expressions = String::new();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let word = |name: &str| expression[name].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(" ");
        let (key, operator) = (word("key"), word("operator"));
        expressions.push_str(&format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},"));
    }
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::simulation::Simulation;

    fn world(versions: &[&str]) -> Simulation {
        let mut simulation = Simulation::new("");
        for name in versions {
            simulation.put(json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name}, "spec": {}}));
        }
        simulation
    }

    fn workload<'a>(replicas: i64, pods: &'a [&'a Pod]) -> Workload<'a> {
        Workload { replicas, running: replicas, pods, tolerance: replicas::Tolerance::of(&Value::Null) }
    }

    fn ready(number: usize) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": format!("p{number}")},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap()
    }

    fn values(values: &[(&str, &str)]) -> Value {
        let items = values.iter().map(|(name, value)| json!({"describedObject": {"name": name}, "value": value}));
        json!({"items": items.collect::<Vec<_>>()})
    }

    fn object(target: Value) -> Value {
        json!({"type": "Object", "object": {"metric": {"name": "hits"}, "target": target,
            "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"}}})
    }

    fn external(target: Value) -> Value {
        json!({"type": "External", "external": {"target": target,
            "metric": {"name": "queue", "selector": {"matchLabels": {"q": "one"}}}}})
    }

    #[test]
    fn metrics_are_asked_for_where_adapters_serve_them() {
        let both = world(&[
            "v1beta1.custom.metrics.k8s.io",
            "v1beta2.custom.metrics.k8s.io",
            "v1beta1.external.metrics.k8s.io",
        ]);
        let pods: Selector = "app=web".parse().unwrap();
        let ask = |metric: &Value, world: &Simulation| path(metric, "ns", &pods, &world.world);
        let of_pods =
            json!({"type": "Pods", "pods": {"metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}}}});
        assert_eq!(
            ask(&of_pods, &both).unwrap(),
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/pods/*/rps?labelSelector=app%3Dweb&metricLabelSelector=a%3Db"
        );
        let of_object = object(json!({}));
        let old = world(&["v1beta1.custom.metrics.k8s.io"]);
        assert_eq!(
            ask(&of_object, &old).unwrap(),
            "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ns/ingresses.networking.k8s.io/main/hits"
        );
        let of_queue = external(json!({}));
        assert_eq!(
            ask(&of_queue, &both).unwrap(),
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue?labelSelector=q%3Done"
        );
        assert!(ask(&of_queue, &old).unwrap_err().contains("external metrics API"));
        assert!(ask(&of_object, &world(&[])).unwrap_err().contains("no custom metrics API"));
    }

    #[test]
    fn values_of_pods_are_averaged() {
        let metric = json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
        let pods = [ready(0), ready(1)];
        let pods: Vec<&Pod> = pods.iter().collect();
        let answered = propose(&metric, &values(&[("p0", "30"), ("p1", "10")]), workload(2, &pods)).unwrap();
        assert_eq!((answered.replicas, answered.name.as_str()), (4, "pods metric rps"));
        assert_eq!(answered.current["pods"]["current"], json!({"averageValue": "20"}));
        let close = propose(&metric, &values(&[("p0", "10500m"), ("p1", "10")]), workload(2, &pods)).unwrap();
        assert_eq!(close.replicas, 2);
        assert!(propose(&metric, &values(&[]), workload(2, &pods)).is_err());
    }

    #[test]
    fn an_object_or_an_external_value_is_held_against_its_target() {
        let pods = [ready(0), ready(1)];
        let pods: Vec<&Pod> = pods.iter().collect();
        let value = |value: &str| values(&[("main", value)]);
        let whole = object(json!({"type": "Value", "value": "100"}));
        let answered = propose(&whole, &value("250"), workload(2, &pods)).unwrap();
        assert_eq!((answered.replicas, answered.name.as_str()), (5, "Ingress metric hits"));
        assert_eq!(answered.current["object"]["current"], json!({"value": "250"}));
        assert_eq!(answered.current["object"]["describedObject"]["name"], "main");
        assert_eq!(propose(&whole, &value("105"), workload(2, &pods)).unwrap().replicas, 2);
        assert_eq!(propose(&whole, &value("250"), workload(0, &[])).unwrap().replicas, 3);

        let each = external(json!({"type": "AverageValue", "averageValue": "10"}));
        let series = values(&[("a", "20"), ("b", "25")]);
        let answered = propose(&each, &series, workload(2, &pods)).unwrap();
        assert_eq!(answered.replicas, 5, "45 for 10 each");
        assert_eq!(answered.current["external"]["current"], json!({"averageValue": "22500m"}));
        assert_eq!(
            answered.name,
            "external metric queue(&LabelSelector{MatchLabels:map[string]string{q: one,},MatchExpressions:[]LabelSelectorRequirement{},})"
        );
        let total = external(json!({"type": "Value", "value": "45"}));
        assert_eq!(propose(&total, &series, workload(2, &pods)).unwrap().replicas, 2);
    }
}
