//! Structured logs on standard error: every line names its component.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::flags::{Settings, SettingsError};

/// Sets up logging for the whole process. Without `--verbose` only problems are
/// shown, so that a person sees the steps of start-up and nothing else.
pub fn start(settings: &Settings) -> Result<(), SettingsError> {
    let base = if settings.switch("verbose") { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = match settings.text("log-level") {
        Some(text) => text.parse::<Targets>().map_err(|error| SettingsError::new("log-level", error))?,
        None => Targets::new().with_default(base),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.text("log-format") {
        Some("json") => {
            let layer = fmt::layer().json().flatten_event(true).with_target(false).with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
        Some("text") | None => {
            let colours = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_ansi(colours).with_target(false).with_writer(std::io::stderr)).try_init()
        }
        Some(other) => return Err(SettingsError::new("log-format", format!("{other:?} is not text or json"))),
    };
    started.map_err(|error| SettingsError::new("log-format", error))
}

/// Whether the start-up steps must be JSON lines too.
pub fn is_json(settings: &Settings) -> bool {
    settings.text("log-format") == Some("json")
}

/// Logs of a small program that has no settings of its own: text, from `info` up.
pub fn start_plain() {
    let layer = fmt::layer().with_ansi(false).with_target(false).with_writer(std::io::stderr);
    // A second subscriber would only be refused; the first one stays.
    let _ = tracing_subscriber::registry().with(LevelFilter::INFO).with(layer).try_init();
}
