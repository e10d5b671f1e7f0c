//! Looks of an autoscaler at a target, in a simulated cluster.

use super::*;
use crate::simulation::Simulation;

struct Busy(i64);

impl PodMetrics for Busy {
    fn usage(&self, _: &str, _: &str) -> Option<PodUsage> {
        let containers = [("c".to_owned(), ContainerUsage { cpu_milli: self.0, memory_milli: 0 })].into();
        Some(PodUsage {
            containers,
            at: "2026-01-01T00:10:00Z".parse().unwrap(),
            window: SignedDuration::from_secs(15),
        })
    }
}

fn world(replicas: i64, pods: usize) -> Simulation {
    let mut text = format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: d, namespace: ns}}
spec: {{replicas: {replicas}, selector: {{matchLabels: {{a: b}}}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: h, namespace: ns}}
spec:
  minReplicas: 1
  maxReplicas: 5
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: d}}
  metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 50}}}}}}]"
    );
    for number in 0..pods {
        text.push_str(&format!(
            "
---
apiVersion: v1
kind: Pod
metadata: {{name: p{number}, namespace: ns, labels: {{a: b}}}}
spec: {{containers: [{{name: c, resources: {{requests: {{cpu: 100m}}}}}}]}}
status: {{phase: Running, startTime: '2025-12-31T00:00:00Z', conditions: [{{type: Ready, status: 'True'}}]}}"
        ));
    }
    Simulation::new(&text)
}

fn run(simulation: &mut Simulation, usage: i64) -> (Value, Value) {
    let controller = HorizontalPodAutoscalerController::new(Arc::new(Busy(usage)));
    simulation.step(&controller, &ObjectRef::new("ns", "h"));
    let value = |resource: &str, name: &str| simulation.value(resource, "ns", name).unwrap();
    (
        value("horizontalpodautoscalers.autoscaling", "h")["status"].clone(),
        value("deployments.apps", "d")["spec"].clone(),
    )
}

fn reason(status: &Value, kind: &str) -> String {
    let conditions = condition::of(status);
    condition::find(&conditions, kind)
        .map(|condition| condition["reason"].as_str().unwrap().to_owned())
        .unwrap_or_default()
}

#[test]
fn a_busy_target_grows_and_says_why() {
    let (status, spec) = run(&mut world(2, 2), 100);
    assert_eq!((&status["desiredReplicas"], &spec["replicas"]), (&json!(4), &json!(4)));
    assert_eq!(
        status["currentMetrics"][0]["resource"]["current"],
        json!({"averageUtilization": 100, "averageValue": "100m"})
    );
    assert_eq!(reason(&status, "ScalingActive"), "ValidMetricFound");
    assert_eq!(reason(&status, "AbleToScale"), "SucceededRescale");
    let (status, _) = run(&mut world(2, 2), 1000);
    assert_eq!(
        (&status["desiredReplicas"], reason(&status, "ScalingLimited").as_str()),
        (&json!(5), "TooManyReplicas")
    );
}

