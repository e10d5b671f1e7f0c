//! Counts and conditions of a deployment.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use serde_json::{Value, json};
use skiff_client::{Context, Operation, Outcome};

use super::{numbers::Limits, replica_sets::ReplicaSets};
use crate::{
    condition::{self, Condition},
    seen::Seen,
    write,
};

/// What this pass learned about the rollout.
pub enum Progress {
    Created(String),
    CreateFailed(String),
}

/// The status in the making.
pub struct NewStatus {
    old: Value,
    conditions: Vec<Value>,
    collision_count: i32,
    now: Timestamp,
    generation: i64,
}

impl NewStatus {
    pub fn new(deployment: &Seen<Deployment>, context: &Context) -> NewStatus {
        let old = deployment.object.value().map(|value| value["status"].clone()).unwrap_or_default();
        NewStatus {
            conditions: condition::of(&old),
            collision_count: old["collisionCount"].as_i64().unwrap_or(0) as i32,
            old,
            now: context.now,
            generation: deployment.meta().generation,
        }
    }

    pub fn collision_count(&self) -> i32 {
        self.collision_count
    }

    pub fn count_collision(&mut self) {
        self.collision_count += 1;
    }

    /// Like upstream, a condition whose status and reason stay keeps its times and message.
    fn set(&mut self, kind: &'static str, status: &'static str, reason: &str, message: String) {
        let current = condition::find(&self.conditions, kind);
        if current.is_some_and(|current| current["status"] == status && current["reason"] == reason) {
            return;
        }
        self.renew(kind, status, reason, message);
    }

    /// Sets a condition and its update time even if only the message changed.
    fn renew(&mut self, kind: &'static str, status: &'static str, reason: &str, message: String) {
        condition::set(&mut self.conditions, Condition::new(kind, status, reason, message), self.now);
        if let Some(condition) = self.conditions.iter_mut().find(|condition| condition["type"] == kind) {
            condition["lastUpdateTime"] = write::time(self.now).into();
        }
    }

    fn reason(&self, kind: &str) -> Option<&str> {
        condition::find(&self.conditions, kind)?["reason"].as_str()
    }

    pub fn note_paused(&mut self, paused: bool, spec: &DeploymentSpec) {
        if !has_deadline(spec) || self.reason("Progressing") == Some("ProgressDeadlineExceeded") {
            return;
        }
        let was_paused = self.reason("Progressing") == Some("DeploymentPaused");
        if paused && !was_paused {
            self.set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
        } else if !paused && was_paused {
            self.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
        }
    }

