//! `skiff killall`: ends what runs on this host because of Skiff, and removes
//! what Skiff put into the kernel. Data stays.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ArgMatches;

use crate::{flags::Settings, node};

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if !node::is_root() {
        bail!("killall must run as root");
    }
    let settings = Settings::from_matches(matches);
    let data_dir = settings.path("data-dir").context("--data-dir is missing")?;
    let dry_run = matches.get_flag("dry-run");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(node::killall(&data_dir, dry_run))?;
    Ok(ExitCode::SUCCESS)
}
