//! Keeps the status of ResourceQuotas: what is used of what is allowed.
//!
//! What an object uses is a fact of admission; the same evaluator is handed in
//! as [`QuotaUsage`], so that both can never disagree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Quantity};
use skiff_client::{Context, Controller, EveryResource, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{seen, write};

/// Says what objects use up.
pub trait QuotaUsage: Send + Sync + 'static {
    /// Amounts by counted name (`pods`, `requests.cpu`, `count/deployments.apps`).
    fn usage(&self, group: &str, resource: &str, object: &Value) -> BTreeMap<String, Quantity>;
    /// Whether a pod falls under the scopes of a quota's spec.
    fn in_scope(&self, quota_spec: &Value, pod: &Value) -> bool;
}

pub struct ResourceQuotaController {
    pub usage: Arc<dyn QuotaUsage>,
}

impl Controller for ResourceQuotaController {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<ResourceQuota>()]
    }

    fn every_resource(&self) -> Option<EveryResource> {
        Some(Arc::new(|_, new: Option<&Object>, old: Option<&Object>, world: &Snapshot| {
            let Some(object) = new.or(old).filter(|object| !object.meta.namespace.is_empty()) else {
                return Vec::new();
            };
            let quotas = world.store_of::<ResourceQuota>();
            let quotas = quotas.map(|store| store.list(Some(&object.meta.namespace))).unwrap_or_default();
            quotas.iter().map(|quota| ObjectRef::of(quota)).collect()
        }))
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(quota) = seen::get::<ResourceQuota>(world, &key.namespace, &key.name) else { return outcome };
        let Ok(value) = quota.object.value() else { return outcome };
        let hard = value["spec"]["hard"].as_object().cloned().unwrap_or_default();
        let names: BTreeSet<&str> = hard.keys().map(String::as_str).collect();
        let used = self.used(&key.namespace, &names, &value["spec"], world);
        let used: BTreeMap<&str, String> =
            names.iter().map(|name| (*name, used.get(*name).copied().unwrap_or(Quantity::ZERO).to_string())).collect();
        let status = json!({"hard": hard, "used": used});
        let body = write::with_status(&quota.object, status);
        outcome.operations.extend(body.map(|body| write::update_status::<ResourceQuota>(&quota.object, body)));
        outcome
    }
}

impl ResourceQuotaController {
    fn used(
        &self,
        namespace: &str,
        names: &BTreeSet<&str>,
        spec: &Value,
        world: &Snapshot,
    ) -> BTreeMap<String, Quantity> {
        let scoped = ["scopes", "scopeSelector"].iter().any(|field| !spec[*field].is_null());
        let mut used: BTreeMap<String, Quantity> = BTreeMap::new();
        for resource in counted(names) {
            if scoped && resource != GroupResource::new("", "pods") {
                continue;
            }
            let Some(store) = world.store(&resource) else { continue };
            for object in store.list(Some(namespace)) {
                let Ok(object) = object.value() else { continue };
                if scoped && !self.usage.in_scope(spec, &object) {
                    continue;
                }
                for (name, amount) in self.usage.usage(&resource.group, &resource.resource, &object) {
                    if names.contains(name.as_str()) {
                        let have = used.get(&name).copied();
                        used.insert(name, have.map_or(amount, |have| have.saturating_add(amount)));
                    }
                }
            }
        }
        used
    }
}

/// The resources whose objects the names count.
fn counted(names: &BTreeSet<&str>) -> BTreeSet<GroupResource> {
    const BY_NAME: [&str; 5] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets", "services"];
    let core = |resource: &str| GroupResource { group: "".into(), resource: resource.to_owned().into() };
    names
        .iter()
        .map(|name| {
            if let Some(counted) = name.strip_prefix("count/") {
                let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
                return GroupResource { group: group.to_owned().into(), resource: resource.to_owned().into() };
            }
            let is_claim = *name == "persistentvolumeclaims"
                || *name == "requests.storage"
                || name.contains(".storageclass.storage.k8s.io/");
            match name.split_once('.').map_or(*name, |(first, _)| first) {
                _ if is_claim => core("persistentvolumeclaims"),
                "services" => core("services"),
                first if BY_NAME.contains(&first) => core(first),
                _ => core("pods"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_names_lead_to_their_resources() {
        let names = BTreeSet::from([
            "requests.cpu",
            "services.nodeports",
            "count/replicasets.apps",
            "gold.storageclass.storage.k8s.io/requests.storage",
        ]);
        let resources: Vec<String> = counted(&names).iter().map(ToString::to_string).collect();
        assert_eq!(resources, ["persistentvolumeclaims", "pods", "services", "replicasets.apps"]);
    }
}
