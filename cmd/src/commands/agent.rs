//! `skiff agent`.

use std::process::ExitCode;

use clap::ArgMatches;

use crate::{agent, config::AgentSettings, flags::Settings, logging, progress::Progress};

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let flags = Settings::from_matches(matches);
    let settings = AgentSettings::from(&flags)?;
    logging::start(&flags)?;
    let progress = Progress::new(logging::is_json(&flags));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(agent::run(settings, progress));
    // Blocking work that does not end must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}
