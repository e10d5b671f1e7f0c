//! HorizontalPodAutoscalers: reads what pods use, decides a count, writes the
//! target's scale.
//!
//! Metrics of types `Resource` and `ContainerResource` are read from
//! [`PodMetrics`], the other types from adapters behind [`AdapterMetrics`]. What
//! was recommended and changed lately is remembered here and lost with the
//! process, as upstream's.

mod adapters;
mod behavior;
mod replicas;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Pod, ReplicationController},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Quantity};
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Patch, Snapshot, Trigger};

use crate::{
    condition::{self, Condition},
    scale::{self, Scale},
    seen, write,
};
use behavior::{Bounded, History};
use replicas::{Proposal, Resource, Target, Tolerance, Workload};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(15);
/// Time until an adapter is expected to have answered.
const SOON: Duration = Duration::from_millis(500);
/// Autoscalers remembered. More: the oldest memory is dropped, which only forgets windows.
const MEMORY_MAX: usize = 10_000;

/// Use of one container, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    pub cpu_milli: i64,
    pub memory_milli: i64,
}

/// Use of a pod over a window that ends at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    pub containers: BTreeMap<String, ContainerUsage>,
    pub at: Timestamp,
    pub window: SignedDuration,
}

/// Knows what pods use.
pub trait PodMetrics: Send + Sync + 'static {
    fn usage(&self, namespace: &str, pod: &str) -> Option<PodUsage>;
}

/// Reads what adapters serve.
pub trait AdapterMetrics: Send + Sync + 'static {
    /// The answer to a GET of `path`, not older than a look; `None` while it is on its way.
    fn read(&self, path: &str) -> Option<Result<Value, String>>;
}

/// Scales targets by what their pods use.
pub struct HorizontalPodAutoscalerController {
    pub metrics: Arc<dyn PodMetrics>,
    /// Without it, metrics of adapters are reported as unavailable.
    pub adapters: Option<Arc<dyn AdapterMetrics>>,
    histories: Mutex<HashMap<ObjectRef, History>>,
}

impl HorizontalPodAutoscalerController {
    pub fn new(metrics: Arc<dyn PodMetrics>) -> Self {
        HorizontalPodAutoscalerController { metrics, adapters: None, histories: Mutex::default() }
    }
}

impl Controller for HorizontalPodAutoscalerController {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn triggers(&self) -> Vec<Trigger> {
        // A change of the status alone, which is our own, is no reason to look before the period is over.
        vec![Trigger::new::<HorizontalPodAutoscaler>(|new, old, _| {
            let spec = |object: Option<&Object>| {
                object.and_then(|object| object.value().ok()).map(|value| value["spec"].clone())
            };
            match (new, old) {
                (Some(_), Some(_)) if spec(new) == spec(old) => Vec::new(),
                _ => new.or(old).map(ObjectRef::of).into_iter().collect(),
            }
        })]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![
            GroupResource::of::<Pod>(),
            GroupResource::of::<Deployment>(),
            GroupResource::of::<ReplicaSet>(),
            GroupResource::of::<StatefulSet>(),
            GroupResource::of::<ReplicationController>(),
            GroupResource::of::<CustomResourceDefinition>(),
            GroupResource::of::<APIService>(),
        ]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let object = world.object::<HorizontalPodAutoscaler>(&key.namespace, &key.name);
        let Some((object, value)) = object.and_then(|object| object.value().ok().map(|value| (object, value))) else {
            self.histories.lock().remove(key);
            return outcome;
        };
        if object.meta.is_deleting() {
            return outcome;
        }
        outcome.requeue_after = Some(PERIOD);
        let mut look =
            Look { object: &object, spec: &value["spec"], status: value["status"].clone(), now: context.now };
        if !look.status.is_object() {
            look.status = json!({});
        }
        self.look(key, world, &mut look, &mut outcome);
        if value["metadata"]["generation"].is_i64() {
            look.status["observedGeneration"] = value["metadata"]["generation"].clone();
        }
        if let Some(body) = write::with_status(&object, look.status) {
            outcome.push(write::update_status::<HorizontalPodAutoscaler>(&object, body));
        }
        outcome
    }
}

/// What an adapter said of a metric; `None` for metrics of other types.
type Answer = Option<Result<Value, String>>;