    pub fn note_found(&mut self, name: &str, spec: &DeploymentSpec) {
        if has_deadline(spec) && self.reason("Progressing").is_none() {
            self.set("Progressing", "True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"));
        }
    }

    pub fn note(&mut self, progress: Progress, spec: &DeploymentSpec) {
        match progress {
            Progress::Created(name) if has_deadline(spec) => {
                let message = format!("Created new replica set {name:?}");
                self.set("Progressing", "True", "NewReplicaSetCreated", message);
            }
            Progress::Created(_) => {}
            Progress::CreateFailed(message) => {
                self.set("Progressing", "False", "ReplicaSetCreateError", message);
            }
        }
    }

    /// Whether all replicas are new and available, judged from the ReplicaSets' status.
    pub fn is_complete(&self, sets: &ReplicaSets, limits: Limits) -> bool {
        Counts::of(sets).is_complete(limits)
    }

    /// Fills in counts and conditions; gives the status write if anything changed.
    pub fn finish(
        &mut self,
        deployment: &Seen<Deployment>,
        sets: &ReplicaSets,
        limits: Limits,
        outcome: &mut Outcome,
    ) -> Option<Operation> {
        let counts = Counts::of(sets);
        if counts.available >= limits.min_available() {
            let message = "Deployment has minimum availability.".to_owned();
            self.set("Available", "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.".to_owned();
            self.set("Available", "False", "MinimumReplicasUnavailable", message);
        }
        let spec = &deployment.typed.spec;
        if spec.paused != Some(true) && !deployment.is_deleting() {
            self.progress(deployment, spec, sets, &counts, limits, outcome);
        }
        self.replica_failure(sets);
        let status = self.body(&counts);
        let value = write::with_status(&deployment.object, status)?;
        Some(write::update_status::<Deployment>(&deployment.object, value))
    }

    fn progress(
        &mut self,
        deployment: &Seen<Deployment>,
        spec: &DeploymentSpec,
        sets: &ReplicaSets,
        counts: &Counts,
        limits: Limits,
        outcome: &mut Outcome,
    ) {
        let Some(deadline) = spec.progress_deadline_seconds.filter(|_| has_deadline(spec)) else {
            condition::remove(&mut self.conditions, "Progressing");
            return;
        };
        let subject = match sets.newest() {
            Some(newest) => format!("ReplicaSet {:?}", newest.name()),
            None => format!("Deployment {:?}", deployment.name()),
        };
        let was_complete =
            counts.replicas == counts.updated && self.reason("Progressing") == Some("NewReplicaSetAvailable");
        if was_complete {
            return;
        }
        if counts.is_complete(limits) {
            let message = format!("{subject} has successfully progressed.");
            return self.set("Progressing", "True", "NewReplicaSetAvailable", message);
        }
        if counts.has_progressed(&self.old) {
            let message = format!("{subject} is progressing.");
            return self.renew("Progressing", "True", "ReplicaSetUpdated", message);
        }
        let Some(current) = condition::find(&self.conditions, "Progressing") else { return };
        if matches!(current["reason"].as_str(), Some("ProgressDeadlineExceeded" | "DeploymentPaused")) {
            return;
        }
        let updated = current["lastUpdateTime"].as_str().and_then(write::parse_time).unwrap_or(self.now);
        let rest = SignedDuration::from_secs(deadline.into()) - self.now.duration_since(updated);
        if rest.is_positive() {
            // One second more, because times are kept in whole seconds.
            outcome.requeue_after = Some(Duration::try_from(rest).unwrap_or_default() + Duration::from_secs(1));
        } else if self.reason("Progressing") != Some("NewReplicaSetAvailable") {
            let message = format!("{subject} has timed out progressing.");
            self.set("Progressing", "False", "ProgressDeadlineExceeded", message);
        }
    }

    fn replica_failure(&mut self, sets: &ReplicaSets) {
        let failure = sets.newest().into_iter().chain(sets.old()).find_map(|set| {
            let conditions = set.seen.typed.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_.as_deref() == Some("ReplicaFailure"))
        });
        match failure {
            Some(failure) => {
                let status = if failure.status.as_deref() == Some("True") { "True" } else { "False" };
                let reason = failure.reason.clone().unwrap_or_default();
                let message = failure.message.clone().unwrap_or_default();
                self.set("ReplicaFailure", status, &reason, message);
            }
            None => condition::remove(&mut self.conditions, "ReplicaFailure"),
        }
    }

    fn body(&self, counts: &Counts) -> Value {
        let mut status = json!({"observedGeneration": self.generation, "conditions": self.conditions});
        for (field, count) in [
            ("replicas", counts.replicas),
            ("updatedReplicas", counts.updated),
            ("readyReplicas", counts.ready),
            ("availableReplicas", counts.available),
            ("unavailableReplicas", (counts.wanted - counts.available).max(0)),
        ] {
            if count > 0 {
                status[field] = count.into();
            }
        }
        status["terminatingReplicas"] = counts.terminating.into();
        if self.collision_count > 0 {
            status["collisionCount"] = self.collision_count.into();
        }
        status
    }
}

/// Sums over the ReplicaSets.
struct Counts {
    /// Sizes the ReplicaSets are told to have.
    wanted: i32,
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
    terminating: i32,
}

impl Counts {
    fn of(sets: &ReplicaSets) -> Counts {
        let sum = |count: fn(&super::replica_sets::Set) -> i32| sets.all().map(count).sum();
        Counts {
            wanted: sets.total(),
            replicas: sum(|set| set.actual()),
            updated: sets.newest().map_or(0, |newest| newest.actual()),
            ready: sum(|set| set.ready()),
            available: sum(|set| set.available()),
            terminating: sum(|set| set.terminating()),
        }
    }

    fn is_complete(&self, limits: Limits) -> bool {
        self.updated == limits.replicas && self.replicas == limits.replicas && self.available == limits.replicas
    }

    /// Whether more is new, ready or available, or less is old, than the last status says.
    fn has_progressed(&self, old: &Value) -> bool {
        let before = |field: &str| old[field].as_i64().unwrap_or(0) as i32;
        self.updated > before("updatedReplicas")
            || self.replicas - self.updated < before("replicas") - before("updatedReplicas")
            || self.ready > before("readyReplicas")
            || self.available > before("availableReplicas")
    }
}

fn has_deadline(spec: &DeploymentSpec) -> bool {
    spec.progress_deadline_seconds.is_some_and(|seconds| seconds != i32::MAX)
}
