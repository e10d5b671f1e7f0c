//! How many replicas a resource metric asks for: upstream's arithmetic, pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde_json::Value;
use skiff_api::Quantity;

use super::PodUsage;

/// Deviation from the target that is left alone where the autoscaler says nothing else.
const TOLERANCE: f64 = 0.1;
/// A starting pod's use of the processor says little for this long.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_secs(300);
/// A pod that became unready this soon was never ready.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

/// What is measured, of which container, against what.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource<'a> {
    /// `cpu` or `memory`.
    pub name: &'a str,
    /// Of this container alone.
    pub container: Option<&'a str>,
    pub target: Target,
}

/// How far use may be from the target, in parts of it, before anything is changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    up: f64,
    down: f64,
}

impl Tolerance {
    /// What `spec.behavior` says of each direction.
    pub fn of(behavior: &Value) -> Tolerance {
        let of = |direction: &str| {
            let text = behavior[direction]["tolerance"].as_str()?;
            Some(text.parse::<Quantity>().ok()?.as_f64())
        };
        Tolerance { up: of("scaleUp").unwrap_or(TOLERANCE), down: of("scaleDown").unwrap_or(TOLERANCE) }
    }

    pub fn allows(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What is scaled.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    pub replicas: i64,
    /// As many as exist, by its status.
    pub running: i64,
    pub pods: &'a [&'a Pod],
    pub tolerance: Tolerance,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Percent of what pods request.
    Utilization(i64),
    /// Thousandths per pod.
    Average(i64),
}

/// What a metric says.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub replicas: i64,
    /// Percent of requests; `None` without such a target.
    pub utilization: Option<i64>,
    /// Thousandths, on average of the pods that count.
    pub average: i64,
}

/// A pod with the numbers that count.
struct Measured {
    usage: Option<i64>,
    request: i64,
    unready: bool,
}

impl Measured {
    fn is_settled(&self) -> bool {
        self.usage.is_some() && !self.unready
    }
}

/// The replicas wanted, given what runs; an error names why nothing can be said.
pub fn propose(
    resource: &Resource<'_>,
    workload: Workload<'_>,
    usage: &BTreeMap<String, PodUsage>,
    now: Timestamp,
) -> Result<Proposal, String> {
    let unable = |why: &str| format!("unable to get metrics for resource {}: {why}", resource.name);
    if usage.is_empty() {
        return Err(unable("no metrics returned from resource metrics API"));
    }
    if workload.pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let mut measured = Vec::with_capacity(workload.pods.len());
    for pod in workload.pods {
        let (name, found) = (pod_name(pod), usage.get(pod_name(pod)));
        let value = found.and_then(|usage| value_of(resource, usage));
        if let (Some(container), Some(_), None) = (resource.container, found, value) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            return Err(unable(&format!("container {container} not present in metrics for pod {namespace}/{name}")));
        }
        if !is_ignored(pod) {
            measured.push(Measured { usage: value, request: 0, unready: is_unready(resource, pod, found, now) });
        }
    }
    ensure_settled(&measured)?;
    if let Target::Utilization(_) = resource.target {
        let requests = workload.pods.iter().map(|pod| Ok((pod, request_of(resource, pod)?)));
        let requests: Vec<(&&Pod, i64)> = requests.collect::<Result<_, String>>()?;
        let counted = requests.iter().filter(|(pod, _)| !is_ignored(pod));
        for (measured, (_, request)) in measured.iter_mut().zip(counted) {
            measured.request = *request;
        }
    }
    decide(resource.target, workload, &measured)
}

fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Nothing can be said as long as no pod counts.
fn ensure_settled(pods: &[Measured]) -> Result<(), String> {
    if pods.iter().any(Measured::is_settled) {
        return Ok(());
    }
    Err("did not receive metrics for targeted pods (pods might be unready)".to_owned())
}

/// The same for a metric of pods that an adapter measured; `goal` and values in thousandths.
pub fn propose_plain(goal: i64, workload: Workload<'_>, values: &BTreeMap<String, i64>) -> Result<Proposal, String> {
    let counted = workload.pods.iter().filter(|pod| !is_ignored(pod)).map(|pod| Measured {
        usage: values.get(pod_name(pod)).copied(),
        request: 0,
        unready: crate::pod::phase(pod) == "Pending",
    });
    if workload.pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let measured: Vec<Measured> = counted.collect();
    decide(Target::Average(goal), workload, &measured)
}

