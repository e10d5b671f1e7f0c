//! `skiff version`.

use std::process::ExitCode;

use clap::ArgMatches;
use serde_json::json;

use crate::version::{COMMIT, VERSION};

pub fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let fields = json!({
        "version": VERSION,
        "kubernetes": VERSION.split('+').next().unwrap_or(VERSION),
        "commit": COMMIT,
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    });
    match matches.get_one::<String>("output").map(String::as_str) {
        Some("json") => println!("{}", serde_json::to_string_pretty(&fields)?),
        Some("yaml") => {
            for (name, value) in fields.as_object().into_iter().flatten() {
                println!("{name}: {}", value.as_str().unwrap_or_default());
            }
        }
        _ => println!("skiff {VERSION} {}", fields["platform"].as_str().unwrap_or_default()),
    }
    Ok(ExitCode::SUCCESS)
}
