//! Whole workloads in a simulated cluster: the recorded transcript in
//! `testdata` is what happened, step by step. `SKIFF_UPDATE_TESTDATA=1`
//! records anew; read the difference before committing it.

mod cluster;
mod jobs;
mod services;
mod sets;

use std::{env, fs, path::Path};

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::Value;
use skiff_client::Controller;

use crate::{deployment::DeploymentController, replicaset::ReplicaSetController, simulation::Simulation};

fn start(name: &str) -> Simulation {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.yaml"));
    Simulation::new(&fs::read_to_string(path).unwrap())
}

/// Compares the transcript with the recorded one.
fn check(name: &str, simulation: &Simulation) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.txt"));
    let text = simulation.log.join("\n") + "\n";
    if env::var_os("SKIFF_UPDATE_TESTDATA").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    assert!(recorded == text, "{} differs from what happened now:\n{text}", path.display());
}

fn note(simulation: &mut Simulation, text: &str) {
    simulation.log.push(format!("# {text}"));
}

fn workloads() -> [&'static dyn Controller; 2] {
    static SETS: std::sync::OnceLock<ReplicaSetController<ReplicaSet>> = std::sync::OnceLock::new();
    [&DeploymentController, SETS.get_or_init(ReplicaSetController::new)]
}

fn count(simulation: &Simulation, which: impl Fn(&Value) -> bool) -> usize {
    simulation.values("pods", "d").iter().filter(|pod| which(pod)).count()
}

fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["conditions"][0]["status"] == "True"
}

fn anything(_: &Simulation) {}
