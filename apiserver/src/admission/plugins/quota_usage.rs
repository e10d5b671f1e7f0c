//! What an object uses up, in the names that a ResourceQuota counts.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_api::Quantity;

use crate::registry::{
    core::pod::{qos, resources::is_extended},
    validation::numbers::parse_quantity,
    value::{entries, field, int, list, text},
};

/// Amount by counted name.
pub type Usage = BTreeMap<String, Quantity>;

/// Kinds of the core group that have a short name beside `count/<resource>`.
const COUNTED: [&str; 6] =
    ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// Everything an object of `group/resource` uses.
pub fn usage(group: &str, resource: &str, object: &Value) -> Usage {
    let one = Quantity::from_value(1);
    let mut usage = Usage::new();
    let count = if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
    usage.insert(count, one);
    if !group.is_empty() {
        return usage;
    }
    if COUNTED.contains(&resource) {
        usage.insert(resource.to_owned(), one);
    }
    match resource {
        "pods" => pod(&mut usage, object),
        "services" => service(&mut usage, &object["spec"]),
        "persistentvolumeclaims" => claim(&mut usage, &object["spec"]),
        _ => {}
    }
    usage
}

/// A finished pod still counts as an object, but uses nothing.
pub fn is_finished(pod: &Value) -> bool {
    matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed")
}

fn pod(usage: &mut Usage, pod: &Value) {
    if is_finished(pod) {
        return;
    }
    usage.insert("pods".to_owned(), Quantity::from_value(1));
    for (name, quantity) in total(&pod["spec"], "requests") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(name.clone(), quantity);
            usage.insert(format!("requests.{name}"), quantity);
        } else if is_extended(&name) || name.starts_with("hugepages-") {
            usage.insert(format!("requests.{name}"), quantity);
        }
    }
    for (name, quantity) in total(&pod["spec"], "limits") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), quantity);
        }
    }
}

/// Requests or limits of a pod: what runs together is added, what runs before
/// counts with its largest, what is said of the pod as a whole counts instead,
/// overhead comes on top.
pub(super) fn total(spec: &Value, kind: &str) -> Usage {
    let mut sum = Usage::new();
    let mut largest = Usage::new();
    let mut sidecars = Usage::new();
    let add = |to: &mut Usage, name: &str, quantity: Quantity| {
        let have = to.get(name).copied().unwrap_or(Quantity::ZERO);
        to.insert(name.to_owned(), if have.is_zero() { quantity } else { have.saturating_add(quantity) });
    };
    for container in list(spec, "containers") {
        for (name, value) in entries(&container["resources"], kind) {
            if let Some(quantity) = parse_quantity(value) {
                add(&mut sum, name, quantity);
            }
        }
    }
    for container in list(spec, "initContainers") {
        let sidecar = text(container, "restartPolicy") == "Always";
        for (name, value) in entries(&container["resources"], kind) {
            let Some(quantity) = parse_quantity(value) else { continue };
            if sidecar {
                add(&mut sum, name, quantity);
                add(&mut sidecars, name, quantity);
            }
            let beside = if sidecar { Quantity::ZERO } else { quantity };
            let at_once = sidecars.get(name).copied().unwrap_or(Quantity::ZERO).saturating_add(beside);
            let have = largest.get(name).copied().unwrap_or(Quantity::ZERO);
            largest.insert(name.clone(), have.max(at_once));
        }
    }
    for (name, quantity) in largest {
        let have = sum.get(&name).copied().unwrap_or(Quantity::ZERO);
        sum.insert(name, have.max(quantity));
    }
    for (name, value) in entries(&spec["resources"], kind) {
        let of_pods = matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
        if let Some(quantity) = parse_quantity(value).filter(|_| of_pods) {
            sum.insert(name.clone(), quantity);
        }
    }
    for (name, value) in entries(spec, "overhead") {
        if let Some(quantity) = parse_quantity(value).filter(|_| kind == "requests" || sum.contains_key(name)) {
            add(&mut sum, name, quantity);
        }
    }
    sum
}

fn service(usage: &mut Usage, spec: &Value) {
    let balancer = text(spec, "type") == "LoadBalancer";
    if balancer {
        usage.insert("services.loadbalancers".to_owned(), Quantity::from_value(1));
    }
    let allocates = spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true);
    let ports = list(spec, "ports");
    let count = match text(spec, "type") {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => ports.iter().filter(|port| int(port, "nodePort").unwrap_or(0) != 0).count(),
        _ => return,
    };
    usage.insert("services.nodeports".to_owned(), Quantity::from_value(count as i64));
}

fn claim(usage: &mut Usage, spec: &Value) {
    let class = text(spec, "storageClassName");
    let storage = parse_quantity(&spec["resources"]["requests"]["storage"]);
    if let Some(storage) = storage {
        usage.insert("requests.storage".to_owned(), storage);
    }
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(format!("{prefix}/persistentvolumeclaims"), Quantity::from_value(1));
        if let Some(storage) = storage {
            usage.insert(format!("{prefix}/requests.storage"), storage);
        }
    }
}

/// What quotas need to know of an object: small enough to be kept with it.
pub struct Charge {
    usage: Usage,
    scopes: Scopes,
}

impl Charge {
    pub fn of(group: &str, resource: &str, object: &Value) -> Charge {
        Charge { usage: usage(group, resource, object), scopes: Scopes::of(group, resource, object) }
    }

