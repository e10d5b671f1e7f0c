//! The client suite: an API server without nodes, driven by stock kubectl, the
//! Python client and the JavaScript client. What needs running pods is in the
//! cluster suite. At the end the server moves from one datastore to the next.

mod datastores;
mod kubectl;
mod libraries;

use std::process::ExitCode;

use skiff_tests::{Cluster, ClusterOptions, runner, tests};

fn main() -> ExitCode {
    let tests = tests![
        kubectl::discovery,
        kubectl::explain,
        kubectl::create,
        kubectl::get,
        kubectl::watch,
        kubectl::describe,
        kubectl::apply,
        kubectl::server_side_apply,
        kubectl::prune,
        kubectl::patch_and_edit,
        kubectl::labels,
        kubectl::scale_and_rollout,
        kubectl::set,
        kubectl::delete,
        kubectl::wait,
        kubectl::access,
        kubectl::certificates,
        kubectl::nodes,
        kubectl::pods,
        kubectl::events,
        kubectl::local,
        kubectl::errors,
        libraries::the_python_client_drives_the_server,
        libraries::the_javascript_client_drives_the_server,
        datastores::a_server_runs_on_postgres,
        datastores::a_server_runs_on_mariadb,
        datastores::a_server_runs_on_an_etcd,
    ];
    let options = ClusterOptions { without_nodes: true, ..ClusterOptions::default() };
    runner::main_with(tests, || Cluster::start(options), Cluster::last_log_lines)
}
