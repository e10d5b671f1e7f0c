//! Creates Jobs on a schedule.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_api::GroupResource;
use skiff_client::{Context, Controller, DeleteOptions, ObjectRef, Outcome, PropagationPolicy, Snapshot, Trigger};

use crate::{
    cron_schedule::Schedule,
    seen::{self, Seen},
    write,
};

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed starts than this are worth a warning.
const MISSED_MAX: usize = 100;

/// Cron jobs whose last missed start is remembered. More: all are forgotten, and told of once more.
const MEMORY_MAX: usize = 10_000;

#[derive(Default)]
pub struct CronJobController {
    /// The missed start that each was last told of: the status has no place for it, and a start that stays missed is seen
    /// at every look until the next.
    told: Mutex<HashMap<ObjectRef, Timestamp>>,
}

impl CronJobController {
    /// Whether a missed start is news.
    fn is_news(&self, key: &ObjectRef, missed: Timestamp) -> bool {
        let mut told = self.told.lock();
        if told.len() >= MEMORY_MAX && !told.contains_key(key) {
            told.clear();
        }
        told.insert(key.clone(), missed) != Some(missed)
    }
}

impl Controller for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<CronJob>(), Trigger::owner::<Job>("CronJob")]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Job>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(cron) = seen::get::<CronJob>(world, &key.namespace, &key.name) else {
            self.told.lock().remove(key);
            return outcome;
        };
        let (spec, Ok(value)) = (cron.typed.spec.clone(), cron.object.value()) else { return outcome };
        let mut jobs = seen::list::<Job>(world, Some(&key.namespace));
        jobs.retain(|job| job.is_controlled_by(cron.uid()));
        let mut pass = Pass { cron, spec, value, jobs, now: context.now, missed: None };
        pass.run(&mut outcome);
        if let Some(missed) = pass.missed.filter(|missed| self.is_news(key, *missed)) {
            let at = missed.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {at}");
            outcome.events.push(write::warning(&pass.cron.object, "MissSchedule", message));
        }
        outcome
    }
}

struct Pass {
    cron: Seen<CronJob>,
    spec: CronJobSpec,
    value: Value,
    jobs: Vec<Seen<Job>>,
    now: Timestamp,
    /// The latest start, if its deadline has passed.
    missed: Option<Timestamp>,
}

impl Pass {
    fn run(&mut self, outcome: &mut Outcome) {
        let mut status = self.value["status"].clone();
        if !status.is_object() {
            status = json!({});
        }
        self.note_ends(&mut status, outcome);
        if !self.cron.is_deleting() {
            self.limit_history(outcome);
            if self.spec.suspend != Some(true) {
                self.start_due(&mut status, outcome);
            }
        }
        if status["active"].as_array().is_some_and(Vec::is_empty)
            && let Some(fields) = status.as_object_mut()
        {
            fields.remove("active");
        }
        let body = write::with_status(&self.cron.object, status);
        outcome.operations.extend(body.map(|body| write::update_status::<CronJob>(&self.cron.object, body)));
    }

    /// Brings the list of running jobs up to date.
    fn note_ends(&self, status: &mut Value, outcome: &mut Outcome) {
        let known = status["active"].as_array().cloned().unwrap_or_default();
        let mut active: Vec<Value> = Vec::new();
        for job in &self.jobs {
            let was_known = known.iter().any(|reference| reference["uid"] == job.uid());
            match end(job) {
                None => active.push(reference(job)),
                Some((kind, at)) => {
                    if was_known {
                        let message = format!("Saw completed job: {}, condition: {kind}", job.name());
                        outcome.events.push(write::normal(&self.cron.object, "SawCompletedJob", message));
                    }
                    let last = status["lastSuccessfulTime"].as_str().and_then(write::parse_time);
                    if kind == "Complete" && at > last {
                        status["lastSuccessfulTime"] = json!(at.map(write::time));
                    }
                }
            }
        }
        for gone in known.iter().filter(|reference| !self.jobs.iter().any(|job| reference["uid"] == job.uid())) {
            let name = gone["name"].as_str().unwrap_or_default();
            let message = format!("Active job went missing: {name}");
            outcome.events.push(write::normal(&self.cron.object, "MissingJob", message));
        }
        status["active"] = active.into();
    }

    /// Deletes ended jobs beyond the history limits, oldest first.
    fn limit_history(&self, outcome: &mut Outcome) {
        for (kind, limit) in [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ] {
            let mut ended: Vec<&Seen<Job>> =
                self.jobs.iter().filter(|job| end(job).is_some_and(|(have, _)| have == kind)).collect();
            ended.sort_by_key(|job| (started(job), job.name().to_owned()));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in ended.into_iter().take(surplus).filter(|job| !job.is_deleting()) {
                self.delete(job, outcome);
            }
        }
    }

