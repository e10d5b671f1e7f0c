//! The command-line parser, built from the flag table.
//!
//! Configuration files become arguments placed right after the sub-command, as
//! in K3s: the command line wins for single values and adds to lists.

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, ArgAction, Command};

use super::{FLAGS, Flag, Scope, Value};
use crate::config::{ConfigError, file_arguments};

/// The whole command-line grammar.
pub fn command() -> Command {
    Command::new("skiff")
        .about("Kubernetes in one small binary")
        .version(crate::version::VERSION)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(110)
        .subcommand(with_flags(
            Command::new("server").about("Run a control plane, and a node unless --disable-agent is given"),
            true,
        ))
        .subcommand(with_flags(Command::new("agent").about("Run a node that joins a server"), false))
        .subcommand(
            Command::new("kubectl")
                .about("Run kubectl with the cluster's kubeconfig")
                .disable_help_flag(true)
                .arg(Arg::new("arguments").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true)),
        )
        .subcommand(crate::commands::kine::command(
            ["verbose", "log-level", "log-format"].map(|name| flag_argument(flag(name)).help_heading("Log")),
        ))
        .subcommand(crate::commands::datastore::command())
        .subcommand(Command::new("version").about("Show the version").arg(
            Arg::new("output").short('o').long("output").value_parser(["text", "json", "yaml"]).default_value("text"),
        ))
        .subcommand(
            Command::new("killall")
                .about("End all pods of this host and remove the mounts, links and tables that Skiff owns")
                .arg(flag_argument(flag("data-dir")))
                .arg(
                    Arg::new("dry-run")
                        .long("dry-run")
                        .action(ArgAction::SetTrue)
                        .help("Only show what would be removed"),
                ),
        )
        .subcommand(
            Command::new("payload")
                .about("Put a folder of tools behind a binary, to be unpacked on first start")
                .arg(path_argument("input", "The binary"))
                .arg(path_argument("folder", "Folder whose content becomes the payload; programs go to bin/"))
                .arg(path_argument("output", "The binary with its payload"))
                .arg(
                    Arg::new("level")
                        .long("level")
                        .value_parser(clap::value_parser!(i32).range(1..=19))
                        .default_value("3")
                        .help("zstd level: 1 is fast, 19 is small"),
                ),
        )
        .subcommand(
            Command::new("completion").about("Print a shell completion script").arg(
                Arg::new("shell")
                    .required(true)
                    .value_parser(clap::value_parser!(clap_complete::Shell))
                    .help("bash, zsh, fish, elvish or powershell"),
            ),
        )
}

fn path_argument(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("PATH").required(true).help(help).value_parser(clap::value_parser!(PathBuf))
}

fn flag(name: &str) -> &'static Flag {
    FLAGS.iter().find(|flag| flag.name == name).expect("the name stands in the table")
}

fn with_flags(command: Command, server: bool) -> Command {
    let wanted = |flag: &&Flag| match flag.scope {
        Scope::Node => true,
        Scope::Server => server,
        Scope::Agent => !server,
    };
    FLAGS.iter().filter(wanted).fold(command, |command, flag| command.arg(flag_argument(flag)))
}

fn flag_argument(flag: &'static Flag) -> Arg {
    let mut argument = Arg::new(flag.name).long(flag.name).help(flag.help).help_heading(flag.group);
    argument = argument.env(flag.environment_variable());
    if let Some(letter) = flag.short {
        argument = argument.short(letter);
    }
    if flag.name == "verbose" {
        argument = argument.short('v');
    }
    if !flag.default.is_empty() {
        argument = argument.default_value(flag.default);
    }
    match flag.value {
        Value::Switch => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("BOOL")
            .default_missing_value("true")
            .value_parser(["true", "false"])
            .hide_possible_values(true)
            .overrides_with(flag.name),
        Value::One(name) => argument.action(ArgAction::Set).value_name(name).overrides_with(flag.name),
        Value::Many(name) => argument.action(ArgAction::Append).value_name(name).value_delimiter(','),
    }
}

/// Inserts the arguments that configuration files stand for right after the
/// sub-command. Commands without a configuration file are left alone.
pub fn expand_arguments(arguments: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    let verb = arguments.get(1).and_then(|verb| verb.to_str());
    let Some(verb @ ("server" | "agent")) = verb else { return Ok(arguments) };
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        return Ok(arguments);
    }
    let (path, explicit) = config_path(&arguments);
    let from_files = file_arguments(&path, explicit, verb == "server")?;
    let mut expanded = arguments;
    let rest = expanded.split_off(2);
    expanded.extend(from_files.into_iter().map(OsString::from));
    expanded.extend(rest);
    Ok(expanded)
}

/// Where the configuration file is, read before parsing proper.
fn config_path(arguments: &[OsString]) -> (PathBuf, bool) {
    let config = flag("config");
    let mut previous = "";
    for argument in arguments.iter().filter_map(|argument| argument.to_str()) {
        if let Some(path) = argument.strip_prefix("--config=").or_else(|| argument.strip_prefix("-c=")) {
            return (path.into(), true);
        }
        if previous == "--config" || previous == "-c" {
            return (argument.into(), true);
        }
        previous = argument;
    }
    match std::env::var_os(config.environment_variable()) {
        Some(path) => (path.into(), true),
        None => (config.default.into(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn settings(arguments: &[&str]) -> Settings {
        let matches = command().try_get_matches_from(arguments).unwrap();
        Settings::from_matches(matches.subcommand().unwrap().1)
    }

    #[test]
    fn the_grammar_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn later_single_values_win_and_lists_add_up() {
        let settings = settings(&[
            "skiff",
            "server",
            "--cluster-domain=a",
            "--tls-san=x,y",
            "--cluster-domain",
            "b",
            "--tls-san",
            "z",
            "--disable-agent",
            "--disable-agent=false",
        ]);
        assert_eq!(settings.text("cluster-domain"), Some("b"));
        assert_eq!(settings.many("tls-san"), ["x", "y", "z"]);
        assert!(!settings.switch("disable-agent"));
        assert_eq!(settings.text("service-cidr"), Some("10.43.0.0/16"));
        assert_eq!(settings.text("node-name"), None);
    }
}
