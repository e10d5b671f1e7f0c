//! `skiff kubectl …`: stock kubectl from the payload or the host, with the
//! cluster's kubeconfig unless the caller chose another.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context;
use clap::ArgMatches;

use crate::{config::DEFAULT_DATA_DIR, payload, progress::Progress};

/// Where a server writes the administrator's kubeconfig by default.
const DEFAULT_KUBECONFIG: &str = "/etc/skiff/skiff.yaml";

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let arguments: Vec<OsString> =
        matches.try_get_raw("arguments").ok().flatten().into_iter().flatten().map(OsString::from).collect();
    let data_dir = std::env::var_os("SKIFF_DATA_DIR").map_or_else(|| PathBuf::from(DEFAULT_DATA_DIR), PathBuf::from);
    let binaries = payload::prepare(&data_dir, false, &Progress::new(false))?;
    let program = binaries.require("kubectl")?;
    let mut command = Command::new(&program);
    command.args(&arguments);
    let chosen = std::env::var_os("KUBECONFIG").is_some()
        || arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--kubeconfig"));
    if !chosen {
        let kubeconfig =
            std::env::var_os("SKIFF_WRITE_KUBECONFIG").map_or_else(|| PathBuf::from(DEFAULT_KUBECONFIG), PathBuf::from);
        check_readable(&kubeconfig)?;
        command.env("KUBECONFIG", kubeconfig);
    }
    // Only returns on failure.
    Err(command.exec()).with_context(|| format!("run {}", program.display()))
}

fn check_readable(kubeconfig: &Path) -> anyhow::Result<()> {
    std::fs::File::open(kubeconfig).map(drop).with_context(|| {
        format!(
            "read {}: is `skiff server` running on this host, and are you root? \
             Another kubeconfig can be given by KUBECONFIG or --kubeconfig",
            kubeconfig.display()
        )
    })
}
