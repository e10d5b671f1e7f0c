//! Builds the binary and puts the payload behind it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    setup,
    shell::{find, output, root, run},
};

/// What a node runs besides Skiff.
const TOOLS: &[&str] = &["containerd", "containerd-shim-runc-v2", "ctr", "runc", "nft"];
/// Libraries that every host with a C library has.
const HOST_LIBRARIES: &[&str] = &["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"];

/// The most that the release binary may weigh before the payload.
const BINARY_MEGABYTES_MAX: f64 = 25.0;

/// How to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Release,
    Debug,
}

/// Makes `target/dist/skiff`.
pub fn dist(profile: Profile) -> Result<()> {
    let mut build = vec!["build", "--package", "skiff"];
    if profile == Profile::Release {
        build.push("--release");
    }
    run("cargo", &build)?;
    let binary = built_binary(profile)?;
    if profile == Profile::Release {
        check_size(&binary)?;
    }
    let folder = root().join("target/payload");
    collect(&folder)?;
    let target = root().join("target/dist/skiff");
    fs::create_dir_all(target.parent().context("the folder of the result")?)?;
    let level = if profile == Profile::Release { "9" } else { "1" };
    let text = |path: &Path| path.display().to_string();
    let (input, folder, result) = (text(&binary), text(&folder), text(&target));
    let arguments = ["payload", "--input", &input, "--folder", &folder, "--output", &result, "--level", level];
    run(&input, &arguments)
}

/// The binary is also a container image and an operating system's payload: it stays small.
fn check_size(binary: &Path) -> Result<()> {
    let megabytes = fs::metadata(binary)?.len() as f64 / 1e6;
    println!("the binary without payload has {megabytes:.1} MB of at most {BINARY_MEGABYTES_MAX}");
    ensure!(megabytes <= BINARY_MEGABYTES_MAX, "the release binary has outgrown its limit; see docs/performance.md");
    Ok(())
}

fn built_binary(profile: Profile) -> Result<PathBuf> {
    let folder = if profile == Profile::Release { "release" } else { "debug" };
    let version = output("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(host).join(folder).join("skiff"))
}

/// Programs to `bin`, the libraries they need beyond the C library to `lib`,
/// found through a run path relative to the program.
fn collect(folder: &Path) -> Result<()> {
    let (bin, lib) = (folder.join("bin"), folder.join("lib"));
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&lib)?;
    for tool in TOOLS {
        let source = find(tool).with_context(|| format!("{tool} is not on this host: cargo xtask setup"))?;
        let source = fs::canonicalize(source)?;
        let target = bin.join(tool);
        fs::copy(&source, &target)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        let libraries = libraries(&source)?;
        for library in &libraries {
            let name = library.file_name().context("a library has a name")?;
            fs::copy(library, lib.join(name))?;
        }
        if !libraries.is_empty() {
            let target = target.display().to_string();
            run("patchelf", &["--force-rpath", "--set-rpath", "$ORIGIN/../lib", &target])?;
        }
    }
    fs::copy(setup::kubectl()?, bin.join("kubectl"))?;
    fs::set_permissions(bin.join("kubectl"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Shared libraries of a program that not every host has.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    // A static program makes ldd fail, which is the good case.
    let Ok(text) = output("ldd", &[&program.display().to_string()]) else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        if !HOST_LIBRARIES.contains(&name) {
            let path = rest.split(' ').next().unwrap_or_default();
            found.insert(
                fs::canonicalize(path).map(|_| PathBuf::from(path)).with_context(|| format!("library {name}"))?,
            );
        }
    }
    Ok(found)
}
