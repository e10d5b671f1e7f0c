//! Two revisions of one template, and pods that fail again and again.

use serde_json::{Value, json};
use skiff_client::{Controller, ObjectRef};

use super::DaemonSetController;
use crate::{history::REVISION_HASH, simulation::Simulation};

fn start(daemons: &DaemonSetController) -> Simulation {
    let mut simulation = Simulation::new(include_str!("../../testdata/daemonset.yaml"));
    simulation.settle(&[daemons], true, |_| {});
    simulation
}

fn uids(simulation: &Simulation) -> Vec<Value> {
    simulation.values("pods", "d").iter().map(|pod| pod["metadata"]["uid"].clone()).collect()
}

#[test]
fn a_newer_revision_of_the_same_template_restarts_nothing() {
    let daemons = DaemonSetController::default();
    let mut simulation = start(&daemons);
    let before = uids(&simulation);
    let mut twin = simulation.values("controllerrevisions.apps", "d").remove(0);
    twin["metadata"]["name"] = "agent-twin".into();
    twin["metadata"]["uid"] = "twin".into();
    twin["metadata"]["labels"][REVISION_HASH] = "twin".into();
    twin["revision"] = 2.into();
    simulation.put(twin);
    simulation.settle(&[&daemons], true, |_| {});
    assert_eq!(uids(&simulation), before, "the same pods");
    for pod in simulation.values("pods", "d") {
        assert_eq!(pod["metadata"]["labels"][REVISION_HASH], json!("twin"));
    }
}

#[test]
fn a_pod_that_fails_again_stays_a_while() {
    let daemons = DaemonSetController::default();
    let mut simulation = start(&daemons);
    let node = simulation.values("pods", "d")[0]["spec"]["nodeName"].clone();
    // Fails the daemon of that node and tells whether it is still there after one pass.
    let fail = |simulation: &mut Simulation| {
        let pods = simulation.values("pods", "d");
        let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == node).unwrap();
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        simulation.edit("pods", "d", &name, |pod| pod["status"]["phase"] = "Failed".into());
        simulation.step(&daemons as &dyn Controller, &ObjectRef::new("d", "agent"));
        simulation.value("pods", "d", &name).is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_null())
    };
    assert!(!fail(&mut simulation), "the first failed pod goes at once");
    simulation.settle(&[&daemons], true, |_| {});
    assert!(fail(&mut simulation), "the next one stays");
    simulation.pass(2);
    simulation.step(&daemons as &dyn Controller, &ObjectRef::new("d", "agent"));
    let left = simulation.values("pods", "d");
    let failed = left.iter().filter(|pod| pod["status"]["phase"] == "Failed");
    assert!(failed.into_iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null()), "and goes later");
}
