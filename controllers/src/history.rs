//! Revisions of pod templates, kept as ControllerRevisions: the memory that
//! DaemonSets and StatefulSets roll back by.
//!
//! Invariants: one revision per distinct template; going back to an old
//! template brings its revision to the top again instead of making a new one,
//! so pods that already have it are left alone.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};
use skiff_api::{Object, Selector};
use skiff_client::{Operation, Outcome, Snapshot};

use crate::{
    claim::claim,
    seen::{self, Seen},
    template, write,
};

/// Label that ties pods and revisions together.
pub const REVISION_HASH: &str = "controller-revision-hash";

/// All revisions of one owner, oldest first.
pub struct History {
    revisions: Vec<Revision>,
    /// Names in use in the namespace, by whomever.
    names: BTreeSet<String>,
}

pub struct Revision {
    pub seen: Seen<ControllerRevision>,
    pub data: Value,
    pub number: i64,
}

/// The revision that the owner's template has now.
pub struct Current {
    pub name: String,
    pub hash: String,
    pub collision_count: i32,
    /// Hashes of older revisions of the same template.
    pub twins: BTreeSet<String>,
}

impl History {
    pub fn new(owner: &Object, selector: &Selector, world: &Snapshot, operations: &mut Vec<Operation>) -> History {
        let candidates = seen::list::<ControllerRevision>(world, Some(&owner.meta.namespace));
        let names = candidates.iter().map(|revision| revision.name().to_owned()).collect();
        let claimed = claim(owner, selector, candidates, operations);
        let mut revisions: Vec<Revision> = claimed
            .into_iter()
            .filter_map(|seen| {
                let data = seen.object.value().ok()?["data"].clone();
                let number = seen.typed.revision.unwrap_or(0);
                Some(Revision { seen, data, number })
            })
            .collect();
        revisions.sort_by(|a, b| a.number.cmp(&b.number).then_with(|| a.seen.name().cmp(b.seen.name())));
        History { revisions, names }
    }

    pub fn by_name(&self, name: &str) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.seen.name() == name)
    }

    /// Finds or makes the revision of `owner`'s present template.
    pub fn sync(&self, owner: &Object, value: &Value, mut collision_count: i32, outcome: &mut Outcome) -> Current {
        let wanted = data(&value["spec"]["template"]);
        let highest = self.revisions.last().map_or(0, |revision| revision.number);
        let known = self.revisions.iter().rev().find(|revision| is_same(&revision.data, &wanted));
        if let Some(known) = known {
            if known.number < highest {
                let body = json!({"metadata": {"resourceVersion": known.seen.meta().resource_version},
                    "revision": highest + 1});
                outcome.push(write::merge::<ControllerRevision>(&known.seen.object, None, body));
            }
            let twins = self.revisions.iter().filter(|revision| is_same(&revision.data, &wanted));
            let twins = twins.map(|revision| revision.hash().to_owned()).filter(|hash| hash != known.hash()).collect();
            let (name, hash) = (known.seen.name().to_owned(), known.hash().to_owned());
            return Current { name, hash, collision_count, twins };
        }
        let (mut hash, mut name);
        loop {
            hash = template::hash(&value["spec"]["template"], collision_count);
            name = format!("{}-{hash}", owner.meta.name);
            if !self.names.contains(&name) {
                break;
            }
            collision_count += 1;
        }
        let mut labels = value["spec"]["template"]["metadata"]["labels"].clone();
        labels[REVISION_HASH] = hash.as_str().into();
        let body = json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": name,
                "namespace": owner.meta.namespace,
                "labels": labels,
                "annotations": owner.meta.annotations,
                "ownerReferences": [write::controller_reference(owner)],
            },
            "data": wanted,
            "revision": highest + 1,
        });
        outcome.push(write::create::<ControllerRevision>(&owner.meta.namespace, body));
        Current { name, hash, collision_count, twins: BTreeSet::new() }
    }

    /// Deletes revisions beyond the limit that no pod uses; `live` holds hashes or names.
    pub fn clean_up(&self, current: &Current, live: &BTreeSet<String>, limit: i32, outcome: &mut Outcome) {
        let is_live = |revision: &&Revision| {
            revision.seen.name() == current.name
                || live.contains(revision.hash())
                || live.contains(revision.seen.name())
        };
        let idle: Vec<&Revision> = self.revisions.iter().filter(|revision| !is_live(revision)).collect();
        let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for revision in idle.into_iter().take(surplus) {
            outcome.push(write::delete::<ControllerRevision>(&revision.seen.object));
        }
    }
}

impl Revision {
    pub fn hash(&self) -> &str {
        self.seen.meta().labels.get(REVISION_HASH).map_or("", String::as_str)
    }

    /// The pod template this revision remembers.
    pub fn template(&self) -> Value {
        let mut template = self.data["spec"]["template"].clone();
        if let Some(fields) = template.as_object_mut() {
            fields.remove("$patch");
        }
        template
    }
}

/// A strategic merge patch that puts the template back: what `kubectl rollout undo` applies.
fn data(template: &Value) -> Value {
    let mut template = template.clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn is_same(a: &Value, b: &Value) -> bool {
    template::is_equal(&a["spec"]["template"], &b["spec"]["template"])
}
