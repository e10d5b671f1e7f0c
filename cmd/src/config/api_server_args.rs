//! `--kube-apiserver-arg name=value`: arguments of upstream's API server that
//! have a meaning here.

use std::{path::PathBuf, time::Duration};

use skiff_apiserver::audit::{AuditOptions, FileOptions};

use crate::flags::{Settings, SettingsError};

const FLAG: &str = "kube-apiserver-arg";
const MEGABYTE: u64 = 1 << 20;
const DAY: u64 = 86_400;

/// Reads the arguments; one that means nothing here is refused, so that nobody relies on it in vain.
pub fn audit(settings: &Settings) -> Result<Option<AuditOptions>, SettingsError> {
    let (mut policy, mut path) = (None, None);
    let (mut size, mut backups, mut days) = (100u64, 0usize, 0u64);
    for argument in settings.many(FLAG) {
        let text = argument.trim_start_matches("--");
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let wrong = |why: &str| SettingsError::new(FLAG, format!("{name}: {why}"));
        let number = || value.parse::<u64>().map_err(|_| wrong(&format!("{value:?} is not a number")));
        match name {
            "audit-policy-file" => policy = Some(PathBuf::from(value)),
            "audit-log-path" => path = Some(PathBuf::from(value)),
            "audit-log-maxsize" => size = number()?,
            "audit-log-maxbackup" => backups = usize::try_from(number()?).unwrap_or(usize::MAX),
            "audit-log-maxage" => days = number()?,
            "audit-log-format" if value == "json" => {}
            "audit-log-mode" if matches!(value, "blocking" | "batch") => {}
            "audit-log-format" | "audit-log-mode" => return Err(wrong(&format!("{value:?} is not supported"))),
            _ => return Err(wrong("this argument has no meaning for Skiff's API server")),
        }
    }
    match (policy, path) {
        (None, None) => Ok(None),
        (Some(policy), Some(path)) => Ok(Some(AuditOptions {
            policy,
            file: FileOptions {
                path,
                size_max: (size > 0).then_some(size.saturating_mul(MEGABYTE)),
                backups_max: (backups > 0).then_some(backups),
                age_max: (days > 0).then(|| Duration::from_secs(days.saturating_mul(DAY))),
            },
        })),
        _ => Err(SettingsError::new(FLAG, "audit-policy-file and audit-log-path are given together")),
    }
}