/// One look at an autoscaler: the status grows while it is decided.
struct Look<'a> {
    object: &'a Object,
    spec: &'a Value,
    status: Value,
    now: Timestamp,
}

impl Look<'_> {
    /// Whether a condition is true.
    fn is(&self, kind: &str) -> bool {
        condition::find(&condition::of(&self.status), kind).is_some_and(|condition| condition["status"] == "True")
    }

    /// Whether a metric can rise while no pod runs.
    fn looks_outside(&self) -> bool {
        let metrics = self.spec["metrics"].as_array();
        metrics.into_iter().flatten().any(|metric| metric["type"] == "Object" || metric["type"] == "External")
    }

    fn set(&mut self, kind: &'static str, status: &'static str, reason: &str, message: impl Into<String>) {
        let mut conditions = condition::of(&self.status);
        condition::set(&mut conditions, Condition::new(kind, status, reason, message), self.now);
        self.status["conditions"] = Value::Array(conditions);
    }
}

fn target(spec: &Value, namespace: &str, world: &Snapshot) -> Result<Scale, String> {
    let reference = &spec["scaleTargetRef"];
    let text = |name: &str| reference[name].as_str().unwrap_or_default();
    scale::find(world, text("apiVersion"), text("kind"), namespace, text("name")).map_err(|missing| missing.to_string())
}

