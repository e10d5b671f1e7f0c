//! Runs pods to completion.
//!
//! Every pod of a Job carries a finalizer until its end is counted, so that no
//! end is counted twice or lost:
//! 1. an ended pod's uid goes into `status.uncountedTerminatedPods`;
//! 2. its finalizer is removed;
//! 3. when that shows, the uid leaves the list and the counter rises.
//!
//! - [`tally`]: the counting, as a value;
//! - [`indexes`]: sets of completion indexes and their text form;
//! - [`policy`]: pod failure and success policies;
//! - [`orphans`]: pods whose job is gone;
//! - this file: what to create and delete, and conditions.
//!
//! Invariants: at most `parallelism` pods run; a terminal condition comes only
//! when every pod has ended, announced before by FailureTarget or SuccessCriteriaMet.

#[cfg(test)]
mod held_tests;
mod indexes;
#[cfg(test)]
mod orphan_tests;
pub mod orphans;
mod policy;
mod tally;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec},
    core::v1::Pod,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Selector};
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Snapshot, Trigger};

use crate::{
    claim::claim_tracked,
    condition::{self, Condition},
    pod,
    seen::{self, Seen},
    template, write,
};
use indexes::Indexes;
use tally::Tally;

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_IGNORED_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// First and longest pause after failed pods.
const BACKOFF_MIN: SignedDuration = SignedDuration::from_secs(10);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(600);
/// Most pods created in one outcome.
const BURST_MAX: usize = 500;

pub struct JobController;

impl Controller for JobController {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<Job>(), Trigger::owner::<Pod>("Job"), Trigger::new::<Pod>(orphan)]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(job) = seen::get::<Job>(world, &key.namespace, &key.name) else { return outcome };
        let Some(spec) = job.typed.spec.clone() else { return outcome };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return outcome;
        }
        let Ok(value) = job.object.value() else { return outcome };
        let Some(selector) = selector(&spec) else { return outcome };
        let candidates = seen::list::<Pod>(world, Some(job.namespace()));
        let pods = claim_tracked(&job.object, &selector, candidates, FINALIZER, &mut outcome.operations);
        let conditions = condition::of(&value["status"]);
        let mut pass = Pass { job, spec, value, pods, context, conditions, deleting: Vec::new() };
        if pass.is_finished() || pass.job.is_deleting() {
            pass.release_all(&mut outcome);
            return outcome;
        }
        pass.run(&mut outcome);
        outcome
    }
}

fn selector(spec: &JobSpec) -> Option<Selector> {
    Selector::from_object(spec.selector.as_ref()).ok().filter(|selector| !selector.is_everything())
}

fn orphan(new: Option<&skiff_api::Object>, _: Option<&skiff_api::Object>, world: &Snapshot) -> Vec<ObjectRef> {
    let Some(orphan) = new.filter(|pod| pod.meta.controller().is_none() && !pod.meta.is_deleting()) else {
        return Vec::new();
    };
    seen::list::<Job>(world, Some(&orphan.meta.namespace))
        .iter()
        .filter(|job| {
            let selector = job.typed.spec.as_ref().and_then(selector);
            selector.is_some_and(|selector| selector.matches(&orphan.meta.labels))
        })
        .map(|job| ObjectRef::of(&job.object))
        .collect()
}

/// One pass over one job.
struct Pass<'a> {
    job: Seen<Job>,
    spec: JobSpec,
    value: Value,
    pods: Vec<Seen<Pod>>,
    context: &'a Context,
    conditions: Vec<Value>,
    /// Uids of pods that this pass deletes.
    deleting: Vec<String>,
}

/// How a job is to end.
struct Verdict {
    succeeded: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn failed(reason: &'static str, message: impl Into<String>) -> Option<Verdict> {
        Some(Verdict { succeeded: false, reason, message: message.into() })
    }

    fn succeeded(reason: &'static str, message: impl Into<String>) -> Option<Verdict> {
        Some(Verdict { succeeded: true, reason, message: message.into() })
    }
}

