//! `--kube-apiserver-arg name=value`: arguments of upstream's API server that
//! have a meaning here.

use std::{path::PathBuf, time::Duration};

use skiff_api::timestamp;
use skiff_apiserver::audit::{AuditOptions, FileOptions, WebhookOptions};

use crate::flags::{Settings, SettingsError};

const FLAG: &str = "kube-apiserver-arg";
const MEGABYTE: u64 = 1 << 20;
const DAY: u64 = 86_400;

/// Reads the arguments; one that means nothing here is refused, so that nobody relies on it in vain.
pub fn audit(settings: &Settings) -> Result<Option<AuditOptions>, SettingsError> {
    let (mut policy, mut path) = (None, None);
    let (mut size, mut backups, mut days) = (100u64, 0usize, 0u64);
    // Upstream's defaults.
    let mut webhook = WebhookOptions {
        kubeconfig: PathBuf::new(),
        blocking: false,
        batch_max: 400,
        wait_max: Duration::from_secs(30),
        backoff: Duration::from_secs(10),
    };
    for argument in settings.many(FLAG) {
        let text = argument.trim_start_matches("--");
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let wrong = |why: &str| SettingsError::new(FLAG, format!("{name}: {why}"));
        let number = || value.parse::<u64>().map_err(|_| wrong(&format!("{value:?} is not a number")));
        let duration = || {
            timestamp::parse_duration(value)
                .ok()
                .and_then(|text| Duration::try_from(text).ok())
                .ok_or_else(|| wrong(&format!("{value:?} is not a duration")))
        };
        match name {
            "audit-policy-file" => policy = Some(PathBuf::from(value)),
            "audit-log-path" => path = Some(PathBuf::from(value)),
            "audit-log-maxsize" => size = number()?,
            "audit-log-maxbackup" => backups = usize::try_from(number()?).unwrap_or(usize::MAX),
            "audit-log-maxage" => days = number()?,
            "audit-log-format" if value == "json" => {}
            "audit-log-mode" if matches!(value, "blocking" | "batch") => {}
            "audit-webhook-config-file" => webhook.kubeconfig = PathBuf::from(value),
            "audit-webhook-mode" if matches!(value, "blocking" | "batch") => webhook.blocking = value == "blocking",
            "audit-webhook-batch-max-size" => {
                webhook.batch_max = usize::try_from(number()?).unwrap_or(usize::MAX).max(1)
            }
            "audit-webhook-batch-max-wait" => webhook.wait_max = duration()?,
            "audit-webhook-initial-backoff" => webhook.backoff = duration()?,
            "audit-log-format" | "audit-log-mode" | "audit-webhook-mode" => {
                return Err(wrong(&format!("{value:?} is not supported")));
            }
            _ => return Err(wrong("this argument has no meaning for Skiff's API server")),
        }
    }
    let webhook = (!webhook.kubeconfig.as_os_str().is_empty()).then_some(webhook);
    match (policy, path, webhook) {
        (None, None, None) => Ok(None),
        (None, _, _) | (_, None, None) => {
            let why = "audit-policy-file is given together with audit-log-path or audit-webhook-config-file";
            Err(SettingsError::new(FLAG, why))
        }
        (Some(policy), path, webhook) => {
            let file = path.map(|path| FileOptions {
                path,
                size_max: (size > 0).then_some(size.saturating_mul(MEGABYTE)),
                backups_max: (backups > 0).then_some(backups),
                age_max: (days > 0).then(|| Duration::from_secs(days.saturating_mul(DAY))),
            });
            Ok(Some(AuditOptions { policy, file, webhook }))
        }
    }
}
