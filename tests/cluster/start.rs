//! From nothing to a working cluster.

use anyhow::{Result, ensure};
use skiff_tests::Cluster;

pub fn both_nodes_become_ready(cluster: &mut Cluster) -> Result<()> {
    let nodes = cluster.kubectl().run(&["get", "nodes", "--no-headers"])?;
    ensure!(nodes.lines().count() == 2 && nodes.lines().all(|line| line.contains(" Ready ")), "{nodes}");
    Ok(())
}
