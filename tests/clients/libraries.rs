//! Client libraries of other languages, each driven by a script of ours.

use std::{path::Path, process::Command};

use anyhow::Result;
use skiff_tests::{Cluster, host::text, image::BUSYBOX, packages};

pub fn the_python_client_drives_the_server(cluster: &mut Cluster) -> Result<()> {
    let interpreter = packages::python()?;
    run(cluster, "python", Command::new(interpreter).arg(script("python/client.py")))
}

pub fn the_javascript_client_drives_the_server(cluster: &mut Cluster) -> Result<()> {
    let folder = packages::javascript()?;
    // Modules are found from the folder of the script that asks for them.
    let copy = folder.join("client.mjs");
    std::fs::copy(script("javascript/client.mjs"), &copy)?;
    run(cluster, "javascript", Command::new("node").arg(copy))
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Runs a program in the server's network with a namespace of its own.
fn run(cluster: &mut Cluster, name: &str, program: &mut Command) -> Result<()> {
    cluster.in_namespace(name, |cluster, kubectl| {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &cluster.server.pid().to_string(), "-n", "--", "timeout", "180"])
            .arg(program.get_program())
            .args(program.get_args())
            .arg(name)
            .env("KUBECONFIG", &kubectl.kubeconfig)
            .env("BUSYBOX", BUSYBOX);
        text(&format!("the {name} client"), command.output()?).map(drop)
    })
}
