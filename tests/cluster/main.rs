//! The cluster suite: the built binary as a user runs it, one server and one
//! agent as two hosts, driven by stock kubectl.

mod start;

use std::process::ExitCode;

use skiff_tests::{Cluster, ClusterOptions, runner, tests};

fn main() -> ExitCode {
    let tests = tests![start::both_nodes_become_ready];
    runner::main(tests, || Cluster::start(ClusterOptions { agent: true, ..ClusterOptions::default() }))
}
