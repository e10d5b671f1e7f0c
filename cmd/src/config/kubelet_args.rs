//! `--kubelet-arg name=value`: arguments of upstream's node agent that have a
//! meaning here and no flag of their own.

use skiff_agent::EvictionThresholds;

use crate::flags::{Settings, SettingsError};

const FLAG: &str = "kubelet-arg";

/// Reads the arguments; one that means nothing here is refused, so that nobody relies on it in vain.
pub fn eviction(settings: &Settings) -> Result<EvictionThresholds, SettingsError> {
    let mut eviction = EvictionThresholds::default();
    for argument in settings.many(FLAG) {
        let text = argument.trim_start_matches("--");
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let wrong = |why: String| SettingsError::new(FLAG, format!("{name}: {why}"));
        match name {
            "eviction-hard" => eviction = EvictionThresholds::parse(value).map_err(|error| wrong(error.to_string()))?,
            "max-pods" => return Err(wrong("use the flag max-pods".to_owned())),
            _ => return Err(wrong("this argument has no meaning for Skiff's node agent".to_owned())),
        }
    }
    Ok(eviction)
}
