//! Jobs and autoscalers.

use serde_json::Value;

use super::build::{Describe, row, storage_version_hash};
use crate::{printers::workloads, resource::Resource};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        row("batch", "v1", "CronJob", "cronjobs").columns(workloads::cron_jobs()).short(&["cj"]).in_all().status(),
        row("batch", "v1", "Job", "jobs")
            .columns(workloads::jobs())
            .in_all()
            .status()
            .select_by("status.successful", |job| {
                job.pointer("/status/succeeded").and_then(Value::as_i64).unwrap_or(0).to_string()
            })
            .default_orphan(),
        autoscalers("v1"),
        autoscalers("v2"),
    ]
}

/// Both versions show the same objects, stored as v2.
fn autoscalers(version: &'static str) -> Resource {
    row("autoscaling", version, "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .columns(workloads::autoscalers())
        .short(&["hpa"])
        .categories(&["all", "podautoscalers"])
        .status()
        .edit(|row| {
            row.storage_version = Some(("autoscaling".into(), "v2".into()));
            row.storage_version_hash = storage_version_hash("autoscaling", "v2", "HorizontalPodAutoscaler").into();
        })
}
