//! Client libraries of other languages that talk with pods.

use anyhow::Result;
use skiff_tests::{Cluster, packages};

pub fn the_python_client_runs_commands_in_pods(cluster: &mut Cluster) -> Result<()> {
    packages::drive_python(cluster, "commands.py")
}

pub fn the_javascript_client_runs_commands_in_pods(cluster: &mut Cluster) -> Result<()> {
    packages::drive_javascript(cluster, "commands.mjs")
}

pub fn helm_installs_upgrades_rolls_back_and_uninstalls(cluster: &mut Cluster) -> Result<()> {
    packages::drive_helm(cluster)
}
