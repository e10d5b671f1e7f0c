//! `skiff payload`: puts a folder of tools behind a binary.

use std::{path::PathBuf, process::ExitCode};

use clap::ArgMatches;

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let path = |name: &str| {
        let found = matches.get_one::<PathBuf>(name).cloned();
        found.ok_or_else(|| anyhow::anyhow!("--{name} is missing"))
    };
    let level = matches.get_one::<i32>("level").copied().unwrap_or(3);
    let input = path("input")?;
    let output = path("output")?;
    let bytes = crate::payload::assemble(&input, &path("folder")?, &output, level)?;
    println!("{}: payload of {} KiB", output.display(), bytes / 1024);
    Ok(ExitCode::SUCCESS)
}
