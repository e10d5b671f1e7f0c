//! Keeps volumes and claims alive while somebody uses them, by a finalizer.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::json;
use skiff_api::{GroupResource, Object};
use skiff_client::{Context, Controller, ObjectRef, Operation, Outcome, Snapshot, Trigger};

use crate::{pod, seen, write};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Claims stay while a pod uses them.
pub struct ClaimProtectionController;

impl Controller for ClaimProtectionController {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself::<PersistentVolumeClaim>(),
            Trigger::new::<Pod>(|new, old, _| {
                // Only the end of a pod can free a claim.
                let Some(pod) = new.or(old) else { return Vec::new() };
                let Ok(typed) = pod.typed::<Pod>() else { return Vec::new() };
                if new.is_some() && !pod::is_terminal(&typed) {
                    return Vec::new();
                }
                let names = claims(&typed, &pod.meta.name).into_iter();
                names.map(|name| ObjectRef::new(pod.meta.namespace.clone(), name)).collect()
            }),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<Pod>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(claim) = world.object::<PersistentVolumeClaim>(&key.namespace, &key.name) else { return outcome };
        let in_use = || {
            seen::list::<Pod>(world, Some(&key.namespace)).iter().any(|pod| {
                !pod::is_terminal(&pod.typed)
                    && !pod::node_name(&pod.typed).is_empty()
                    && claims(&pod.typed, pod.name()).contains(&key.name)
            })
        };
        outcome.operations.extend(protect::<PersistentVolumeClaim>(&claim, CLAIM_FINALIZER, in_use));
        outcome
    }
}

/// Volumes stay while a claim is bound to them.
pub struct VolumeProtectionController;

impl Controller for VolumeProtectionController {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<PersistentVolume>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(volume) = seen::get::<PersistentVolume>(world, "", &key.name) else { return outcome };
        let phase = volume.typed.status.as_ref().and_then(|status| status.phase.as_deref());
        let bound = phase == Some("Bound");
        outcome.operations.extend(protect::<PersistentVolume>(&volume.object, VOLUME_FINALIZER, || bound));
        outcome
    }
}

/// Adds the finalizer to a living object, removes it from a dying one that is not in use.
fn protect<K: k8s_openapi::Resource>(
    object: &Object,
    finalizer: &str,
    in_use: impl FnOnce() -> bool,
) -> Option<Operation> {
    let have = &object.meta.finalizers;
    let is_protected = have.iter().any(|name| name == finalizer);
    let finalizers: Vec<&str> = match (object.meta.is_deleting(), is_protected) {
        (false, false) => have.iter().map(String::as_str).chain([finalizer]).collect(),
        (true, true) if !in_use() => have.iter().map(String::as_str).filter(|name| *name != finalizer).collect(),
        _ => return None,
    };
    let body = json!({"metadata": {"resourceVersion": object.meta.resource_version, "finalizers": finalizers}});
    Some(write::merge::<K>(object, None, body))
}

/// Names of the claims a pod uses.
fn claims(pod: &Pod, pod_name: &str) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{pod_name}-{}", volume.name)),
            _ => None,
        })
        .collect()
}
