//! How the release binary is linked: small. Functions that were compiled to the
//! same code by several crates are folded into one, and relative relocations
//! are packed. Both want the linker that Rust brings for this target; others
//! link as they do by default, to a larger binary.
//!
//! And what it says of itself: the commit it was made from and that commit's
//! time, so that two builds of one commit are the same. `SKIFF_GIT_COMMIT` and
//! `SOURCE_DATE_EPOCH` say it where there is no repository. Other profiles say
//! nothing, because they would be built anew after every commit.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|have| have == value);
    let is_release = is("PROFILE", "release");
    if is_release && is("TARGET", "x86_64-unknown-linux-gnu") {
        for argument in ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
    origin(is_release);
}

/// Tells the program where it comes from; empty where nobody knows.
fn origin(is_release: bool) {
    let (mut commit, mut epoch, mut state) = (String::new(), String::new(), "");
    if is_release {
        println!("cargo:rerun-if-changed=../.git/HEAD");
        println!("cargo:rerun-if-changed=../.git/logs/HEAD");
        commit = git(&["rev-parse", "HEAD"]);
        epoch = git(&["log", "-1", "--format=%ct"]);
        if !commit.is_empty() {
            state = if git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() { "clean" } else { "dirty" };
        }
    }
    let given = |name: &str, found: String| {
        println!("cargo:rerun-if-env-changed={name}");
        env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or(found)
    };
    println!("cargo:rustc-env=SKIFF_COMMIT={}", given("SKIFF_GIT_COMMIT", commit));
    println!("cargo:rustc-env=SKIFF_EPOCH={}", given("SOURCE_DATE_EPOCH", epoch));
    println!("cargo:rustc-env=SKIFF_TREE={state}");
}

fn git(words: &[&str]) -> String {
    let output = Command::new("git").args(words).output().ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