    fn delete(&self, job: &Seen<Job>, outcome: &mut Outcome) {
        let options = DeleteOptions {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteOptions::with_uid(&job.meta().uid)
        };
        outcome.push(write::delete_with::<Job>(&job.object, options));
        let message = format!("Deleted job {}", job.name());
        outcome.events.push(write::normal(&self.cron.object, "SuccessfulDelete", message));
    }

    fn start_due(&mut self, status: &mut Value, outcome: &mut Outcome) {
        let schedule = match Schedule::parse(&self.spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", self.spec.schedule);
                outcome.events.push(write::warning(&self.cron.object, "UnparseableSchedule", message));
                return;
            }
        };
        let zone = match self.spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(_) => {
                    let message = format!("invalid timeZone: {name:?}");
                    outcome.events.push(write::warning(&self.cron.object, "UnknownTimeZone", message));
                    return;
                }
            },
        };
        if let Some(next) = schedule.next(self.now, &zone) {
            let rest = Duration::try_from(next.duration_since(self.now)).unwrap_or_default();
            outcome.requeue_after = Some(rest + Duration::from_millis(100));
        }
        let Some(due) = self.due(&schedule, &zone, status, outcome) else { return };
        let name = format!("{}-{}", self.cron.name(), due.as_second() / 60);
        if self.jobs.iter().any(|job| job.name() == name) {
            status["lastScheduleTime"] = write::time(due).into();
            return;
        }
        let running = status["active"].as_array().is_some_and(|active| !active.is_empty());
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if running => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                outcome.events.push(write::normal(&self.cron.object, "JobAlreadyActive", message));
                return;
            }
            Some("Replace") => {
                for job in self.jobs.iter().filter(|job| end(job).is_none()) {
                    self.delete(job, outcome);
                }
            }
            _ => {}
        }
        outcome.push(write::create::<Job>(self.cron.namespace(), self.job(&name, due, &zone)));
        let message = format!("Created job {name}");
        outcome.events.push(write::normal(&self.cron.object, "SuccessfulCreate", message));
        status["lastScheduleTime"] = write::time(due).into();
    }

    /// The latest start that is due and not too late.
    fn due(
        &mut self,
        schedule: &Schedule,
        zone: &TimeZone,
        status: &Value,
        outcome: &mut Outcome,
    ) -> Option<Timestamp> {
        let created = self.cron.meta().creation_timestamp.as_deref().and_then(write::parse_time)?;
        let last = status["lastScheduleTime"].as_str().and_then(write::parse_time).unwrap_or(created);
        let deadline = self.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        let earliest = deadline.map_or(last, |deadline| last.max(self.now - deadline));
        let mut due = None;
        let mut missed = 0;
        let mut at = earliest;
        while let Some(next) = schedule.next(at, zone).filter(|next| *next <= self.now) {
            missed += 1;
            if missed > MISSED_MAX {
                let message =
                    "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                outcome.events.push(write::warning(&self.cron.object, "TooManyMissedTimes", message));
                // Only the latest start matters; it is found from the end.
                return schedule.previous(self.now, zone);
            }
            due = Some(next);
            at = next;
        }
        if due.is_none() && deadline.is_some() {
            self.missed = schedule.previous(self.now, zone).filter(|start| *start > last);
        }
        due
    }

    fn job(&self, name: &str, due: Timestamp, zone: &TimeZone) -> Value {
        let template = &self.value["spec"]["jobTemplate"];
        let mut metadata = json!({
            "name": name,
            "namespace": self.cron.namespace(),
            "ownerReferences": [write::controller_reference(&self.cron.object)],
            "annotations": template["metadata"]["annotations"],
        });
        if !template["metadata"]["labels"].is_null() {
            metadata["labels"] = template["metadata"]["labels"].clone();
        }
        metadata["annotations"][SCHEDULED_AT] = local_time(due, zone).into();
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
    }
}

/// RFC 3339 in the zone of the schedule.
fn local_time(at: Timestamp, zone: &TimeZone) -> String {
    let local = at.to_zoned(zone.clone());
    if local.offset().is_zero() { write::time(at) } else { local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string() }
}

/// How and when a job ended.
fn end(job: &Seen<Job>) -> Option<(&'static str, Option<Timestamp>)> {
    let conditions = job.typed.status.as_ref()?.conditions.as_ref()?;
    ["Complete", "Failed"].into_iter().find_map(|kind| {
        let end = conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?;
        Some((kind, end.last_transition_time.as_ref().map(|time| time.0)))
    })
}

fn started(job: &Seen<Job>) -> Option<Timestamp> {
    job.typed.status.as_ref()?.start_time.as_ref().map(|time| time.0)
}

fn reference(job: &Seen<Job>) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "namespace": job.namespace(),
        "name": job.name(),
        "uid": job.uid(),
        "resourceVersion": job.meta().resource_version,
    })
}
