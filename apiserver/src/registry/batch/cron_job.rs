//! CronJobs.

use serde_json::{Value, json};
use skiff_api::Cause;

use super::{cron_schedule, job::job_spec};
use crate::registry::{
    core::pod::defaults,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, numbers::non_negative},
    value::{child, default, default_text, existing, field, flag, name, set, text},
};

/// Eleven characters of the name of each job are its time.
const NAME_BYTES_MAX: usize = 52;

pub struct CronJobStrategy;

impl Strategy for CronJobStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        let spec = child(object, "spec");
        default_text(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = existing(spec, "jobTemplate")
            .and_then(|template| existing(template, "spec"))
            .and_then(|spec| existing(spec, "template"))
        {
            defaults::template(template);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            set(object, "status", json!({}));
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if matches!(op, Operation::Create | Operation::Update { .. }) {
            spec(&mut errors, &object["spec"]);
        }
        if op.is_create() && name(object).len() > NAME_BYTES_MAX {
            let metadata = Path::new("metadata");
            errors.invalid(
                &metadata.child("name"),
                name(object),
                format!("must be no more than {NAME_BYTES_MAX} characters"),
            );
        }
        errors.into_causes()
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    match text(spec, "schedule") {
        "" => errors.required(&path.child("schedule"), ""),
        schedule if schedule.contains("TZ") => {
            errors.invalid(
                &path.child("schedule"),
                schedule,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        }
        schedule => {
            if let Some(why) = cron_schedule::check(schedule) {
                errors.invalid(&path.child("schedule"), schedule, why);
            }
        }
    }
    if let Some(zone) = field(spec, "timeZone").and_then(Value::as_str)
        && (zone.eq_ignore_ascii_case("local") || jiff::tz::TimeZone::get(zone).is_err())
    {
        errors.invalid(&path.child("timeZone"), zone, format!("unknown time zone {zone}"));
    }
    for number in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        non_negative(errors, &path.child(number), &spec[number]);
    }
    errors.one_of(&path.child("concurrencyPolicy"), text(spec, "concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let template = path.child("jobTemplate");
    let job_path = template.child("spec");
    let job = &spec["jobTemplate"]["spec"];
    if flag(job, "manualSelector") {
        errors.not_supported(&job_path.child("manualSelector"), true, &["nil", "false"]);
    }
    job_spec(errors, &job_path, job, false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong};

    fn cron(schedule: &str, zone: Option<&str>) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}})
    }

    #[test]
    fn a_cron_job_is_completed() {
        let object = made(&CronJobStrategy, cron("* * * * *", None));
        let spec = &object["spec"];
        assert_eq!(
            (&spec["concurrencyPolicy"], &spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]),
            (&json!("Allow"), &json!(3), &json!(1))
        );
        assert!(wrong(&CronJobStrategy, cron("*/5 * * * *", Some("UTC"))).is_empty());
    }

    #[test]
    fn schedules_and_zones_must_exist() {
        assert_eq!(wrong(&CronJobStrategy, cron("", None)), ["spec.schedule: Required value"]);
        assert_eq!(
            wrong(&CronJobStrategy, cron("* * * * *", Some("Mars/Base"))),
            ["spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base"]
        );
        let mut long = cron("@daily", None);
        long["metadata"]["name"] = json!("a".repeat(53));
        assert_eq!(wrong(&CronJobStrategy, long).len(), 1);
    }
}
