//! A cluster of its own for the battery when `KUBECONFIG` names none: two nodes
//! of the built binary, and the battery started again inside the server's network.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use skiff_tests::{Cluster, ClusterOptions};

/// Starts the cluster and runs this program again with the same words inside.
/// With `--serve` it only shows how to enter, and waits.
pub fn run_inside(words: &[String]) -> Result<ExitCode> {
    let agnhost = Some(PathBuf::from(env!("CARGO_BIN_EXE_agnhost")));
    let cluster = Cluster::start(ClusterOptions { agent: true, agnhost, ..ClusterOptions::default() })?;
    let kubectl = cluster.kubectl();
    let pid = cluster.server.pid();
    if words.iter().any(|word| word == "--serve") {
        let (config, program) = (kubectl.kubeconfig.display(), kubectl.program.display());
        println!("nsenter -t {pid} -n -- env KUBECONFIG={config} CONFORMANCE_KUBECTL={program}");
        std::thread::park();
    }
    let status = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "--"])
        .arg(std::env::current_exe()?)
        .args(words)
        .env("KUBECONFIG", &kubectl.kubeconfig)
        .env("CONFORMANCE_KUBECTL", &kubectl.program)
        .status()
        .context("run the battery inside")?;
    if !status.success() {
        println!("{}", cluster.last_log_lines());
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