fn decide(target: Target, workload: Workload<'_>, pods: &[Measured]) -> Result<Proposal, String> {
    let Workload { replicas: current, tolerance, .. } = workload;
    ensure_settled(pods)?;
    let settled: Vec<(i64, i64)> =
        pods.iter().filter(|pod| pod.is_settled()).filter_map(|pod| Some((pod.usage?, pod.request))).collect();
    let (ratio, utilization, average) = ratio(target, settled.iter().copied())?;
    let with = |replicas: i64| Proposal { replicas, utilization, average };
    let (unready, missing) =
        (pods.iter().any(|pod| pod.unready), pods.iter().any(|pod| pod.usage.is_none() && !pod.unready));
    let rising = ratio > 1.0;
    let known = !missing && (!unready || !rising);
    if known {
        return Ok(with(if tolerance.allows(ratio) { current } else { ceil(ratio * settled.len() as f64) }));
    }
    // Pods of which nothing is known count against any change: as idle when
    // scaling up, as fully used when scaling down.
    let assumed = pods.iter().filter_map(|pod| match (pod.usage, pod.unready) {
        (Some(usage), false) => Some((usage, pod.request)),
        (_, true) => rising.then_some((0, pod.request)),
        (None, false) if rising => Some((0, pod.request)),
        (None, false) => Some((full(target, pod.request), pod.request)),
    });
    let assumed: Vec<(i64, i64)> = assumed.collect();
    let (new_ratio, ..) = self::ratio(target, assumed.iter().copied())?;
    if tolerance.allows(new_ratio) || rising != (new_ratio > 1.0) {
        return Ok(with(current));
    }
    let wanted = ceil(new_ratio * assumed.len() as f64);
    let turned = (new_ratio < 1.0 && wanted > current) || (new_ratio > 1.0 && wanted < current);
    Ok(with(if turned { current } else { wanted }))
}

/// What a pod is taken to use when it may not be scaled away.
fn full(target: Target, request: i64) -> i64 {
    match target {
        Target::Utilization(percent) => request * percent.max(100) / 100,
        Target::Average(value) => value,
    }
}

/// Use over target, percent of requests, average.
fn ratio(target: Target, pods: impl Iterator<Item = (i64, i64)>) -> Result<(f64, Option<i64>, i64), String> {
    let (mut used, mut requested, mut count) = (0, 0, 0);
    for (usage, request) in pods {
        used += usage;
        requested += request;
        count += 1;
    }
    let average = used / count.max(1);
    match target {
        Target::Utilization(percent) => {
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = used * 100 / requested;
            Ok((utilization as f64 / percent.max(1) as f64, Some(utilization), average))
        }
        Target::Average(value) => Ok((average as f64 / value.max(1) as f64, None, average)),
    }
}

pub fn ceil(value: f64) -> i64 {
    value.ceil() as i64
}

fn is_ignored(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || phase == Some("Failed")
}

fn value_of(resource: &Resource<'_>, usage: &PodUsage) -> Option<i64> {
    let mut containers =
        usage.containers.iter().filter(|(name, _)| resource.container.is_none_or(|wanted| wanted == *name)).peekable();
    containers.peek()?;
    Some(containers.map(|(_, used)| if resource.name == "cpu" { used.cpu_milli } else { used.memory_milli }).sum())
}

/// Thousandths a pod asks for: what it says as a whole, else what its containers
/// say, each of which must.
fn request_of(resource: &Resource<'_>, pod: &Pod) -> Result<i64, String> {
    let asked = |resources: &Option<ResourceRequirements>| {
        let request = resources.as_ref()?.requests.as_ref()?.get(resource.name)?;
        Some(request.0.parse::<Quantity>().ok()?.milli_value())
    };
    let Some(spec) = &pod.spec else { return Ok(0) };
    let restartable = spec.init_containers.iter().flatten();
    let restartable = restartable.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut containers = spec.containers.iter().chain(restartable);
    let (name, pod) = (resource.name, pod_name(pod));
    if let Some(wanted) = resource.container {
        let container = containers.find(|container| container.name == wanted);
        let container = container.ok_or_else(|| format!("container {wanted} not found in Pod {pod}"))?;
        return asked(&container.resources)
            .ok_or_else(|| format!("missing request for {name} in container {wanted} of Pod {pod}"));
    }
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if whole.is_some_and(|requests| !requests.is_empty()) {
        let sum = containers.filter_map(|container| asked(&container.resources)).reduce(|sum, request| sum + request);
        return asked(&spec.resources)
            .or(sum)
            .ok_or_else(|| format!("missing pod-level request for {name} in Pod {pod}"));
    }
    containers
        .map(|container| {
            let missing = || format!("missing request for {name} in container {} of Pod {pod}", container.name);
            asked(&container.resources).ok_or_else(missing)
        })
        .sum()
}

