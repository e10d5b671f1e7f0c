//! The last failed pod of an index is held until the index has another: it
//! knows how often the index failed.

use serde_json::{Value, json};
use skiff_client::Controller;

use super::{FINALIZER, INDEX_FAILURE_COUNT, INDEX_IGNORED_COUNT, JobController};
use crate::simulation::Simulation;

const CONTROLLERS: [&dyn Controller; 1] = [&JobController];

/// A job of one index that may fail twice; its first pod runs.
fn start(spec: Value) -> Simulation {
    let mut simulation = Simulation::new(include_str!("../../testdata/job.yaml"));
    simulation.edit("jobs.batch", "d", "work", |job| {
        for (field, value) in spec.as_object().unwrap() {
            job["spec"][field] = value.clone();
        }
        for (field, value) in [
            ("completionMode", json!("Indexed")),
            ("completions", json!(1)),
            ("parallelism", json!(1)),
            ("backoffLimitPerIndex", json!(2)),
            ("backoffLimit", json!(i32::MAX)),
        ] {
            job["spec"][field] = value;
        }
    });
    simulation.settle(&CONTROLLERS, true, |_| {});
    simulation
}

fn fail(simulation: &mut Simulation, name: &str) {
    let now = crate::write::time(simulation.now);
    simulation.edit("pods", "d", name, |pod| {
        pod["status"]["phase"] = "Failed".into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 3, "finishedAt": now}}}]);
    });
    simulation.settle(&CONTROLLERS, false, |_| {});
}

fn names(simulation: &Simulation, phase: &str) -> Vec<String> {
    let pods = simulation.values("pods", "d").into_iter().filter(|pod| pod["status"]["phase"] == phase);
    pods.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn held(simulation: &Simulation, name: &str) -> bool {
    simulation.value("pods", "d", name).unwrap()["metadata"]["finalizers"] == json!([FINALIZER])
}

fn failed(simulation: &Simulation) -> Value {
    simulation.value("jobs.batch", "d", "work").unwrap()["status"]["failed"].clone()
}

#[test]
fn a_failed_pod_waits_for_its_successor_and_hands_over_its_count() {
    let mut simulation = start(json!({}));
    let first = names(&simulation, "Running").remove(0);
    fail(&mut simulation, &first);
    assert!(held(&simulation, &first), "its successor waits out the back-off");
    assert_eq!(failed(&simulation), Value::Null, "what is held is not counted yet");
    simulation.pass(11);
    simulation.settle(&CONTROLLERS, true, |_| {});
    assert!(!held(&simulation, &first));
    assert_eq!(failed(&simulation), 1);
    let second = names(&simulation, "Running").remove(0);
    let pod = simulation.value("pods", "d", &second).unwrap();
    assert_eq!(pod["metadata"]["annotations"][INDEX_FAILURE_COUNT], "1");
    // The count survives although the first pod is gone.
    simulation.delete("pods", "d", &first, None);
    fail(&mut simulation, &second);
    simulation.pass(21);
    simulation.settle(&CONTROLLERS, true, |_| {});
    let third = names(&simulation, "Running").remove(0);
    assert_eq!(simulation.value("pods", "d", &third).unwrap()["metadata"]["annotations"][INDEX_FAILURE_COUNT], "2");
    fail(&mut simulation, &third);
    simulation.settle(&CONTROLLERS, true, |_| {});
    assert!(!held(&simulation, &third), "the index has failed for good");
    let status = simulation.value("jobs.batch", "d", "work").unwrap()["status"].clone();
    assert_eq!((&status["failedIndexes"], &status["failed"]), (&json!("0"), &json!(3)), "{status}");
}

#[test]
fn failures_that_a_policy_ignores_are_counted_apart() {
    let rules = json!([{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}}]);
    let mut simulation = start(json!({"podFailurePolicy": {"rules": rules}}));
    let first = names(&simulation, "Running").remove(0);
    fail(&mut simulation, &first);
    assert!(held(&simulation, &first));
    simulation.pass(11);
    simulation.settle(&CONTROLLERS, true, |_| {});
    let second = names(&simulation, "Running").remove(0);
    let annotations = simulation.value("pods", "d", &second).unwrap()["metadata"]["annotations"].clone();
    assert_eq!((&annotations[INDEX_FAILURE_COUNT], &annotations[INDEX_IGNORED_COUNT]), (&json!("0"), &json!("1")));
    assert!(!held(&simulation, &first));
    assert_eq!(failed(&simulation), Value::Null);
}
