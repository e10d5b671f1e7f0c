//! Client libraries of other languages, installed below `target/tools` from
//! their languages' own package registries: once, by `cargo xtask setup
//! --tests` or by the first test that needs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{Cluster, host::text, image::BUSYBOX};

/// The Python client and the newest version the tests were written for.
const PYTHON: &str = "kubernetes>=33,<38";
/// The JavaScript client; later major versions need a newer Node.js than Debian's.
const JAVASCRIPT: &str = "@kubernetes/client-node@^1.4";

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools")
}

/// The interpreter of an environment that has the Python client.
pub fn python() -> Result<PathBuf> {
    let folder = tools().join("python");
    let interpreter = folder.join("bin/python3");
    install(&folder, || {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet", PYTHON]))
    })?;
    Ok(interpreter)
}

/// Helm as a library for x86-64: its own Go code behind a C interface, in a
/// package for a newer Python than Debian's, whose Python part is not used.
const HELM: &str = "helm-sdkpy==0.1.32";

/// The library with Helm.
pub fn helm() -> Result<PathBuf> {
    let folder = tools().join("helm");
    install(&folder, || {
        let options = ["-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python", "--target"];
        run(Command::new(python()?).args(options).arg(&folder).arg(HELM))
    })?;
    Ok(folder.join("helm_sdkpy/_lib/linux-amd64/libhelm_sdkpy.so"))
}

/// A folder whose `node_modules` has the JavaScript client.
pub fn javascript() -> Result<PathBuf> {
    let folder = tools().join("javascript");
    install(&folder, || {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
        let options = ["install", "--no-audit", "--no-fund", "--loglevel=error"];
        run(Command::new("npm").args(options).arg(JAVASCRIPT).current_dir(&folder))
    })?;
    Ok(folder)
}

/// Runs a script with the Python client against a cluster, in a namespace of its own.
pub fn drive_python(cluster: &mut Cluster, name: &str) -> Result<()> {
    let interpreter = python()?;
    drive(cluster, "python", Command::new(interpreter).arg(script("python", name)))
}

/// Runs the script that drives Helm.
pub fn drive_helm(cluster: &mut Cluster) -> Result<()> {
    let (interpreter, library) = (python()?, helm()?);
    drive(cluster, "helm", Command::new(interpreter).arg(script("python", "helm.py")).env("HELM", library))
}

/// Runs a script with the JavaScript client.
pub fn drive_javascript(cluster: &mut Cluster, name: &str) -> Result<()> {
    // Modules are found from the folder of the script that asks for them.
    let copy = javascript()?.join(name);
    fs::copy(script("javascript", name), &copy)?;
    drive(cluster, "javascript", Command::new("node").arg(copy))
}

fn script(language: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language).join(name)
}

/// Runs a program in the server's network.
fn drive(cluster: &mut Cluster, language: &str, program: &mut Command) -> Result<()> {
    cluster.in_namespace(language, |cluster, kubectl| {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &cluster.server.pid().to_string(), "-n", "--", "timeout", "400"])
            .arg(program.get_program())
            .args(program.get_args())
            .arg(language)
            .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("KUBECONFIG", &kubectl.kubeconfig)
            .env("BUSYBOX", BUSYBOX);
        text(&format!("the {language} client"), command.output()?).map(drop)
    })
}

/// Installs unless an earlier installation came to its end.
fn install(folder: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = folder.join(".installed");
    if done.exists() {
        return Ok(());
    }
    work().with_context(|| format!("install packages into {}", folder.display()))?;
    Ok(fs::write(done, "")?)
}

fn run(command: &mut Command) -> Result<()> {
    let what = format!("{command:?}");
    let output = command.output().with_context(|| format!("run {what}"))?;
    text(&what, output).map(drop)
}
