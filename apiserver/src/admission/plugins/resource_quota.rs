//! ResourceQuota: a namespace uses no more than its quotas allow.
//!
//! What is used is what the watch caches hold, plus what this plugin has let
//! through and the caches do not show yet. Both are looked at under one lock,
//! so two writes at the same time cannot share the last free unit. The status
//! of the quota objects is for readers; nothing is decided by it.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_api::{GroupResource, Object, Quantity, Status};
use skiff_client::Snapshot;
use tokio::time::Instant;

use super::{
    lookup,
    quota_usage::{Charge, Usage, has_scopes, in_scope, unspecified},
};
use crate::{
    admission::{Admission, AdmissionOperation, AdmissionRequest},
    limits,
    registry::{
        validation::numbers::parse_quantity,
        value::{entries, name, text},
    },
};

/// A charge is in the caches long before this, or its object is gone again already.
const PENDING_MAX: Duration = Duration::from_secs(3);

#[derive(Default)]
pub struct ResourceQuota {
    pending: Mutex<Vec<Pending>>,
}

/// A charge for a write that the caches do not show yet.
struct Pending {
    namespace: String,
    resource: GroupResource,
    uid: String,
    /// Revision of the object when it was charged for an update; empty for a creation.
    before: String,
    name: String,
    charge: Charge,
    at: Instant,
}

impl Pending {
    /// The caches show the write (or a later one), so it is counted there.
    fn is_visible(&self, snapshot: &Snapshot) -> bool {
        let cached = lookup::find(snapshot, self.resource.clone(), &self.namespace, &self.name);
        match cached {
            Some(cached) if self.before.is_empty() => cached.meta.uid.as_str() == self.uid,
            Some(cached) => cached.meta.resource_version != self.before,
            None => !self.before.is_empty(),
        }
    }
}

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: AdmissionOperation) -> bool {
        matches!(operation, AdmissionOperation::Create | AdmissionOperation::Update)
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let resize = request.subresource == "resize";
        let grows = request.resource.group.is_empty()
            && matches!(&*request.resource.resource, "pods" | "services" | "persistentvolumeclaims");
        let update = request.operation == AdmissionOperation::Update;
        if request.namespace.is_empty() || !(request.subresource.is_empty() || resize) || (update && !grows) {
            return Ok(());
        }
        let Some(object) = &request.object else { return Ok(()) };
        let quotas = lookup::list(request.snapshot, GroupResource::new("", "resourcequotas"), Some(request.namespace));
        if quotas.is_empty() {
            return Ok(());
        }
        let resource = request.resource.group_resource();
        let charge = Charge::of(&resource.group, &resource.resource, object);
        let mut pending = self.pending.lock();
        pending.retain(|charge| charge.at.elapsed() < PENDING_MAX && !charge.is_visible(request.snapshot));
        if pending.len() >= limits::PENDING_CHARGES_MAX {
            return Err(Status::service_unavailable("too many writes are waiting to be counted by quotas"));
        }
        for quota in &quotas {
            let quota = quota.typed::<Value>().map_err(Status::internal)?;
            check(request, &quota["spec"], name(&quota), object, &charge, &pending)?;
        }
        if !request.dry_run {
            pending.push(Pending {
                namespace: request.namespace.to_owned(),
                resource,
                uid: text(&object["metadata"], "uid").to_owned(),
                before: request
                    .old_object
                    .map(|old| text(&old["metadata"], "resourceVersion").to_owned())
                    .unwrap_or_default(),
                name: name(object).to_owned(),
                charge,
                at: Instant::now(),
            });
        }
        Ok(())
    }

    async fn abandon(&self, request: &AdmissionRequest<'_>) {
        let uid = request.object.as_ref().map_or("", |object| text(&object["metadata"], "uid"));
        self.pending.lock().retain(|charge| charge.uid != uid);
    }
}

fn check(
    request: &AdmissionRequest<'_>,
    quota: &Value,
    quota_name: &str,
    object: &Value,
    charge: &Charge,
    pending: &[Pending],
) -> Result<(), Status> {
    let resource = request.resource.group_resource();
    let wanted = charge.for_quota(quota);
    let pods = resource.group.is_empty() && resource.resource == "pods";
    if pods && (!has_scopes(quota) || in_scope(quota, object)) {
        must_specify(request, quota, quota_name, object)?;
    }
    let charge_of = |object: &Value| Charge::of(&resource.group, &resource.resource, object).for_quota(quota);
    let before = request.old_object.map(charge_of).unwrap_or_default();
    let delta: Usage = wanted
        .into_iter()
        .map(|(name, quantity)| {
            let had = before.get(&name).copied().unwrap_or(Quantity::ZERO);
            (name, quantity.saturating_sub(had))
        })
        .filter(|(_, quantity)| *quantity > Quantity::ZERO)
        .collect();
    if delta.is_empty() {
        return Ok(());
    }
    let used = used(request, quota, &resource, pending);
    let mut exceeded: BTreeMap<&str, [String; 3]> = BTreeMap::new();
    for (name, quantity) in &delta {
        let have = used.get(name).copied().unwrap_or(Quantity::ZERO);
        let Some(hard) = parse_quantity(&quota["hard"][name]) else { continue };
        if have.saturating_add(*quantity) > hard {
            exceeded.insert(name, [quantity.to_string(), have.to_string(), hard.to_string()]);
        }
    }
    if exceeded.is_empty() {
        return Ok(());
    }
    let part = |index: usize| {
        exceeded.iter().map(|(name, values)| format!("{name}={}", values[index])).collect::<Vec<_>>().join(",")
    };
    Err(request.forbidden(format!(
        "exceeded quota: {quota_name}, requested: {}, used: {}, limited: {}",
        part(0),
        part(1),
        part(2)
    )))
}

