//! The Skiff binary.
//!
//! Small programs that share this file (the pause process, the CNI plugin, the
//! cluster DNS server) branch on the name they were called by, before any
//! runtime or table is set up. Everything else is a verb in [`commands`].

mod agent;
mod commands;
mod config;
mod datastore;
mod deploy;
mod flags;
mod join;
mod kubeconfig;
mod logging;
mod memory;
mod node;
mod node_dialer;
mod payload;
mod pki;
mod progress;
mod server;
mod snapshots;
mod storage;
mod supervision;
mod supervisor;
mod system_image;
mod token;
mod tunnel_client;
mod version;

use std::{ffi::OsString, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called_as = arguments.first().and_then(|name| Path::new(name).file_name()).and_then(|name| name.to_str());
    match called_as {
        Some("pause") => skiff_host::pause::main(),
        Some("skiff-cni" | "loopback") => skiff_network::cni::main(),
        Some("coredns") => {
            logging::start_plain();
            skiff_network::dns::main(arguments.into_iter().skip(1))
        }
        Some("kubectl") => {
            let mut as_verb = vec![OsString::from("skiff"), OsString::from("kubectl")];
            as_verb.extend(arguments.into_iter().skip(1));
            run(as_verb)
        }
        _ => run(arguments),
    }
}

fn run(arguments: Vec<OsString>) -> ExitCode {
    let expanded = match flags::expand_arguments(arguments) {
        Ok(expanded) => expanded,
        Err(error) => return fail(&error.into()),
    };
    match commands::run(&flags::command().get_matches_from(expanded)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// One line for a person: what failed and why. Many errors show their source in
/// their own text; it is not said twice.
fn fail(error: &anyhow::Error) -> ExitCode {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("skiff: {text}");
    ExitCode::FAILURE
}