impl Pass<'_> {
    fn is_true(&self, kind: &str) -> bool {
        condition::find(&self.conditions, kind).is_some_and(|condition| condition["status"] == "True")
    }

    fn is_finished(&self) -> bool {
        self.is_true("Complete") || self.is_true("Failed")
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn active(&self) -> Vec<&Seen<Pod>> {
        let alive = |pod: &&Seen<Pod>| pod::is_active(pod) && !self.deleting.iter().any(|uid| uid == pod.uid());
        self.pods.iter().filter(alive).collect()
    }

    fn terminating(&self) -> usize {
        let going = |pod: &&Seen<Pod>| {
            !pod::is_terminal(&pod.typed) && (pod.is_deleting() || self.deleting.iter().any(|uid| uid == pod.uid()))
        };
        self.pods.iter().filter(going).count()
    }

    fn run(&mut self, outcome: &mut Outcome) {
        let mut tally = Tally::new(self);
        let mut start = self.value["status"]["startTime"].as_str().map(str::to_owned);
        if start.is_none() && !self.is_suspended() {
            start = Some(write::time(self.context.now));
        }
        let announced = self.announced();
        let verdict = match announced {
            Some(verdict) => Some(verdict),
            None => self.verdict(&tally, start.as_deref(), outcome),
        };
        if verdict.is_some() {
            tally.hold_no_more();
        }
        match &verdict {
            Some(verdict) => self.wind_up(verdict, &tally, outcome),
            None if self.is_suspended() => self.suspend(outcome, &mut start),
            None => {
                self.resume(outcome, &mut start);
                self.manage(&tally, outcome);
            }
        }
        let completion = verdict.as_ref().is_some_and(|verdict| verdict.succeeded) && self.is_true("Complete");
        let status = self.status(&tally, start, completion);
        // Bookkeeping first, so that a refused create cannot hold it up.
        let mut first: Vec<Operation> = write::with_status(&self.job.object, status)
            .map(|value| write::update_status::<Job>(&self.job.object, value))
            .into_iter()
            .collect();
        first.extend(self.release_counted(&tally));
        outcome.operations.splice(0..0, first);
    }

    /// An end that an earlier pass has decided.
    fn announced(&self) -> Option<Verdict> {
        for (kind, succeeded) in [("FailureTarget", false), ("SuccessCriteriaMet", true)] {
            let Some(condition) = condition::find(&self.conditions, kind) else { continue };
            if condition["status"] == "True" {
                let reason = policy::known_reason(condition["reason"].as_str().unwrap_or_default());
                let message = condition["message"].as_str().unwrap_or_default().to_owned();
                return Some(Verdict { succeeded, reason, message });
            }
        }
        None
    }

    fn verdict(&self, tally: &Tally, start: Option<&str>, outcome: &mut Outcome) -> Option<Verdict> {
        if let Some(message) = policy::failing_pod(&self.spec, &self.pods) {
            return Verdict::failed("PodFailurePolicy", message);
        }
        if let Some(message) = policy::success(&self.spec, &tally.completed) {
            return Verdict::succeeded("SuccessPolicy", message);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        // Pods that restart their containers themselves use up the limit by restarts.
        let restarted = self.counts_restarts() && {
            let restarts = self.restarts();
            if limit == 0 { restarts > 0 } else { restarts >= limit }
        };
        if restarted || tally.failures_that_count() > limit {
            return Verdict::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let (Some(deadline), Some(start), false) =
            (self.spec.active_deadline_seconds, start.and_then(write::parse_time), self.is_suspended())
        {
            let rest = SignedDuration::from_secs(deadline) - self.context.now.duration_since(start);
            if !rest.is_positive() {
                return Verdict::failed("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            outcome.requeue_after = sooner(outcome.requeue_after, rest);
        }
        let completions = self.spec.completions;
        if self.is_indexed() {
            let wanted = completions.unwrap_or(0);
            if let Some(most) = self.spec.max_failed_indexes
                && tally.failed_indexes.len() as i32 > most
            {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Verdict::failed("MaxFailedIndexesExceeded", message);
            }
            if self.spec.backoff_limit_per_index.is_some()
                && !tally.failed_indexes.is_empty()
                && (tally.failed_indexes.len() + tally.completed.len()) as i32 >= wanted
            {
                return Verdict::failed("FailedIndexes", "Job has failed indexes");
            }
        }
        let done = match completions {
            None => tally.succeeded > 0 && self.active().is_empty(),
            Some(wanted) if self.is_indexed() => tally.completed.len() as i32 >= wanted,
            Some(wanted) => tally.succeeded >= wanted,
        };
        let done = done && !(self.is_suspended() && completions != Some(0));
        if done {
            let message = "Reached expected number of succeeded pods";
            return Verdict::succeeded("CompletionsReached", message);
        }
        None
    }

    fn counts_restarts(&self) -> bool {
        let spec = self.spec.template.spec.as_ref();
        spec.and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure")
    }

    fn restarts(&self) -> i32 {
        let of_pod = |pod: &Seen<Pod>| {
            let status = pod.typed.status.as_ref();
            let containers = status
                .into_iter()
                .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
            containers.map(|container| container.restart_count).sum::<i32>()
        };
        let running = self.pods.iter().filter(|pod| matches!(pod::phase(&pod.typed), "Running" | "Pending"));
        running.map(of_pod).sum()
    }

    /// Ends what still runs, then says that the job has ended.
    fn wind_up(&mut self, verdict: &Verdict, tally: &Tally, outcome: &mut Outcome) {
        let (interim, last) =
            if verdict.succeeded { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        let now = self.context.now;
        let announce = Condition::new(interim, "True", verdict.reason, verdict.message.as_str());
        condition::set(&mut self.conditions, announce, now);
        let doomed: Vec<Seen<Pod>> = self.active().into_iter().cloned().collect();
        for pod in doomed {
            self.delete(&pod, outcome);
        }
        if self.terminating() == 0 && self.active().is_empty() && tally.uncounted_is_empty() {
            let end = Condition::new(last, "True", verdict.reason, verdict.message.as_str());
            condition::set(&mut self.conditions, end, now);
            let event = if verdict.succeeded {
                write::normal(&self.job.object, "Completed", "Job completed")
            } else {
                write::warning(&self.job.object, verdict.reason, verdict.message.as_str())
            };
            outcome.events.push(event);
        }
    }

    fn suspend(&mut self, outcome: &mut Outcome, start: &mut Option<String>) {
        let doomed: Vec<Seen<Pod>> = self.active().into_iter().cloned().collect();
        for pod in doomed {
            self.delete(&pod, outcome);
        }
        *start = None;
        if !self.is_true("Suspended") {
            let condition = Condition::new("Suspended", "True", "JobSuspended", "Job suspended");
            condition::set(&mut self.conditions, condition, self.context.now);
            outcome.events.push(write::normal(&self.job.object, "Suspended", "Job suspended"));
        }
    }

    fn resume(&mut self, outcome: &mut Outcome, start: &mut Option<String>) {
        if self.is_true("Suspended") {
            let condition = Condition::new("Suspended", "False", "JobResumed", "Job resumed");
            condition::set(&mut self.conditions, condition, self.context.now);
            *start = Some(write::time(self.context.now));
            outcome.events.push(write::normal(&self.job.object, "Resumed", "Job resumed"));
        }
    }

    /// Creates and deletes pods so that as many run as should.
    fn manage(&mut self, tally: &Tally, outcome: &mut Outcome) {
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let active = self.active().len() as i32;
        let wanted = match self.spec.completions {
            None if tally.succeeded > 0 => active.min(parallelism),
            None => parallelism,
            Some(completions) if self.is_indexed() => {
                (completions - (tally.completed.len() + tally.failed_indexes.len()) as i32).clamp(0, parallelism)
            }
            Some(completions) => (completions - tally.succeeded).clamp(0, parallelism),
        };
        if active > wanted {
            let mut doomed: Vec<Seen<Pod>> = self.active().into_iter().cloned().collect();
            doomed = crate::deletion_rank::sort(doomed, &Default::default(), self.context.now);
            for pod in doomed.iter().take((active - wanted) as usize) {
                self.delete(pod, outcome);
            }
            return;
        }
        let replaces_only_failed =
            self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some();
        let occupied = if replaces_only_failed { self.terminating() as i32 } else { 0 };
        let missing = (wanted - active - occupied).max(0) as usize;
        if missing == 0 {
            return;
        }
        if let Some(rest) = self.backoff(tally) {
            outcome.requeue_after = sooner(outcome.requeue_after, rest);
            return;
        }
        if self.is_indexed() {
            self.create_indexed(tally, missing, replaces_only_failed, outcome)
        } else {
            for number in 0..missing.min(BURST_MAX) {
                self.create(number, None, (0, 0), outcome);
            }
        }
    }

    /// How long to wait because of failures since the last success.
    fn backoff(&self, tally: &Tally) -> Option<SignedDuration> {
        if self.spec.backoff_limit_per_index.is_some() {
            return None;
        }
        let (failures, last) = tally.recent_failures()?;
        let pause = BACKOFF_MIN.saturating_mul(1 << (failures - 1).min(8)).min(BACKOFF_MAX);
        let rest = pause - self.context.now.duration_since(last);
        rest.is_positive().then_some(rest)
    }

    fn create_indexed(&mut self, tally: &Tally, missing: usize, waits_for_end: bool, outcome: &mut Outcome) {
        let completions = self.spec.completions.unwrap_or(0).max(0) as u32;
        let taken: Indexes = self
            .pods
            .iter()
            .filter(|pod| !pod::is_terminal(&pod.typed) && (waits_for_end || !pod.is_deleting()))
            .filter_map(index_of)
            .collect();
        let free = (0..completions).filter(|index| {
            !taken.contains(*index) && !tally.completed.contains(*index) && !tally.failed_indexes.contains(*index)
        });
        let chosen: Vec<u32> = free.take(missing.min(BURST_MAX)).collect();
        for index in chosen {
            let failures = tally.failures_of(index);
            if self.spec.backoff_limit_per_index.is_some()
                && let Some(rest) = tally.backoff_of(index, self.context.now)
            {
                outcome.requeue_after = sooner(outcome.requeue_after, rest);
                continue;
            }
            self.create(index as usize, Some(index), failures, outcome);
        }
    }

    fn create(&self, number: usize, index: Option<u32>, failures: (i32, i32), outcome: &mut Outcome) {
        let random = template::pod_name(&self.job.object, self.context.now, number);
        let mut template = self.value["spec"]["template"].clone();
        let name = match index {
            None => random,
            Some(index) => {
                let end = random.rsplit('-').next().unwrap_or_default().to_owned();
                let mut base = format!("{}-{index}", self.job.name());
                base.truncate(57);
                add_index(&mut template, index, self.spec.backoff_limit_per_index.map(|_| failures));
                template["spec"]["hostname"] = format!("{}-{index}", self.job.name()).into();
                format!("{base}-{end}")
            }
        };
        let mut pod = template::pod(&self.job.object, &template, &name);
        let mut finalizers = pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        finalizers.push(FINALIZER.into());
        pod["metadata"]["finalizers"] = finalizers.into();
        outcome.push(write::create::<Pod>(self.job.namespace(), pod));
        let message = format!("Created pod: {name}");
        outcome.events.push(write::normal(&self.job.object, "SuccessfulCreate", message));
        if let Some(failure) = &self.context.last_failure {
            let message = format!("Error creating: {}", failure.message);
            outcome.events.push(write::warning(&self.job.object, "FailedCreate", message));
        }
    }

    fn delete(&mut self, pod: &Seen<Pod>, outcome: &mut Outcome) {
        outcome.push(write::delete::<Pod>(&pod.object));
        let message = format!("Deleted pod: {}", pod.name());
        outcome.events.push(write::normal(&self.job.object, "SuccessfulDelete", message));
        self.deleting.push(pod.uid().to_owned());
    }

    /// Lets go of pods whose end the stored status already knows, or need not know.
    fn release_counted(&self, tally: &Tally) -> Vec<Operation> {
        let counted = self.pods.iter().filter(|pod| has_finalizer(pod) && tally.is_booked(pod.uid()));
        counted.map(release).collect()
    }

    /// Lets go of all pods: the job is over.
    fn release_all(&self, outcome: &mut Outcome) {
        for pod in self.pods.iter().filter(|pod| has_finalizer(pod)) {
            if pod::is_terminal(&pod.typed) || pod.is_deleting() || self.job.is_deleting() {
                outcome.push(release(pod));
            }
        }
    }

    fn status(&self, tally: &Tally, start: Option<String>, completed: bool) -> Value {
        let ready = self.active().iter().filter(|pod| pod::is_ready(&pod.typed)).count();
        let mut status = json!({
            "terminating": self.terminating(),
            "ready": ready,
            "uncountedTerminatedPods": tally.uncounted(),
        });
        for (field, count) in [
            ("active", self.active().len() as i32),
            ("succeeded", tally.counted_succeeded),
            ("failed", tally.counted_failed),
        ] {
            if count > 0 {
                status[field] = count.into();
            }
        }
        if let Some(start) = start {
            status["startTime"] = start.into();
        }
        if self.is_indexed() {
            if !tally.completed.is_empty() {
                status["completedIndexes"] = tally.completed.to_string().into();
            }
            if self.spec.backoff_limit_per_index.is_some() {
                status["failedIndexes"] = tally.failed_indexes.to_string().into();
            }
        }
        if !self.conditions.is_empty() {
            let mut conditions = self.conditions.clone();
            for condition in &mut conditions {
                if condition["lastProbeTime"].is_null() {
                    condition["lastProbeTime"] = condition["lastTransitionTime"].clone();
                }
            }
            status["conditions"] = conditions.into();
        }
        if completed {
            let end = self.value["status"]["completionTime"].as_str().map(str::to_owned);
            status["completionTime"] = end.unwrap_or_else(|| write::time(self.context.now)).into();
        }
        status
    }
}

fn sooner(have: Option<Duration>, rest: SignedDuration) -> Option<Duration> {
    let rest = Duration::try_from(rest).unwrap_or_default();
    Some(have.map_or(rest, |have| have.min(rest)))
}

fn has_finalizer(pod: &Seen<Pod>) -> bool {
    pod.meta().finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

fn release(pod: &Seen<Pod>) -> Operation {
    let rest: Vec<&String> = pod.meta().finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let body = json!({"metadata": {"uid": pod.uid(), "resourceVersion": pod.meta().resource_version,
        "finalizers": rest}});
    write::merge::<Pod>(&pod.object, None, body)
}

/// The completion index of a pod of an indexed job.
fn index_of(pod: &Seen<Pod>) -> Option<u32> {
    pod.meta().annotations.get(COMPLETION_INDEX)?.parse().ok()
}

/// Tells a pod its index: annotation, label and environment.
fn add_index(template: &mut Value, index: u32, failures: Option<(i32, i32)>) {
    let metadata = &mut template["metadata"];
    metadata["annotations"][COMPLETION_INDEX] = index.to_string().into();
    metadata["labels"][COMPLETION_INDEX] = index.to_string().into();
    if let Some((failures, ignored)) = failures {
        metadata["annotations"][INDEX_FAILURE_COUNT] = failures.to_string().into();
        if ignored > 0 {
            metadata["annotations"][INDEX_IGNORED_COUNT] = ignored.to_string().into();
        }
    }
    let field = format!("metadata.labels['{COMPLETION_INDEX}']");
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {
        "apiVersion": "v1", "fieldPath": field}}});
    for list in ["containers", "initContainers"] {
        for container in template["spec"][list].as_array_mut().into_iter().flatten() {
            let mut variables = container["env"].as_array().cloned().unwrap_or_default();
            if !variables.iter().any(|have| have["name"] == "JOB_COMPLETION_INDEX") {
                variables.push(variable.clone());
            }
            container["env"] = variables.into();
        }
    }
}

/// When a pod ended: the last of its containers, or its deletion.
fn ended_at(pod: &Seen<Pod>) -> Option<Timestamp> {
    let statuses = pod.typed.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ends = statuses.into_iter().flatten().filter_map(|status| {
        let terminated = status.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|time| time.0)
    });
    ends.max().or_else(|| {
        let ready = pod::condition(&pod.typed, "Ready")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    })
}
