//! Client libraries of other languages, installed below `target/tools` from
//! their languages' own package registries: once, by `cargo xtask setup
//! --tests` or by the first test that needs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::host::text;

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
