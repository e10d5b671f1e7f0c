//! The strategies: what to do with the ReplicaSets now.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use serde_json::json;
use skiff_client::Outcome;

use super::{
    Rollout,
    numbers::{Limits, Share, proportional},
    replica_sets::REVISION,
    status::{NewStatus, Progress},
};
use crate::write;

impl Rollout<'_> {
    /// Decides everything for this pass and puts it into `outcome`.
    pub(super) fn run(mut self, outcome: &mut Outcome) {
        let spec = self.deployment.typed.spec.clone();
        let limits = Limits::of(&spec);
        let mut status = NewStatus::new(&self.deployment, self.context);
        if self.deployment.is_deleting() {
            return self.finish(status, limits, outcome);
        }
        let paused = spec.paused.unwrap_or(false);
        status.note_paused(paused, &spec);
        if paused || self.is_scaling(limits) {
            self.refresh(&spec, &mut status);
            self.scale(limits, outcome);
            if paused {
                self.clean_up(&spec, outcome);
            }
        } else if limits.rolling {
            self.roll(&spec, limits, &mut status, outcome);
        } else {
            self.recreate(&spec, limits, &mut status, outcome);
        }
        self.finish(status, limits, outcome);
    }

    /// Whether an active ReplicaSet was sized for another number of replicas.
    fn is_scaling(&self, limits: Limits) -> bool {
        let mut active = self.sets.all().filter(|set| set.replicas > 0);
        active.any(|set| set.desired().is_some_and(|desired| desired != limits.replicas))
    }

    fn roll(&mut self, spec: &DeploymentSpec, limits: Limits, status: &mut NewStatus, outcome: &mut Outcome) {
        if self.ensure_newest(spec, limits, status, outcome) {
            return;
        }
        if self.resize_newest(limits, outcome) || self.shrink_old(limits, outcome) {
            return;
        }
        if status.is_complete(&self.sets, limits) {
            self.clean_up(spec, outcome);
        }
    }

    fn recreate(&mut self, spec: &DeploymentSpec, limits: Limits, status: &mut NewStatus, outcome: &mut Outcome) {
        self.refresh(spec, status);
        let mut scaled = false;
        let targets: Vec<String> =
            self.sets.old().filter(|set| set.replicas > 0).map(|set| set.name().to_owned()).collect();
        for name in targets {
            self.resize(&name, 0, limits, outcome);
            scaled = true;
        }
        if scaled || self.old_pods_running || self.sets.old().any(|set| set.actual() > 0) {
            return;
        }
        if self.ensure_newest(spec, limits, status, outcome) || self.resize_newest(limits, outcome) {
            return;
        }
        if status.is_complete(&self.sets, limits) {
            self.clean_up(spec, outcome);
        }
    }

    /// Keeps an existing new ReplicaSet and the deployment's revision up to date.
    fn refresh(&mut self, spec: &DeploymentSpec, status: &mut NewStatus) {
        self.sets.refresh_newest(&self.deployment, spec.min_ready_seconds.unwrap_or(0));
        let Some(newest) = self.sets.newest() else { return };
        let revision = newest.revision().max(self.sets.next_revision()).to_string();
        self.revision = Some(revision);
        status.note_found(newest.name(), spec);
    }

    /// Creates the new ReplicaSet if there is none; true when it did.
    fn ensure_newest(
        &mut self,
        spec: &DeploymentSpec,
        limits: Limits,
        status: &mut NewStatus,
        outcome: &mut Outcome,
    ) -> bool {
        if self.sets.newest().is_some() {
            self.refresh(spec, status);
            return false;
        }
        let hash = self.sets.hash(status.collision_count());
        let name = format!("{}-{hash}", self.deployment.name());
        if self.sets.all().any(|set| set.name() == name) || self.is_name_taken(&name) {
            // Another template or owner has this name: the next hash will differ.
            status.count_collision();
            return true;
        }
        let replicas = limits.new_size(0, self.sets.total());
        let body = self.sets.body(&self.deployment, &hash, replicas, limits);
        let revision = self.sets.next_revision().to_string();
        self.revision = Some(revision);
        if let Some(failure) = &self.context.last_failure {
            let message = format!("Failed to create new replica set {name:?}: {}", failure.message);
            outcome.events.push(write::warning(&self.deployment.object, "ReplicaSetCreateError", message.as_str()));
            status.note(Progress::CreateFailed(failure.message.clone()), spec);
        } else {
            status.note(Progress::Created(name.clone()), spec);
        }
        outcome.push(write::create::<ReplicaSet>(self.deployment.namespace(), body));
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            outcome.events.push(write::normal(&self.deployment.object, "ScalingReplicaSet", message));
        }
        true
    }

    fn is_name_taken(&self, name: &str) -> bool {
        self.taken_names.iter().any(|taken| taken == name)
    }

    /// Brings the new ReplicaSet towards its size; true when it changed.
    fn resize_newest(&mut self, limits: Limits, outcome: &mut Outcome) -> bool {
        let total = self.sets.total();
        let Some(newest) = self.sets.newest() else { return false };
        let size =
            if newest.replicas > limits.replicas { limits.replicas } else { limits.new_size(newest.replicas, total) };
        let name = newest.name().to_owned();
        self.resize(&name, size, limits, outcome)
    }

    /// Takes from old ReplicaSets what availability allows: unhealthy pods
    /// first, then healthy ones. True when something changed.
    fn shrink_old(&mut self, limits: Limits, outcome: &mut Outcome) -> bool {
        if self.sets.total_old() == 0 {
            return false;
        }
        let new_unavailable = self.sets.newest().map_or(0, |newest| newest.replicas - newest.available());
        let mut unhealthy_allowed = self.sets.total() - limits.min_available() - new_unavailable;
        if unhealthy_allowed <= 0 {
            return false;
        }
        let mut sizes: Vec<(String, i32)> = Vec::new();
        let mut healthy_allowed = self.sets.all().map(|set| set.available()).sum::<i32>() - limits.min_available();
        for set in self.sets.old().filter(|set| set.replicas > 0) {
            let unhealthy = (set.replicas - set.available()).clamp(0, unhealthy_allowed);
            unhealthy_allowed -= unhealthy;
            sizes.push((set.name().to_owned(), set.replicas - unhealthy));
        }
        for (_, size) in &mut sizes {
            let healthy = (*size).min(healthy_allowed.max(0));
            healthy_allowed -= healthy;
            *size -= healthy;
        }
        let mut changed = false;
        for (name, size) in sizes {
            changed |= self.resize(&name, size, limits, outcome);
        }
        changed
    }

    /// Follows a change of `spec.replicas` without changing the mix of templates.
    fn scale(&mut self, limits: Limits, outcome: &mut Outcome) {
        if let Some(name) = self.only_one() {
            self.resize(&name, limits.replicas, limits, outcome);
            return;
        }
        let saturated = self.sets.newest().is_some_and(|newest| {
            newest.desired() == Some(limits.replicas)
                && newest.replicas == limits.replicas
                && newest.available() == limits.replicas
        });
        if saturated {
            let old: Vec<String> =
                self.sets.old().filter(|set| set.replicas > 0).map(|set| set.name().to_owned()).collect();
            for name in old {
                self.resize(&name, 0, limits, outcome);
            }
            return;
        }
        if limits.rolling {
            self.scale_proportionally(limits, outcome);
        }
    }

    /// The one ReplicaSet that takes the whole size, if it is clear which.
    fn only_one(&self) -> Option<String> {
        let mut active = self.sets.all().filter(|set| set.replicas > 0);
        match (active.next(), active.next()) {
            (None, _) => {
                let latest = self.sets.newest().or_else(|| self.sets.old().last());
                latest.map(|set| set.name().to_owned())
            }
            (Some(only), None) => Some(only.name().to_owned()),
            _ => None,
        }
    }

    fn scale_proportionally(&mut self, limits: Limits, outcome: &mut Outcome) {
        let status_replicas = self.deployment.typed.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let mut active: Vec<_> = self.sets.all().filter(|set| set.replicas > 0).collect();
        let total: i32 = active.iter().map(|set| set.replicas).sum();
        let growing = limits.max_replicas() > total && limits.replicas > 0;
        // `all` is oldest first; of equal sizes the newer grows first, the older shrinks first.
        if growing {
            active.reverse();
        }
        active.sort_by_key(|set| std::cmp::Reverse(set.replicas));
        let shares: Vec<Share> = active
            .iter()
            .map(|set| Share { replicas: set.replicas, max_replicas_before: set.max_replicas() })
            .collect();
        let names: Vec<String> = active.iter().map(|set| set.name().to_owned()).collect();
        for (name, size) in names.iter().zip(proportional(&shares, limits, status_replicas)) {
            self.resize(name, size, limits, outcome);
        }
    }

    /// Gives one ReplicaSet a size, with an event; true when the size changed.
    fn resize(&mut self, name: &str, size: i32, limits: Limits, outcome: &mut Outcome) -> bool {
        let Some(set) = self.sets.all_mut().find(|set| set.name() == name) else { return false };
        let before = set.replicas;
        set.resize(size, limits);
        if before == size {
            return false;
        }
        let direction = if size > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
        outcome.events.push(write::normal(&self.deployment.object, "ScalingReplicaSet", message));
        true
    }

    /// Deletes old ReplicaSets beyond the history limit.
    fn clean_up(&self, spec: &DeploymentSpec, outcome: &mut Outcome) {
        let Some(limit) = spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<_> = self.sets.old().filter(|set| !set.seen.is_deleting()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| set.revision());
        for set in old.into_iter().take(surplus) {
            let is_idle =
                set.actual() == 0 && set.replicas == 0 && set.seen.meta().generation <= set.observed_generation();
            if is_idle {
                outcome.push(write::delete::<ReplicaSet>(&set.seen.object));
            }
        }
    }

    fn finish(self, mut status: NewStatus, limits: Limits, outcome: &mut Outcome) {
        let failed_before = self.context.last_failure.is_some();
        let operations = self.sets.operations();
        let written = status.finish(&self.deployment, &self.sets, limits, outcome);
        if failed_before {
            // The status must tell of the failure even if the writes fail again.
            outcome.operations.splice(0..0, written);
            outcome.operations.extend(operations);
        } else {
            outcome.operations.extend(operations);
            outcome.operations.extend(written);
        }
        // Last, because it changes the version that the status write names.
        let revision =
            self.revision.filter(|revision| self.deployment.meta().annotations.get(REVISION) != Some(revision));
        if let Some(revision) = revision {
            let body = json!({"metadata": {"annotations": {REVISION: revision}, "uid": self.deployment.uid()}});
            outcome.push(write::merge::<Deployment>(&self.deployment.object, None, body));
        }
    }
}
