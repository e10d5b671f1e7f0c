//! CronJobs: the minute, and what happens when the last job still runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::path_of;
use crate::{
    api::{name, uid},
    context::{Context, brief, consistently},
    pods::shell,
};

crate::rows! { "apps";
    "CronJob" {
        "should not schedule jobs when suspended" => suspended,
        "should not schedule new jobs when ForbidConcurrent" => forbid,
        "should replace jobs when ReplaceConcurrent" => replace,
        "should schedule multiple jobs concurrently" => allow,
    }
}

/// Every minute something is due; two may pass until two jobs run.
const LIMIT: Duration = Duration::from_secs(240);
/// At least one minute begins within this.
const NEXT_MINUTE: Duration = Duration::from_secs(75);

async fn create(context: &Context, policy: &str, suspend: bool) -> Result<(String, String)> {
    let namespace = context.namespace().await?;
    let path = path_of(&namespace, "cronjobs");
    let template = json!({"spec": {"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 1,
        "containers": [shell(context, "trap 'exit 0' TERM; sleep 300 & wait")]}});
    let spec = json!({"schedule": "*/1 * * * ?", "concurrencyPolicy": policy, "suspend": suspend,
        "jobTemplate": {"spec": {"template": template}}});
    context.create(&path, &json!({"metadata": {"name": "cron"}, "spec": spec})).await?;
    Ok((format!("{path}/cron"), path_of(&namespace, "jobs")))
}

fn active(cron: &Value) -> usize {
    cron["status"]["active"].as_array().map_or(0, Vec::len)
}

async fn until_active(context: &Context, path: &str, count: usize) -> Result<Value> {
    let wanted = |cron: &Value| active(cron) >= count;
    context.until_within(path, &format!("has {count} running jobs"), LIMIT, wanted).await
}

/// Jobs that have not ended.
async fn unfinished(context: &Context, jobs: &str) -> Result<Vec<Value>> {
    let mut all = context.list(jobs).await?;
    all.retain(|job| job["status"]["completionTime"].is_null() && job["metadata"]["deletionTimestamp"].is_null());
    Ok(all)
}

async fn suspended(context: Context) -> Result<()> {
    let (path, jobs) = create(&context, "Allow", true).await?;
    let quiet = || async {
        let cron = context.get(&path).await?;
        ensure!(active(&cron) == 0, "{}", brief(&cron));
        ensure!(context.list(&jobs).await?.is_empty(), "there is a job");
        Ok(())
    };
    consistently("nothing is scheduled", NEXT_MINUTE * 2, quiet).await
}

async fn forbid(context: Context) -> Result<()> {
    let (path, jobs) = create(&context, "Forbid", false).await?;
    until_active(&context, &path, 1).await?;
    ensure!(unfinished(&context, &jobs).await?.len() == 1, "not exactly one job runs");
    let alone = || async {
        let cron = context.get(&path).await?;
        ensure!(active(&cron) == 1, "{}", brief(&cron));
        let count = context.list(&jobs).await?.len();
        ensure!(count == 1, "there are {count} jobs");
        Ok(())
    };
    consistently("no second job is scheduled", NEXT_MINUTE, alone).await
}

async fn replace(context: Context) -> Result<()> {
    let (path, jobs) = create(&context, "Replace", false).await?;
    let cron = until_active(&context, &path, 1).await?;
    let first = cron["status"]["active"][0]["name"].as_str().unwrap_or_default().to_owned();
    ensure!(unfinished(&context, &jobs).await?.len() == 1, "not exactly one job runs");
    let replaced = |cron: &Value| active(cron) == 1 && cron["status"]["active"][0]["name"] != first.as_str();
    context.until_within(&path, "has another job", LIMIT, replaced).await?;
    context.until_gone(&format!("{jobs}/{first}")).await?;
    ensure!(unfinished(&context, &jobs).await?.len() == 1, "not exactly one job runs");
    Ok(())
}

async fn allow(context: Context) -> Result<()> {
    let (path, jobs) = create(&context, "Allow", false).await?;
    let cron = until_active(&context, &path, 2).await?;
    let running = unfinished(&context, &jobs).await?;
    ensure!(running.len() >= 2, "{} jobs run", running.len());
    for job in &running {
        let owner = &job["metadata"]["ownerReferences"][0];
        ensure!(owner["kind"] == "CronJob" && owner["uid"] == uid(&cron), "{} belongs to {owner}", name(job));
    }
    Ok(())
}