fn is_unready(resource: &Resource<'_>, pod: &Pod, usage: Option<&PodUsage>, now: Timestamp) -> bool {
    let Some(status) = &pod.status else { return true };
    if status.phase.as_deref() == Some("Pending") {
        return true;
    }
    let Some(usage) = usage else { return false };
    if resource.name != "cpu" {
        return false;
    }
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let (Some(ready), Some(start)) = (ready, &status.start_time) else { return true };
    let since = ready.last_transition_time.as_ref().map_or(start.0, |time| time.0);
    if now.duration_since(start.0) < CPU_INITIALIZATION {
        return ready.status == "False" || usage.at.duration_since(since) < usage.window;
    }
    ready.status == "False" && since.duration_since(start.0) < INITIAL_READINESS
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CPU: Resource<'static> = Resource { name: "cpu", container: None, target: Target::Utilization(50) };

    fn pods(numbers: &[(Option<i64>, bool)]) -> Vec<Measured> {
        numbers.iter().map(|(usage, unready)| Measured { usage: *usage, request: 1000, unready: *unready }).collect()
    }

    fn workload(replicas: i64, behavior: &Value) -> Workload<'static> {
        Workload { replicas, running: replicas, pods: &[], tolerance: Tolerance::of(behavior) }
    }

    fn wanted(current: i64, numbers: &[(Option<i64>, bool)]) -> i64 {
        decide(CPU.target, workload(current, &Value::Null), &pods(numbers)).unwrap().replicas
    }

    #[test]
    fn each_direction_has_a_tolerance_of_its_own() {
        let behavior = json!({"scaleUp": {"tolerance": "0"}, "scaleDown": {"tolerance": "500m"}});
        let of = |usage, behavior| {
            decide(CPU.target, workload(10, behavior), &pods(&[(Some(usage), false); 10])).unwrap().replicas
        };
        assert_eq!((of(510, &behavior), of(510, &Value::Null)), (11, 10), "two percent more than wanted");
        assert_eq!((of(250, &behavior), of(240, &behavior)), (10, 5), "half of what is wanted, and less");
        assert_eq!((of(250, &Value::Null), of(550, &Value::Null)), (5, 10), "a tenth more is just within");
    }

    #[test]
    fn use_over_target_gives_the_count() {
        assert_eq!(wanted(2, &[(Some(900), false), (Some(700), false)]), 4, "80% of 50%");
        assert_eq!(wanted(2, &[(Some(520), false), (Some(500), false)]), 2, "within the tolerance");
        assert_eq!(wanted(4, &[(Some(100), false); 4]), 1);
    }

    #[test]
    fn the_unknown_counts_against_a_change() {
        assert_eq!(wanted(2, &[(Some(900), false), (None, false)]), 2, "0 of the other: 45% in all");
        assert_eq!(wanted(2, &[(Some(300), false), (None, false)]), 2, "all of the other: 65% in all");
        assert_eq!(wanted(3, &[(Some(900), false), (Some(900), false), (None, true)]), 4, "an unready one as idle");
        assert_eq!(
            wanted(3, &[(Some(100), false), (Some(100), false), (Some(900), true)]),
            1,
            "not counted when falling"
        );
    }

    #[test]
    fn a_pod_asks_as_a_whole_or_by_each_container() {
        let asked = |spec: Value, container: Option<&str>| {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            request_of(&Resource { container, ..CPU }, &serde_json::from_value(pod).unwrap())
        };
        let cpu = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let silent = json!({"name": "b"});
        assert_eq!(asked(json!({"containers": [cpu("a", "100m"), cpu("b", "50m")]}), None), Ok(150));
        assert_eq!(asked(json!({"containers": [cpu("a", "100m"), cpu("b", "50m")]}), Some("b")), Ok(50));
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "10m"}}});
        assert_eq!(asked(json!({"initContainers": [sidecar], "containers": [cpu("a", "100m")]}), None), Ok(110));
        let whole = json!({"resources": {"requests": {"cpu": "1"}}, "containers": [cpu("a", "100m"), silent]});
        assert_eq!(asked(whole, None), Ok(1000));
        let missing = "missing request for cpu in container b of Pod p".to_owned();
        assert_eq!(asked(json!({"containers": [cpu("a", "100m"), silent]}), None), Err(missing));
        let missing = "container c not found in Pod p".to_owned();
        assert_eq!(asked(json!({"containers": [silent]}), Some("c")), Err(missing));
        let missing = "missing pod-level request for cpu in Pod p".to_owned();
        let memory = json!({"resources": {"requests": {"memory": "1Gi"}}, "containers": [silent]});
        assert_eq!(asked(memory, None), Err(missing));
    }

    #[test]
    fn nothing_known_is_an_error() {
        assert!(
            decide(CPU.target, workload(1, &Value::Null), &pods(&[(None, false)]))
                .unwrap_err()
                .starts_with("did not receive metrics")
        );
        let none = propose(&CPU, workload(1, &Value::Null), &BTreeMap::new(), Timestamp::UNIX_EPOCH);
        assert!(none.unwrap_err().ends_with("no metrics returned from resource metrics API"));
    }
}
