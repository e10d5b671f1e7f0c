//! The tracking finalizer follows ownership: it goes with the job and with the
//! labels, and comes back with them.

use serde_json::{Value, json};
use skiff_client::Controller;

use super::{FINALIZER, JobController, orphans::JobOrphanController};
use crate::simulation::Simulation;

const CONTROLLERS: [&dyn Controller; 2] = [&JobController, &JobOrphanController];

fn start() -> Simulation {
    let mut simulation = Simulation::new(include_str!("../../testdata/job.yaml"));
    simulation.settle(&CONTROLLERS, true, |_| {});
    assert!(tracked(&simulation) > 0, "the pods carry the finalizer");
    simulation
}

fn tracked(simulation: &Simulation) -> usize {
    let holds = |pod: &Value| pod["metadata"]["finalizers"] == json!([FINALIZER]);
    simulation.values("pods", "d").iter().filter(|pod| holds(pod)).count()
}

#[test]
fn pods_of_a_deleted_job_are_let_go() {
    let mut simulation = start();
    simulation.delete("jobs.batch", "d", "work", None);
    assert!(simulation.value("jobs.batch", "d", "work").is_none());
    simulation.settle(&CONTROLLERS, true, |_| {});
    assert_eq!(tracked(&simulation), 0);
}

#[test]
fn pods_of_a_job_that_has_a_namesake_now_are_let_go() {
    let mut simulation = start();
    let before = tracked(&simulation);
    let mut again = simulation.value("jobs.batch", "d", "work").unwrap();
    again["metadata"]["uid"] = "another".into();
    again["spec"]["selector"] = json!({"matchLabels": {"uid": "another"}});
    again["spec"]["suspend"] = true.into();
    simulation.put(again);
    simulation.settle(&CONTROLLERS, true, |_| {});
    assert!(before > 0 && tracked(&simulation) == 0);
}

#[test]
fn a_released_pod_loses_the_finalizer_and_an_adopted_one_gets_it() {
    let mut simulation = start();
    let name = simulation.values("pods", "d")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let labels = simulation.value("pods", "d", &name).unwrap()["metadata"]["labels"].clone();
    simulation.edit("pods", "d", &name, |pod| pod["metadata"]["labels"] = json!({}));
    simulation.settle(&CONTROLLERS, true, |_| {});
    let released = simulation.value("pods", "d", &name).unwrap();
    assert_eq!(
        (&released["metadata"]["finalizers"], &released["metadata"]["ownerReferences"]),
        (&json!([]), &json!([]))
    );
    simulation.edit("pods", "d", &name, |pod| pod["metadata"]["labels"] = labels);
    simulation.settle(&[&JobController], false, |_| {});
    let adopted = simulation.value("pods", "d", &name).unwrap();
    assert_eq!(adopted["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["name"], "work");
}