    /// What counts for a quota with this spec: nothing outside its scopes, and only what it limits.
    pub fn for_quota(&self, quota: &Value) -> Usage {
        if has_scopes(quota) && !self.scopes.fit(quota) {
            return Usage::new();
        }
        let limited = |name: &&String| quota["hard"].get(name.as_str()).is_some();
        self.usage.iter().filter(|(name, _)| limited(name)).map(|(name, amount)| (name.clone(), *amount)).collect()
    }
}

/// What a pod is in the words of quota scopes; nothing else has scopes.
#[derive(Default)]
struct Scopes {
    is_pod: bool,
    terminating: bool,
    best_effort: bool,
    crosses_namespaces: bool,
    priority_class: String,
}

impl Scopes {
    fn of(group: &str, resource: &str, object: &Value) -> Scopes {
        if !group.is_empty() || resource != "pods" {
            return Scopes::default();
        }
        let spec = &object["spec"];
        Scopes {
            is_pod: true,
            terminating: int(spec, "activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0),
            best_effort: qos::class(spec) == "BestEffort",
            crosses_namespaces: crosses_namespaces(&spec["affinity"]),
            priority_class: text(spec, "priorityClassName").to_owned(),
        }
    }

    fn fit(&self, quota: &Value) -> bool {
        let named =
            list(quota, "scopes").iter().filter_map(Value::as_str).all(|scope| self.holds(scope, "Exists", &[]));
        self.is_pod
            && named
            && list(&quota["scopeSelector"], "matchExpressions").iter().all(|expression| {
                self.holds(text(expression, "scopeName"), text(expression, "operator"), list(expression, "values"))
            })
    }

    fn holds(&self, scope: &str, operator: &str, values: &[Value]) -> bool {
        let fits = match scope {
            "Terminating" => self.terminating,
            "NotTerminating" => !self.terminating,
            "BestEffort" => self.best_effort,
            "NotBestEffort" => !self.best_effort,
            "CrossNamespacePodAffinity" => self.crosses_namespaces,
            "PriorityClass" => {
                let among = values.iter().any(|value| value == self.priority_class.as_str());
                return match operator {
                    "In" => among,
                    "NotIn" => !among,
                    "DoesNotExist" => self.priority_class.is_empty(),
                    _ => !self.priority_class.is_empty(),
                };
            }
            _ => true,
        };
        if operator == "DoesNotExist" { !fits } else { fits }
    }
}

/// Whether a pod falls under the scopes of a quota's spec.
pub fn in_scope(quota: &Value, pod: &Value) -> bool {
    Scopes::of("", "pods", pod).fit(quota)
}

/// Whether the quota limits only some pods, and so nothing else.
pub fn has_scopes(quota: &Value) -> bool {
    !list(quota, "scopes").is_empty() || !list(&quota["scopeSelector"], "matchExpressions").is_empty()
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| !list(term, "namespaces").is_empty() || field(term, "namespaceSelector").is_some();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let pods = &affinity[*kind];
        list(pods, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || list(pods, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

/// Containers that leave out a compute resource which a quota counts, by counted name.
pub fn unspecified(pod: &Value, counted: &str) -> Vec<String> {
    let (kind, resource) = match counted {
        "cpu" | "memory" => ("requests", counted),
        "requests.cpu" => ("requests", "cpu"),
        "requests.memory" => ("requests", "memory"),
        "limits.cpu" => ("limits", "cpu"),
        "limits.memory" => ("limits", "memory"),
        _ => return Vec::new(),
    };
    let spec = &pod["spec"];
    if field(&spec["resources"][kind], resource).is_some() {
        return Vec::new();
    }
    let mut names: Vec<String> = list(spec, "containers")
        .iter()
        .chain(list(spec, "initContainers"))
        .filter(|container| field(&container["resources"][kind], resource).is_none())
        .map(|container| text(container, "name").to_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(usage: Usage) -> Vec<String> {
        usage.into_iter().map(|(name, quantity)| format!("{name}={quantity}")).collect()
    }

    #[test]
    fn pods_use_requests_and_limits() {
        let pod = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}},
            {"resources": {"requests": {"cpu": "500m"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "2"}}}]}});
        assert_eq!(
            shown(usage("", "pods", &pod)),
            ["count/pods=1", "cpu=2", "limits.memory=1Gi", "pods=1", "requests.cpu=2", "requests.example.com/gpu=2"]
        );
        let mut whole = pod.clone();
        whole["spec"]["resources"] = json!({"requests": {"cpu": "3", "example.com/gpu": "9"}});
        whole["spec"]["overhead"] = json!({"cpu": "1"});
        let used = usage("", "pods", &whole);
        assert_eq!(used["requests.cpu"].to_string(), "4", "of the pod as a whole, and overhead");
        assert_eq!(used["requests.example.com/gpu"].to_string(), "2", "only of containers");
        let finished = json!({"status": {"phase": "Failed"}, "spec": pod["spec"]});
        assert_eq!(shown(usage("", "pods", &finished)), ["count/pods=1"]);
    }

    #[test]
    fn services_and_claims_count_what_they_take() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            shown(usage("", "services", &service)),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"]
        );
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(usage("", "persistentvolumeclaims", &claim).len(), 5);
        assert_eq!(shown(usage("apps", "replicasets", &json!({}))), ["count/replicasets.apps=1"]);
    }

    #[test]
    fn scopes_choose_pods() {
        let best_effort = json!({"spec": {"containers": [{}]}});
        assert!(in_scope(&json!({"scopes": ["BestEffort", "NotTerminating"]}), &best_effort));
        assert!(!in_scope(&json!({"scopes": ["Terminating"]}), &best_effort));
        let by_class = json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        assert!(in_scope(&by_class, &json!({"spec": {"priorityClassName": "high"}})));
        assert!(!in_scope(&by_class, &best_effort));
    }
}