/// Has the autoscaler look at the length of a queue, which an adapter knows.
fn watch_queue(simulation: &mut Simulation, target: Value) {
    simulation.put(json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1beta1.external.metrics.k8s.io"}, "spec": {}}));
    simulation.edit("horizontalpodautoscalers.autoscaling", "ns", "h", |scaler| {
        let external = json!({"metric": {"name": "queue"}, "target": target});
        scaler["spec"]["metrics"] = json!([{"type": "External", "external": external}]);
    });
}

/// Answers the second time it is asked.
#[derive(Default)]
struct Slow(Mutex<Vec<String>>);

impl AdapterMetrics for Slow {
    fn read(&self, path: &str) -> Option<Result<Value, String>> {
        let mut asked = self.0.lock();
        asked.push(path.to_owned());
        let answer = json!({"items": [{"metricName": "queue", "value": "35"}]});
        (asked.len() > 1).then_some(Ok(answer))
    }
}

#[test]
fn an_external_metric_decides_once_its_adapter_has_answered() {
    let mut simulation = world(2, 2);
    watch_queue(&mut simulation, json!({"type": "AverageValue", "averageValue": "10"}));
    let mut controller = HorizontalPodAutoscalerController::new(Arc::new(Busy(0)));
    controller.adapters = Some(Arc::new(Slow::default()));
    let key = ObjectRef::new("ns", "h");
    simulation.step(&controller, &key);
    let replicas =
        |simulation: &Simulation| simulation.value("deployments.apps", "ns", "d").unwrap()["spec"]["replicas"].clone();
    assert_eq!(replicas(&simulation), 2, "nothing is known yet");
    simulation.step(&controller, &key);
    assert_eq!(replicas(&simulation), 4);
    let status = simulation.value("horizontalpodautoscalers.autoscaling", "ns", "h").unwrap()["status"].clone();
    assert_eq!(status["currentMetrics"][0]["external"]["metric"]["name"], "queue");
    assert_eq!(reason(&status, "ScalingActive"), "ValidMetricFound");
}

/// Answers at once with a length that a test sets.
#[derive(Default)]
struct Queue(Mutex<i64>);

impl AdapterMetrics for Queue {
    fn read(&self, _: &str) -> Option<Result<Value, String>> {
        Some(Ok(json!({"items": [{"metricName": "queue", "value": self.0.lock().to_string()}]})))
    }
}

#[test]
fn an_empty_queue_stops_its_target_and_a_full_one_brings_it_back() {
    let mut simulation = world(1, 1);
    watch_queue(&mut simulation, json!({"type": "Value", "value": "10"}));
    simulation.edit("horizontalpodautoscalers.autoscaling", "ns", "h", |scaler| {
        scaler["spec"]["minReplicas"] = 0.into();
        scaler["spec"]["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    });
    let queue = Arc::new(Queue::default());
    let mut controller = HorizontalPodAutoscalerController::new(Arc::new(Busy(0)));
    controller.adapters = Some(queue.clone());
    let mut replicas = |length: i64, by_hand: Option<i64>| {
        *queue.0.lock() = length;
        if let Some(count) = by_hand {
            simulation.edit("deployments.apps", "ns", "d", |target| target["spec"]["replicas"] = count.into());
        }
        simulation.step(&controller, &ObjectRef::new("ns", "h"));
        let value = |resource: &str, name: &str| simulation.value(resource, "ns", name).unwrap();
        let status = value("horizontalpodautoscalers.autoscaling", "h")["status"].clone();
        (value("deployments.apps", "d")["spec"]["replicas"].clone(), reason(&status, "ScaledToZero"))
    };
    assert_eq!(replicas(0, None), (json!(0), "ScaledToZero".to_owned()));
    assert_eq!(replicas(0, None), (json!(0), "ScaledToZero".to_owned()));
    assert_eq!(replicas(35, None), (json!(4), "NotScaledToZero".to_owned()));
    assert_eq!(replicas(35, Some(0)), (json!(0), "NotScaledToZero".to_owned()), "somebody stopped it");
}

#[test]
fn a_metric_that_says_nothing_is_told_of_alone_and_in_sum() {
    struct Silent;
    impl PodMetrics for Silent {
        fn usage(&self, _: &str, _: &str) -> Option<PodUsage> {
            None
        }
    }
    let mut simulation = world(2, 2);
    simulation.step(&HorizontalPodAutoscalerController::new(Arc::new(Silent)), &ObjectRef::new("ns", "h"));
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: \
                   no metrics returned from resource metrics API";
    let sum =
        format!("invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {why}");
    let told = |line: String| simulation.log.iter().any(|logged| logged.ends_with(&line));
    assert!(told(format!("FailedGetResourceMetric {why}")), "{:?}", simulation.log);
    assert!(told(format!("FailedComputeMetricsReplicas {sum}")), "{:?}", simulation.log);
    let scaler = simulation.value("horizontalpodautoscalers.autoscaling", "ns", "h").unwrap();
    assert_eq!(
        (&scaler["status"]["desiredReplicas"], &scaler["status"]["currentMetrics"]),
        (&json!(0), &json!([{"type": ""}]))
    );
}

#[test]
fn a_stopped_or_missing_target_is_left_alone() {
    let (status, spec) = run(&mut world(0, 0), 100);
    assert_eq!((reason(&status, "ScalingActive").as_str(), &spec["replicas"]), ("ScalingDisabled", &json!(0)));
    let (status, _) = run(&mut world(2, 0), 100);
    assert_eq!(reason(&status, "ScalingActive"), "FailedGetResourceMetric");
}

#[test]
fn a_target_outside_its_bounds_is_brought_back() {
    let (status, spec) = run(&mut world(9, 0), 0);
    assert_eq!((&spec["replicas"], &status["desiredReplicas"]), (&json!(5), &json!(5)));
}
