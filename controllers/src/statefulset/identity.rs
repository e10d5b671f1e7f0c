//! What makes the pod of a number that pod: name, labels, host name, volumes.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

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
            if self.retention(|policy| policy.when_deleted.as_deref()) == "Delete" {
                let mut owner = write::controller_reference(&self.set.object);
                owner["controller"] = false.into();
                metadata["ownerReferences"] = json!([owner]);
            }
            Some((name, claim))
        });
        claims.collect()
    }

    fn retention(
        &self,
        which: impl Fn(&k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy) -> Option<&str>,
    ) -> String {
        let policy = self.set.typed.spec.persistent_volume_claim_retention_policy.as_ref();
        policy.and_then(which).unwrap_or("Retain").to_owned()
    }

    /// Creates the claims of a number that do not exist.
    pub(super) fn create_claims(&self, ordinal: i32, outcome: &mut skiff_client::Outcome) {
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

    /// Ties the claims of a pod that is scaled away to it, if they go with it.
    pub(super) fn release_claims(&self, ordinal: i32, pod: &Seen<Pod>, outcome: &mut skiff_client::Outcome) {
        if self.retention(|policy| policy.when_scaled.as_deref()) != "Delete" {
            return;
        }
        for (_, claim) in self.claims(ordinal) {
            let name = claim["metadata"]["name"].as_str().unwrap_or_default();
            let Some(have) = self.world.object::<PersistentVolumeClaim>(self.set.namespace(), name) else { continue };
            if have.meta.owner_references.iter().any(|owner| owner.uid == pod.meta().uid) {
                continue;
            }
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()});
            let body = json!({"metadata": {"ownerReferences": [owner], "uid": have.meta.uid}});
            outcome.push(write::strategic::<PersistentVolumeClaim>(&have, None, body));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_behind_the_name_are_ordinals() {
        assert_eq!(ordinal("web", "web-0"), Some(0));
        assert_eq!(ordinal("web", "web-12"), Some(12));
        assert_eq!(ordinal("web", "web-012"), None);
        assert_eq!(ordinal("web", "web-a"), None);
        assert_eq!(ordinal("web", "web-db-1"), None);
        assert_eq!(ordinal("web", "web-"), None);
    }
}