impl HorizontalPodAutoscalerController {
    fn look(&self, key: &ObjectRef, world: &Snapshot, look: &mut Look<'_>, outcome: &mut Outcome) {
        let scaled = match target(look.spec, &key.namespace, world) {
            Ok(scaled) => scaled,
            Err(why) => {
                let message = format!("the HPA controller was unable to get the target's current scale: {why}");
                outcome.events.push(write::warning(look.object, "FailedGetScale", why));
                look.set("AbleToScale", "False", "FailedGetScale", message);
                return;
            }
        };
        look.set(
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = scaled.replicas;
        let (min, max) =
            (look.spec["minReplicas"].as_i64().unwrap_or(1), look.spec["maxReplicas"].as_i64().unwrap_or(1));
        look.status["currentReplicas"] = current.into();
        // What was brought to zero here comes back by itself; what somebody else stopped stays.
        let comes_back = look.is("ScaledToZero") && (min != 0 || look.looks_outside());
        let (wanted, why) = if current == 0 && !comes_back {
            look.status["desiredReplicas"] = 0.into();
            look.set(
                "ScalingActive",
                "False",
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
            );
            return;
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min && current > 0 {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            if scaled.selector.is_none() {
                outcome.events.push(write::warning(look.object, "SelectorRequired", "selector is required"));
                let message = "the HPA target's scale is missing a selector";
                look.set("ScalingActive", "False", "InvalidSelector", message);
                return;
            }
            let Some(answers) = self.answers(&key.namespace, world, look, &scaled) else {
                // Nothing is decided, and nothing said, before all is known.
                outcome.requeue_after = Some(SOON);
                return;
            };
            match self.measure(&key.namespace, world, look, &scaled, &answers, outcome) {
                Some((wanted, metric)) => {
                    let mut histories = self.histories.lock();
                    if histories.len() >= MEMORY_MAX && !histories.contains_key(key) {
                        histories.clear();
                    }
                    let history = histories.entry(key.clone()).or_default();
                    let Bounded { replicas, stabilized, limited } =
                        behavior::bound(history, &look.spec["behavior"], current, wanted, (min, max), look.now);
                    drop(histories);
                    match stabilized {
                        Some((reason, message)) => look.set("AbleToScale", "True", reason, message),
                        None => {
                            look.set("AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size")
                        }
                    }
                    look.set("ScalingLimited", limited.0, limited.1, limited.2);
                    let replicas = if current == 0 { replicas.max(min) } else { replicas };
                    let why = if replicas > current {
                        format!("{metric} above target")
                    } else {
                        "All metrics below target".to_owned()
                    };
                    (replicas, why)
                }
                None => {
                    // What was last wanted stands.
                    if look.status["desiredReplicas"].is_null() {
                        look.status["desiredReplicas"] = 0.into();
                    }
                    return;
                }
            }
        };
        look.status["desiredReplicas"] = wanted.into();
        if wanted != current {
            self.rescale(key, look, &scaled, wanted, &why, outcome);
        }
    }

    fn rescale(
        &self,
        key: &ObjectRef,
        look: &mut Look<'_>,
        scaled: &Scale,
        wanted: i64,
        why: &str,
        outcome: &mut Outcome,
    ) {
        outcome.push(Operation::Patch {
            resource: scaled.resource.clone(),
            namespace: Some(key.namespace.clone()),
            name: look.spec["scaleTargetRef"]["name"].as_str().unwrap_or_default().to_owned(),
            subresource: Some("scale"),
            patch: Patch::Merge(json!({"spec": {"replicas": wanted}})),
        });
        outcome.events.push(write::normal(
            look.object,
            "SuccessfulRescale",
            format!("New size: {wanted}; reason: {why}"),
        ));
        look.set(
            "AbleToScale",
            "True",
            "SucceededRescale",
            format!("the HPA controller was able to update the target scale to {wanted}"),
        );
        let to_zero = wanted == 0 && look.spec["minReplicas"] == 0 && look.looks_outside();
        let (status, reason, message) = if to_zero {
            ("True", "ScaledToZero", "the HPA controller scaled the workload to zero")
        } else {
            ("False", "NotScaledToZero", "the HPA controller did not scale the workload to zero")
        };
        look.set("ScaledToZero", status, reason, message);
        look.status["lastScaleTime"] = write::time(look.now).into();
        let mut histories = self.histories.lock();
        histories.entry(key.clone()).or_default().changed(look.now, wanted - scaled.replicas);
    }

    /// What adapters say, metric by metric; `None` as long as one has not answered.
    fn answers(&self, namespace: &str, world: &Snapshot, look: &Look<'_>, scaled: &Scale) -> Option<Vec<Answer>> {
        let metrics = look.spec["metrics"].as_array().map_or(&[][..], Vec::as_slice);
        let answers: Vec<Option<Answer>> = metrics
            .iter()
            .map(|metric| {
                if !adapters::is_adapters(metric) {
                    return Some(None);
                }
                let Some(adapters) = &self.adapters else {
                    return Some(Some(Err("no metrics adapters are read by this server".to_owned())));
                };
                let selector = scaled.selector.as_ref()?;
                match adapters::path(metric, namespace, selector, world) {
                    Ok(path) => adapters.read(&path).map(Some),
                    Err(why) => Some(Some(Err(why))),
                }
            })
            .collect();
        // All have been asked by now, whichever answers last.
        answers.into_iter().collect()
    }

    /// The largest count any metric asks for, and the metric's name.
    fn measure(
        &self,
        namespace: &str,
        world: &Snapshot,
        look: &mut Look<'_>,
        scaled: &Scale,
        answers: &[Answer],
        outcome: &mut Outcome,
    ) -> Option<(i64, String)> {
        let all = seen::list::<Pod>(world, Some(namespace));
        let is_ours =
            |pod: &&seen::Seen<Pod>| scaled.selector.as_ref().is_some_and(|ours| ours.matches(&pod.meta().labels));
        let pods: Vec<&Pod> = all.iter().filter(is_ours).map(|pod| &*pod.typed).collect();
        let usage: BTreeMap<String, PodUsage> = pods
            .iter()
            .filter_map(|pod| {
                let name = pod.metadata.name.clone()?;
                let usage = self.metrics.usage(namespace, &name)?;
                Some((name, usage))
            })
            .collect();
        let workload = Workload {
            replicas: scaled.replicas,
            running: scaled.running,
            pods: &pods,
            tolerance: Tolerance::of(&look.spec["behavior"]),
        };
        let mut best: Option<(i64, String)> = None;
        let mut failures: Vec<Failure> = Vec::new();
        let mut shown: Vec<Value> = Vec::new();
        let metrics = look.spec["metrics"].as_array().cloned().unwrap_or_default();
        for (metric, answer) in metrics.iter().zip(answers) {
            let proposed = match answer {
                Some(answer) => answer
                    .as_ref()
                    .map_err(String::clone)
                    .and_then(|answer| adapters::propose(metric, answer, workload))
                    .map(|answered| (answered.replicas, answered.name, answered.current))
                    .map_err(|why| adapters::failure(metric, why)),
                None => propose(metric, workload, &usage, look.now)
                    .map(|(proposal, name)| (proposal.replicas, name, current_metric(metric, &proposal))),
            };
            match proposed {
                Ok((replicas, name, current)) => {
                    shown.push(current);
                    if best.as_ref().is_none_or(|(count, _)| replicas > *count) {
                        best = Some((replicas, name));
                    }
                }
                Err(failure) => {
                    // Its place stays empty, so that the others keep theirs.
                    shown.push(json!({"type": ""}));
                    outcome.events.push(write::warning(look.object, &failure.reason, failure.why.clone()));
                    failures.push(failure);
                }
            }
        }
        look.status["currentMetrics"] = if shown.is_empty() { Value::Null } else { Value::Array(shown) };
        // A metric that says nothing may ask for more: nothing is taken away then.
        let best = best.filter(|(count, _)| failures.is_empty() || *count >= scaled.replicas);
        if let Some((_, name)) = &best {
            let message = format!("the HPA was able to successfully calculate a replica count from {name}");
            look.set("ScalingActive", "True", "ValidMetricFound", message);
        } else if let Some(Failure { reason, why, whole }) = failures.first() {
            let message = format!("the HPA was unable to compute the replica count: {why}");
            look.set("ScalingActive", "False", reason, message);
            let (invalid, all) = (failures.len(), metrics.len());
            let message = format!("invalid metrics ({invalid} invalid out of {all}), first error is: {whole}");
            outcome.events.push(write::warning(look.object, "FailedComputeMetricsReplicas", message));
        }
        best
    }
}

/// Why a metric says nothing, in upstream's words.
struct Failure {
    /// As in the condition and the event.
    reason: String,
    why: String,
    /// With the words around it, as in the summary of all metrics.
    whole: String,
}

/// What one metric asks for, and its name in messages.
fn propose(
    metric: &Value,
    workload: Workload<'_>,
    usage: &BTreeMap<String, PodUsage>,
    now: Timestamp,
) -> Result<(Proposal, String), Failure> {
    let kind = metric["type"].as_str().unwrap_or_default();
    let (source, container) = match kind {
        "Resource" => (&metric["resource"], None),
        "ContainerResource" => (&metric["containerResource"], metric["containerResource"]["container"].as_str()),
        other => {
            let why = format!("unknown metric source type {other:?}");
            return Err(Failure { reason: "InvalidMetricSourceType".to_owned(), whole: why.clone(), why });
        }
    };
    let name = source["name"].as_str().unwrap_or_default();
    let fail = |why: String| {
        let of = container.map_or(format!("{name} resource"), |container| format!("{container} container"));
        let whole = format!("failed to get {of} metric value: {why}");
        Failure { reason: format!("FailedGet{kind}Metric"), why, whole }
    };
    let value = source["target"]["averageValue"].as_str().and_then(|text| text.parse::<Quantity>().ok());
    let utilization = source["target"]["averageUtilization"].as_i64();
    let (target, sought) = match (value, utilization) {
        (Some(value), _) => (Target::Average(value.milli_value()), "usage"),
        (None, Some(percent)) => (Target::Utilization(percent), "utilization"),
        (None, None) => {
            let neither = "neither an average utilization target nor an average value (usage) target was set";
            return Err(fail(format!("invalid resource metric source: {neither}")));
        }
    };
    let resource = Resource { name, container, target };
    let proposal = replicas::propose(&resource, workload, usage, now)
        .map_err(|why| fail(format!("failed to get {name} {sought}: {why}")))?;
    let scope = if container.is_some() { "container resource" } else { "resource" };
    let what = match target {
        Target::Utilization(_) => format!("{name} {scope} utilization (percentage of request)"),
        Target::Average(_) => format!("{name} resource"),
    };
    Ok((proposal, what))
}

fn current_metric(metric: &Value, proposal: &Proposal) -> Value {
    let field = if metric["type"] == "ContainerResource" { "containerResource" } else { "resource" };
    let mut source = json!({"name": metric[field]["name"]});
    if field == "containerResource" {
        source["container"] = metric[field]["container"].clone();
    }
    let average = if metric[field]["name"] == "cpu" || proposal.average % 1000 != 0 {
        format!("{}m", proposal.average)
    } else {
        format!("{}", proposal.average / 1000)
    };
    source["current"] = json!({"averageValue": average});
    if let Some(utilization) = proposal.utilization {
        source["current"]["averageUtilization"] = utilization.into();
    }
    json!({"type": metric["type"], field: source})
}