/// A counted compute resource must be given by every container, or it could not be counted.
fn must_specify(request: &AdmissionRequest<'_>, quota: &Value, quota_name: &str, pod: &Value) -> Result<(), Status> {
    let missing: Vec<String> = entries(quota, "hard")
        .filter_map(|(counted, _)| {
            let containers = unspecified(pod, counted);
            (!containers.is_empty()).then(|| format!("{counted} for: {}", containers.join(",")))
        })
        .collect();
    if missing.is_empty() || request.operation == AdmissionOperation::Update {
        return Ok(());
    }
    Err(request.forbidden(format!("failed quota: {quota_name}: must specify {}", missing.join("; "))))
}

/// What the namespace uses now of this resource, the charges in flight included.
fn used(request: &AdmissionRequest<'_>, quota: &Value, resource: &GroupResource, pending: &[Pending]) -> Usage {
    let mut total = Usage::new();
    let mut add = |usage: Usage| {
        for (name, quantity) in usage {
            let have = total.get(&name).copied().unwrap_or(Quantity::ZERO);
            total.insert(name, if have.is_zero() { quantity } else { have.saturating_add(quantity) });
        }
    };
    let in_flight = |object: &Object| {
        pending.iter().any(|charge| !charge.before.is_empty() && charge.uid == object.meta.uid.as_str())
    };
    for object in lookup::list(request.snapshot, resource.clone(), Some(request.namespace)) {
        let charge = |json: &bytes::Bytes| -> Result<Charge, serde_json::Error> {
            Ok(Charge::of(&resource.group, &resource.resource, &serde_json::from_slice(json)?))
        };
        if !in_flight(&object)
            && let Ok(charge) = object.derive(charge)
        {
            add(charge.for_quota(quota));
        }
    }
    for pending in pending.iter().filter(|charge| charge.resource == *resource && charge.namespace == request.namespace)
    {
        add(pending.charge.for_quota(quota));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use serde_json::json;

    fn quota(hard: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard}})
    }

    fn pod(name: &str, cpu: Option<&str>) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {"containers": [{"name": "c"}]}});
        if let Some(cpu) = cpu {
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        }
        pod
    }

    #[tokio::test]
    async fn writes_in_flight_are_counted() {
        let case = Case::new().with("", "resourcequotas", quota(json!({"pods": "2"}))).with("", "pods", pod("a", None));
        let plugin = ResourceQuota::default();
        assert!(case.create("", "pods", "n", pod("b", None)).validate(&plugin).await.is_ok());
        let error = case.create("", "pods", "n", pod("c", None)).validate(&plugin).await.unwrap_err();
        assert_eq!(
            error.message,
            "pods \"c\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
        );
    }

    #[tokio::test]
    async fn an_abandoned_write_gives_its_charge_back() {
        let case = Case::new().with("", "resourcequotas", quota(json!({"pods": "1"})));
        let plugin = ResourceQuota::default();
        let bench = case.create("", "pods", "n", pod("a", None));
        bench.validate(&plugin).await.unwrap();
        bench.abandon(&plugin).await;
        assert!(case.create("", "pods", "n", pod("b", None)).validate(&plugin).await.is_ok());
    }

    #[tokio::test]
    async fn counted_resources_must_be_given() {
        let case = Case::new().with("", "resourcequotas", quota(json!({"requests.cpu": "1"})));
        let plugin = ResourceQuota::default();
        let error = case.create("", "pods", "n", pod("a", None)).validate(&plugin).await.unwrap_err();
        assert_eq!(error.message, "pods \"a\" is forbidden: failed quota: q: must specify requests.cpu for: c");
        assert!(case.create("", "pods", "n", pod("a", Some("1"))).validate(&plugin).await.is_ok());
        let error = case.create("", "pods", "n", pod("b", Some("500m"))).validate(&plugin).await.unwrap_err();
        assert!(
            error.message.ends_with("requested: requests.cpu=500m, used: requests.cpu=1, limited: requests.cpu=1"),
            "{}",
            error.message
        );
    }

    #[tokio::test]
    async fn an_update_is_charged_with_the_difference() {
        let service = |kind: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n", "uid": "s", "resourceVersion": "2"}, "spec": {"type": kind, "ports": [{"port": 1}]}});
        let case = Case::new()
            .with("", "resourcequotas", quota(json!({"services": "1", "services.nodeports": "0"})))
            .with("", "services", service("ClusterIP"));
        let plugin = ResourceQuota::default();
        assert!(
            case.update("", "services", "n", service("ClusterIP"), service("ClusterIP"))
                .validate(&plugin)
                .await
                .is_ok()
        );
        let error = case
            .update("", "services", "n", service("NodePort"), service("ClusterIP"))
            .validate(&plugin)
            .await
            .unwrap_err();
        assert!(error.message.contains("requested: services.nodeports=1"), "{}", error.message);
    }
}
