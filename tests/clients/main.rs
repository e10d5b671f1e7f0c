//! The client suite: an API server without nodes, driven by stock kubectl, the
//! Python client and the JavaScript client. What needs running pods is in the
//! cluster suite. At the end the server moves from one datastore to the next.

mod datastores;
mod kubectl;
mod libraries;

use std::{fs, path::Path, process::ExitCode};

use anyhow::Result;
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
        kubectl::policies,
        kubectl::claims,
        kubectl::bootstrap,
        libraries::the_python_client_drives_the_server,
        libraries::the_javascript_client_drives_the_server,
        datastores::a_server_runs_on_postgres,
        datastores::a_server_runs_on_mariadb,
        datastores::a_server_runs_on_an_etcd,
    ];
    runner::main_with(tests, start, Cluster::last_log_lines)
}

/// A server that notes in the audit log what admission policies say about configmaps.
fn start() -> Result<Cluster> {
    const POLICY: &str = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [
        {level: Metadata, namespaces: [policies], resources: [{group: '', resources: [configmaps]}]}]}";
    let folder = Cluster::folder();
    fs::create_dir_all(&folder)?;
    let policy = folder.join("audit-policy.yaml");
    fs::write(&policy, POLICY)?;
    let argument = |name: &str, path: &Path| format!("--kube-apiserver-arg={name}={}", path.display());
    let server_arguments =
        vec![argument("audit-policy-file", &policy), argument("audit-log-path", &folder.join("audit.log"))];
    Cluster::start(ClusterOptions { without_nodes: true, server_arguments, ..ClusterOptions::default() })
}
