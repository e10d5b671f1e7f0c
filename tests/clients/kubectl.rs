//! Every command of kubectl, as transcripts in `kubectl/*.txt`: each runs in a
//! namespace and a folder of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use skiff_tests::{Cluster, transcript};

/// Declares a test for each transcript of that name.
macro_rules! transcripts {
    ($($name:ident),* $(,)?) => {
        $(pub fn $name(cluster: &mut Cluster) -> Result<()> {
            run(cluster, stringify!($name))
        })*
    };
}

transcripts! {
    discovery, explain, create, get, watch, describe, apply, server_side_apply, prune, patch_and_edit, labels,
    scale_and_rollout, set, delete, wait, access, certificates, nodes, pods, events, local, errors, policies, claims,
    bootstrap,
}

fn run(cluster: &mut Cluster, name: &str) -> Result<()> {
    let namespace = name.replace('_', "-");
    cluster.in_namespace(&namespace, |cluster, kubectl| {
        let folder = cluster.folder.join(&namespace);
        // A second attempt begins anew.
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let programs = folder.join(".bin");
        fs::create_dir_all(&programs)?;
        std::os::unix::fs::symlink(fs::canonicalize(find(&kubectl.program)?)?, programs.join("kubectl"))?;
        let kubeconfig = folder.join(".kubeconfig");
        fs::copy(&kubectl.kubeconfig, &kubeconfig)?;
        let mut own = kubectl.clone();
        own.kubeconfig = kubeconfig;
        own.namespace = None;
        own.run(&["config", "set-context", "--current", "--namespace", &namespace])?;
        own.run(&["wait", "--for=create", "serviceaccount/default", "--timeout=60s"])?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let shell = |script: &str| {
            let mut command = Command::new("nsenter");
            command
                .args(["-t", &cluster.server.pid().to_string(), "-n", "--", "timeout", "60", "bash", "-c", script])
                .env("KUBECONFIG", &own.kubeconfig)
                .env("HOME", &folder)
                .env("PATH", &path)
                .current_dir(&folder)
                .stdin(Stdio::null());
            command
        };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("clients/kubectl/{name}.txt"));
        transcript::run(&file, shell)
    })
}

/// A program given by path or to be looked up.
fn find(program: &Path) -> Result<std::path::PathBuf> {
    if program.components().count() > 1 {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("{} is not in PATH", program.display()))
}
