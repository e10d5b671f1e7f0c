//! What makes the pod of a number that pod: name, labels, host name, volumes.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use skiff_client::Outcome;

use super::Pass;
use crate::{history::REVISION_HASH, seen::Seen, template, write};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The number in a pod's name, if the name is one of this set.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let number = pod.strip_prefix(set)?.strip_prefix('-')?;
    let is_canonical = number == "0" || !number.starts_with('0');
    (is_canonical && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok())?
}

impl Pass<'_> {
    pub(super) fn pod_name(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.set.name())
    }

    /// The template and revision for a number: old ones below the partition.
    fn version(&self, ordinal: i32, current_replicas: i32) -> (&Value, &str) {
        let rolling = self.set.typed.spec.update_strategy.as_ref();
        let partition =
            rolling.and_then(|strategy| strategy.rolling_update.as_ref()).and_then(|rolling| rolling.partition);
        let below = partition.unwrap_or(if rolling.is_some_and(|strategy| strategy.rolling_update.is_some()) {
            0
        } else {
            current_replicas
        });
        if self.is_rolling() && ordinal < self.first_ordinal() + below {
            (&self.current_template, &self.current_name)
        } else {
            (&self.value["spec"]["template"], &self.update.name)
        }
    }

    /// The pod of a number as it is to be created.
    pub(super) fn body(&self, ordinal: i32, current_replicas: i32) -> Value {
        let (template, revision) = self.version(ordinal, current_replicas);
        let name = self.pod_name(ordinal);
        let mut pod = template::pod(&self.set.object, template, &name);
        let labels = &mut pod["metadata"]["labels"];
        labels[POD_NAME] = name.as_str().into();
        labels[POD_INDEX] = ordinal.to_string().into();
        labels[REVISION_HASH] = revision.into();
        pod["spec"]["hostname"] = name.into();
        if let Some(service) = self.set.typed.spec.service_name.as_deref().filter(|service| !service.is_empty()) {
            pod["spec"]["subdomain"] = service.into();
        }
        let claims = self.claims(ordinal);
        if !claims.is_empty() {
            let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
            for (template_name, claim) in &claims {
                volumes.retain(|volume| volume["name"] != template_name.as_str());
                let claim_name = &claim["metadata"]["name"];
                volumes.push(json!({"name": template_name, "persistentVolumeClaim": {"claimName": claim_name}}));
            }
            pod["spec"]["volumes"] = volumes.into();
        }
        pod
    }

    /// (volume name, claim) of a number.
    fn claims(&self, ordinal: i32) -> Vec<(String, Value)> {
        let templates = self.value["spec"]["volumeClaimTemplates"].as_array();
        let claims = templates.into_iter().flatten().filter_map(|template| {
            let name = template["metadata"]["name"].as_str()?.to_owned();
            let mut claim = template.clone();
            claim["apiVersion"] = "v1".into();
            claim["kind"] = "PersistentVolumeClaim".into();
            if let Some(fields) = claim.as_object_mut() {
                fields.remove("status");
            }
            let metadata = &mut claim["metadata"];
            metadata["name"] = format!("{name}-{}", self.pod_name(ordinal)).into();
            metadata["namespace"] = self.set.namespace().into();
            for (key, value) in self.set.typed.spec.selector.match_labels.iter().flatten() {
                metadata["labels"][key] = value.as_str().into();
            }
            let owners = self.claim_owners(&[], None);
            if !owners.is_empty() {
                metadata["ownerReferences"] = owners.into();
            }
            Some((name, claim))
        });
        claims.collect()
    }

    /// The owners a claim should have: those of others stay, ours follow the
    /// retention policy. `condemned` is the pod when it is to be scaled away.
    fn claim_owners(&self, have: &[Value], condemned: Option<&Seen<Pod>>) -> Vec<Value> {
        let policy = self.set.typed.spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |which: Option<&String>| which.is_some_and(|word| word == "Delete");
        let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
        let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
        let is_ours = |owner: &Value| {
            let is = |version: &str, kind: &str| owner["apiVersion"] == version && owner["kind"] == kind;
            is("apps/v1", "StatefulSet") && owner["name"] == self.set.name()
                || is("v1", "Pod")
                    && owner["name"].as_str().is_some_and(|name| ordinal(self.set.name(), name).is_some())
        };
        let mut owners: Vec<Value> = have.iter().filter(|owner| !is_ours(owner)).cloned().collect();
        // A claim that somebody else controls is left to them.
        if owners.iter().any(|owner| owner["controller"] == true) {
            return owners;
        }
        match condemned {
            Some(pod) if when_scaled => owners.push(write::controller_reference(&pod.object)),
            _ if when_deleted => owners.push(write::controller_reference(&self.set.object)),
            _ => {}
        }
        owners
    }

    /// Brings the owners of a pod's claims in line with the retention policy, which may have changed.
    pub(super) fn retain_claims(&self, number: i32, pod: &Seen<Pod>, is_condemned: bool, outcome: &mut Outcome) {
        for (_, claim) in self.claims(number) {
            let name = claim["metadata"]["name"].as_str().unwrap_or_default();
            let Some(have) = self.world.object::<PersistentVolumeClaim>(self.set.namespace(), name) else { continue };
            if have.meta.is_deleting() {
                continue;
            }
            let Ok(value) = have.value() else { continue };
            let old = value["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
            let owners = self.claim_owners(old, is_condemned.then_some(pod));
            if owners != old {
                let body = json!({"metadata": {"ownerReferences": owners, "uid": have.meta.uid,
                    "resourceVersion": have.meta.resource_version}});
                outcome.push(write::merge::<PersistentVolumeClaim>(&have, None, body));
            }
        }
    }

    /// Creates the claims of a number that do not exist.
    pub(super) fn create_claims(&self, ordinal: i32, outcome: &mut Outcome) {
        for (_, claim) in self.claims(ordinal) {
            let name = claim["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if self.world.object::<PersistentVolumeClaim>(self.set.namespace(), &name).is_some() {
                continue;
            }
            outcome.push(write::create::<PersistentVolumeClaim>(self.set.namespace(), claim));
            let message = format!(
                "create Claim {name} Pod {} in StatefulSet {} success",
                self.pod_name(ordinal),
                self.set.name()
            );
            outcome.events.push(write::normal(&self.set.object, "SuccessfulCreate", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{simulation::Simulation, statefulset::StatefulSetController};

    #[test]
    fn only_plain_numbers_behind_the_name_are_ordinals() {
        assert_eq!(ordinal("web", "web-0"), Some(0));
        assert_eq!(ordinal("web", "web-12"), Some(12));
        assert_eq!(ordinal("web", "web-012"), None);
        assert_eq!(ordinal("web", "web-a"), None);
        assert_eq!(ordinal("web", "web-db-1"), None);
        assert_eq!(ordinal("web", "web-"), None);
    }

    /// Owners of the claims `data-db-0` and `data-db-2` after a change of the policy.
    fn owners_after(simulation: &mut Simulation, change: impl FnOnce(&mut Value)) -> [Vec<String>; 2] {
        simulation.edit("statefulsets.apps", "d", "db", |set| change(&mut set["spec"]));
        simulation.settle(&[&StatefulSetController], true, |_| {});
        ["data-db-0", "data-db-2"].map(|claim| {
            let claim = simulation.value("persistentvolumeclaims", "d", claim).unwrap();
            let owners = claim["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            owners.iter().map(|owner| format!("{}/{}", owner["kind"], owner["name"]).replace('"', "")).collect()
        })
    }

    #[test]
    fn a_changed_retention_policy_reaches_claims_that_are_there() {
        let mut simulation = Simulation::new(include_str!("../../testdata/statefulset.yaml"));
        let policy = |deleted: &'static str, scaled: &'static str| {
            move |spec: &mut Value| {
                spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": deleted, "whenScaled": scaled});
            }
        };
        let none: [Vec<String>; 2] = Default::default();
        let set = || vec!["StatefulSet/db".to_owned()];
        assert_eq!(owners_after(&mut simulation, |_| {}), none);
        assert_eq!(owners_after(&mut simulation, policy("Delete", "Retain")), [set(), set()]);
        assert_eq!(owners_after(&mut simulation, policy("Retain", "Retain")), none);
        assert_eq!(owners_after(&mut simulation, policy("Retain", "Delete")), none);
        // A pod that is scaled away takes its claim with it; the others stay with the set.
        assert_eq!(owners_after(&mut simulation, policy("Delete", "Delete")), [set(), set()]);
        let scaled = owners_after(&mut simulation, |spec| spec["replicas"] = 2.into());
        assert_eq!(scaled, [set(), vec!["Pod/db-2".to_owned()]]);
        // Owners of others are kept, and a claim that somebody else controls is not taken over.
        let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "m", "uid": "m", "controller": true});
        simulation.edit("persistentvolumeclaims", "d", "data-db-0", |claim| {
            claim["metadata"]["ownerReferences"] = json!([other]);
        });
        let last = owners_after(&mut simulation, |spec| spec["minReadySeconds"] = 0.into());
        assert_eq!(last[0], ["ConfigMap/m"]);
    }
}
