//! Client libraries of other languages, each driven by a script of ours.

use anyhow::Result;
use skiff_tests::{Cluster, packages};

pub fn the_python_client_drives_the_server(cluster: &mut Cluster) -> Result<()> {
    packages::drive_python(cluster, "client.py")
}

pub fn the_javascript_client_drives_the_server(cluster: &mut Cluster) -> Result<()> {
    packages::drive_javascript(cluster, "client.mjs")
}
