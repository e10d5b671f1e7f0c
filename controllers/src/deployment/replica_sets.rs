//! The ReplicaSets of a deployment: which is the new one, revisions, sizes.
//! Changes are made in memory and become at most one update per ReplicaSet.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};
use skiff_client::Operation;

use super::numbers::Limits;
use crate::{
    seen::Seen,
    template::{self, POD_TEMPLATE_HASH},
    write,
};

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Bound of the revision history annotation, as upstream.
const REVISION_HISTORY_LEN_MAX: usize = 2000;

/// Annotations of a deployment that its ReplicaSets do not inherit.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// A ReplicaSet and what this pass has made of it.
pub struct Set {
    pub seen: Seen<ReplicaSet>,
    value: Value,
    changed: bool,
    pub replicas: i32,
}

impl Set {
    fn new(seen: Seen<ReplicaSet>) -> Option<Set> {
        let value = seen.object.value().ok()?;
        let replicas = seen.typed.spec.replicas.unwrap_or(1);
        Some(Set { seen, value, changed: false, replicas })
    }

    pub fn name(&self) -> &str {
        self.seen.name()
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["annotations"][name].as_str()
    }

    fn annotate(&mut self, name: &str, value: &str) {
        if self.annotation(name) != Some(value) {
            self.value["metadata"]["annotations"][name] = value.into();
            self.changed = true;
        }
    }

    pub fn revision(&self) -> i64 {
        self.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn desired(&self) -> Option<i32> {
        self.annotation(DESIRED_REPLICAS)?.parse().ok()
    }

    pub fn max_replicas(&self) -> i32 {
        self.annotation(MAX_REPLICAS).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn available(&self) -> i32 {
        self.seen.typed.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    pub fn ready(&self) -> i32 {
        self.seen.typed.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    pub fn terminating(&self) -> i32 {
        self.seen.typed.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
    }

    /// Replicas that exist.
    pub fn actual(&self) -> i32 {
        self.seen.typed.status.as_ref().map_or(0, |status| status.replicas)
    }

    pub fn observed_generation(&self) -> i64 {
        self.seen.typed.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0)
    }

    fn template(&self) -> &Value {
        &self.value["spec"]["template"]
    }

    /// Gives the set a size and notes the bounds it was made for.
    pub fn resize(&mut self, replicas: i32, limits: Limits) {
        if self.replicas != replicas {
            self.value["spec"]["replicas"] = replicas.into();
            self.replicas = replicas;
            self.changed = true;
        }
        self.annotate(DESIRED_REPLICAS, &limits.replicas.to_string());
        self.annotate(MAX_REPLICAS, &limits.max_replicas().to_string());
    }

    fn created(&self) -> (Option<&str>, &str) {
        (self.seen.meta().creation_timestamp.as_deref(), self.name())
    }
}

/// All ReplicaSets of a deployment.
pub struct ReplicaSets {
    /// In order of creation.
    sets: Vec<Set>,
    /// Which of them has the deployment's template.
    new: Option<usize>,
    template: Value,
}

impl ReplicaSets {
    pub fn new(deployment: &Seen<Deployment>, claimed: Vec<Seen<ReplicaSet>>) -> Option<ReplicaSets> {
        let template = deployment.object.value().ok()?["spec"]["template"].clone();
        let mut sets: Vec<Set> = claimed.into_iter().filter_map(Set::new).collect();
        sets.sort_by(|a, b| a.created().cmp(&b.created()));
        let new = sets.iter().position(|set| template::is_equal(set.template(), &template));
        Some(ReplicaSets { sets, new, template })
    }

    pub fn newest(&self) -> Option<&Set> {
        self.new.map(|index| &self.sets[index])
    }

    pub fn newest_mut(&mut self) -> Option<&mut Set> {
        self.new.map(|index| &mut self.sets[index])
    }

    pub fn all(&self) -> impl Iterator<Item = &Set> {
        self.sets.iter()
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Set> {
        self.sets.iter_mut()
    }

    /// All but the new one, oldest first.
    pub fn old(&self) -> impl Iterator<Item = &Set> {
        let new = self.new;
        self.sets.iter().enumerate().filter(move |(index, _)| Some(*index) != new).map(|(_, set)| set)
    }

    pub fn total(&self) -> i32 {
        self.sets.iter().map(|set| set.replicas).sum()
    }

    pub fn total_old(&self) -> i32 {
        self.old().map(|set| set.replicas).sum()
    }

    /// The revision that belongs to the deployment's template.
    pub fn next_revision(&self) -> i64 {
        self.old().map(Set::revision).max().unwrap_or(0) + 1
    }

    /// Brings the new ReplicaSet's annotations and minReadySeconds up to date.
    pub fn refresh_newest(&mut self, deployment: &Seen<Deployment>, min_ready_seconds: i32) {
        let revision = self.next_revision();
        let annotations = inherited(deployment);
        let Some(set) = self.newest_mut() else { return };
        for (name, value) in &annotations {
            set.annotate(name, value);
        }
        let have = set.revision();
        if have < revision {
            if have > 0 {
                let history = set.annotation(REVISION_HISTORY).unwrap_or_default();
                let mut history: Vec<String> =
                    history.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
                history.push(have.to_string());
                while history.len() > 1 && history.join(",").len() > REVISION_HISTORY_LEN_MAX {
                    history.remove(0);
                }
                set.annotate(REVISION_HISTORY, &history.join(","));
            }
            set.annotate(REVISION, &revision.to_string());
        }
        if set.value["spec"]["minReadySeconds"].as_i64().unwrap_or(0) != i64::from(min_ready_seconds) {
            set.value["spec"]["minReadySeconds"] = min_ready_seconds.into();
            set.changed = true;
        }
    }

    pub fn hash(&self, collision_count: i32) -> String {
        template::hash(&self.template, collision_count)
    }

    /// The body of a new ReplicaSet.
    pub fn body(&self, deployment: &Seen<Deployment>, hash: &str, replicas: i32, limits: Limits) -> Value {
        let mut template = self.template.clone();
        template["metadata"]["labels"][POD_TEMPLATE_HASH] = hash.into();
        let mut annotations = inherited(deployment);
        annotations.insert(REVISION.to_owned(), self.next_revision().to_string());
        annotations.insert(DESIRED_REPLICAS.to_owned(), limits.replicas.to_string());
        annotations.insert(MAX_REPLICAS.to_owned(), limits.max_replicas().to_string());
        let spec = &deployment.typed.spec;
        let mut selector = json!(spec.selector);
        selector["matchLabels"][POD_TEMPLATE_HASH] = hash.into();
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{}-{hash}", deployment.name()),
                "namespace": deployment.namespace(),
                "ownerReferences": [write::controller_reference(&deployment.object)],
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
                "selector": selector,
                "template": template,
            },
        })
    }

    /// One update per changed ReplicaSet.
    pub fn operations(&self) -> Vec<Operation> {
        let changed = self.sets.iter().filter(|set| set.changed);
        changed.map(|set| write::update::<ReplicaSet>(&set.seen.object, set.value.clone())).collect()
    }
}

fn inherited(deployment: &Seen<Deployment>) -> BTreeMap<String, String> {
    let annotations = deployment.meta().annotations.iter();
    annotations
        .filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
