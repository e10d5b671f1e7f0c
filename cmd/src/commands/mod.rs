//! The verbs of the command line, one per file.

pub mod agent;
pub mod completion;
pub mod datastore;
pub mod killall;
pub mod kine;
pub mod kubectl;
pub mod payload;
pub mod server;
mod transfer;
pub mod version;

use std::process::ExitCode;

use clap::ArgMatches;

/// Runs the verb that was matched.
pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        Some(("server", matches)) => server::run(matches),
        Some(("agent", matches)) => agent::run(matches),
        Some(("kubectl", matches)) => kubectl::run(matches),
        Some(("kine", matches)) => kine::run(matches),
        Some(("datastore", matches)) => datastore::run(matches),
        Some(("version", matches)) => version::run(matches),
        Some(("killall", matches)) => killall::run(matches),
        Some(("completion", matches)) => completion::run(matches),
        Some(("payload", matches)) => payload::run(matches),
        _ => anyhow::bail!("no such command; skiff --help lists them"),
    }
}
