//! `skiff completion`: derived from the grammar, so it never lags behind.

use std::process::ExitCode;

use clap::ArgMatches;

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let shell = matches.get_one::<clap_complete::Shell>("shell").copied();
    let shell = shell.ok_or_else(|| anyhow::anyhow!("which shell? bash, zsh, fish, elvish or powershell"))?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::flags::command(), "skiff", &mut script);
    use std::io::Write;
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
