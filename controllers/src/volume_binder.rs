//! Brings claims and volumes together: binds what is there, asks provisioners
//! for what is not, and releases volumes whose claim is gone.
//!
//! Invariants: a volume belongs to one claim, named with its uid, before the
//! claim names the volume; a bound pair is never parted; a volume released is
//! not given to another claim by itself.

use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Quantity, Selector};
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{
    seen::{self, Seen},
    write,
};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// A class whose volumes people make by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Keys are claims (with namespace) and volumes (without).
pub struct VolumeBinder;

impl Controller for VolumeBinder {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    fn event_component(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::new::<PersistentVolumeClaim>(|new, old, _| {
                let Some(claim) = new.or(old) else { return Vec::new() };
                let volume = claim.typed::<PersistentVolumeClaim>().ok().and_then(|claim| volume_name(&claim));
                let mut keys = vec![ObjectRef::of(claim)];
                keys.extend(volume.map(|name| ObjectRef::new("", name)));
                keys
            }),
            Trigger::new::<PersistentVolume>(|new, old, world| {
                let Some(volume) = new.or(old) else { return Vec::new() };
                let mut keys = vec![ObjectRef::of(volume)];
                match volume.typed::<PersistentVolume>().ok().and_then(|volume| claim_of(&volume)) {
                    Some(claim) => keys.push(claim),
                    // A free volume may suit any claim that waits.
                    None => keys.extend(waiting_claims(world)),
                }
                keys
            }),
            Trigger::new::<StorageClass>(|_, _, world| waiting_claims(world)),
        ]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<PersistentVolume>(), GroupResource::of::<PersistentVolumeClaim>()]
    }

    /// Two claims must not choose one volume at the same time.
    fn workers(&self) -> usize {
        1
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        if key.namespace.is_empty() {
            if let Some(volume) = seen::get::<PersistentVolume>(world, "", &key.name) {
                volume_step(&volume, world, context.now, &mut outcome);
            }
        } else if let Some(claim) = seen::get::<PersistentVolumeClaim>(world, &key.namespace, &key.name) {
            claim_step(&claim, world, &mut outcome);
        }
        outcome
    }
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.spec.as_ref()?.volume_name.clone().filter(|name| !name.is_empty())
}

fn claim_reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

fn claim_of(volume: &PersistentVolume) -> Option<ObjectRef> {
    let reference = claim_reference(volume)?;
    Some(ObjectRef::new(reference.namespace.clone()?, reference.name.clone()?))
}

fn waiting_claims(world: &Snapshot) -> Vec<ObjectRef> {
    let claims = seen::list::<PersistentVolumeClaim>(world, None);
    let waiting = claims.iter().filter(|claim| volume_name(&claim.typed).is_none());
    waiting.map(|claim| ObjectRef::of(&claim.object)).collect()
}

/// One step for a claim: bind it, have a volume made for it, or tell its state.
fn claim_step(claim: &Seen<PersistentVolumeClaim>, world: &Snapshot, outcome: &mut Outcome) {
    if claim.is_deleting() {
        return;
    }
    if let Some(name) = volume_name(&claim.typed) {
        return match seen::get::<PersistentVolume>(world, "", &name) {
            Some(volume) => join(claim, &volume, outcome),
            None if claim.meta().annotations.contains_key(BIND_COMPLETED) => {
                let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                outcome.events.push(write::warning(&claim.object, "ClaimLost", message));
                claim_phase(claim, "Lost", None, outcome);
            }
            None => claim_phase(claim, "Pending", None, outcome),
        };
    }
    let volumes = seen::list::<PersistentVolume>(world, None);
    let class = class_of(claim, world);
    let waits = class.as_ref().is_some_and(|class| {
        class.typed.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
            && !claim.meta().annotations.contains_key(SELECTED_NODE)
    });
    let promised = volumes.iter().find(|volume| is_promised(volume, claim));
    let chosen = promised.or_else(|| if waits { None } else { best(claim, &volumes) });
    match chosen {
        Some(volume) => join(claim, volume, outcome),
        None => {
            if waits {
                let message = "waiting for first consumer to be created before binding";
                outcome.events.push(write::normal(&claim.object, "WaitForFirstConsumer", message));
            } else {
                provision(claim, class, outcome);
            }
            claim_phase(claim, "Pending", None, outcome);
        }
    }
}

fn class_of(claim: &Seen<PersistentVolumeClaim>, world: &Snapshot) -> Option<Seen<StorageClass>> {
    let name = claim.typed.spec.as_ref()?.storage_class_name.as_deref().filter(|name| !name.is_empty())?;
    seen::get::<StorageClass>(world, "", name)
}

/// Whether a volume names this claim.
fn is_promised(volume: &Seen<PersistentVolume>, claim: &Seen<PersistentVolumeClaim>) -> bool {
    claim_reference(&volume.typed).is_some_and(|reference| {
        reference.name.as_deref() == Some(claim.name())
            && reference.namespace.as_deref() == Some(claim.namespace())
            && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
    })
}

/// The smallest free volume that does what the claim asks.
fn best<'a>(
    claim: &Seen<PersistentVolumeClaim>,
    volumes: &'a [Seen<PersistentVolume>],
) -> Option<&'a Seen<PersistentVolume>> {
    let spec = claim.typed.spec.as_ref()?;
    let wanted = quantity(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let selector = spec.selector.as_ref().map(|selector| Selector::from_object(Some(selector)));
    let selector = match selector {
        None => Selector::everything(),
        Some(selector) => selector.ok()?,
    };
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    volumes
        .iter()
        .filter(|volume| {
            let Some(have) = &volume.typed.spec else { return false };
            let have_modes = have.access_modes.as_deref().unwrap_or_default();
            let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
            !volume.is_deleting()
                && have.claim_ref.is_none()
                && have.storage_class_name.as_deref().unwrap_or_default()
                    == spec.storage_class_name.as_deref().unwrap_or_default()
                && mode(&have.volume_mode) == mode(&spec.volume_mode)
                && modes.iter().all(|mode| have_modes.contains(mode))
                && quantity(have.capacity.as_ref()) >= wanted
                && selector.matches(&volume.meta().labels)
        })
        .max_by_key(|volume| {
            let capacity = volume.typed.spec.as_ref().map(|spec| quantity(spec.capacity.as_ref()));
            (Reverse(capacity), Reverse(volume.name().to_owned()))
        })
}

type Amounts = std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn quantity(amounts: Option<&Amounts>) -> Quantity {
    let text = amounts.and_then(|amounts| amounts.get("storage")).map(|quantity| quantity.0.as_str());
    text.and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// Asks the provisioner of the claim's class for a volume.
fn provision(claim: &Seen<PersistentVolumeClaim>, class: Option<Seen<StorageClass>>, outcome: &mut Outcome) {
    let Some(class) = class else {
        let name = claim.typed.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
        if name.is_empty() {
            let message = "no persistent volumes available for this claim and no storage class is set";
            outcome.events.push(write::normal(&claim.object, "FailedBinding", message));
        } else {
            let message = format!("storageclass.storage.k8s.io {name:?} not found");
            outcome.events.push(write::warning(&claim.object, "ProvisioningFailed", message));
        }
        return;
    };
    let provisioner = class.typed.provisioner.as_str();
    if provisioner == NO_PROVISIONER {
        return;
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    outcome.events.push(write::normal(&claim.object, "ExternalProvisioning", message));
    if claim.meta().annotations.get(PROVISIONER).map(String::as_str) != Some(provisioner) {
        let body = json!({"metadata": {"uid": claim.uid(),
            "annotations": {PROVISIONER: provisioner, PROVISIONER_BETA: provisioner}}});
        outcome.push(write::merge::<PersistentVolumeClaim>(&claim.object, None, body));
    }
}

/// Makes claim and volume name each other, volume first.
fn join(claim: &Seen<PersistentVolumeClaim>, volume: &Seen<PersistentVolume>, outcome: &mut Outcome) {
    let by_uid = claim_reference(&volume.typed).and_then(|reference| reference.uid.clone());
    match by_uid.as_deref() {
        Some(uid) if !uid.is_empty() && uid != claim.uid() => {
            let message = format!("Volume {:?} is bound to another claim", volume.name());
            outcome.events.push(write::warning(&claim.object, "FailedBinding", message));
            return claim_phase(claim, "Pending", None, outcome);
        }
        Some(uid) if uid == claim.uid() => {}
        _ => {
            if claim_reference(&volume.typed).is_some() && !is_promised(volume, claim) {
                return claim_phase(claim, "Pending", None, outcome);
            }
            let mut annotations = json!({});
            if claim_reference(&volume.typed).is_none() {
                annotations[BOUND_BY_CONTROLLER] = "yes".into();
            }
            let reference = json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(),
                "name": claim.name(),
                "uid": claim.uid(),
                "resourceVersion": claim.meta().resource_version,
            });
            let body = json!({
                "metadata": {"resourceVersion": volume.meta().resource_version, "annotations": annotations},
                "spec": {"claimRef": reference},
            });
            outcome.push(write::merge::<PersistentVolume>(&volume.object, None, body));
        }
    }
    let completed = claim.meta().annotations.contains_key(BIND_COMPLETED);
    if volume_name(&claim.typed).is_none() || !completed {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if volume_name(&claim.typed).is_none() {
            annotations[BOUND_BY_CONTROLLER] = "yes".into();
        }
        let body = json!({
            "metadata": {"resourceVersion": claim.meta().resource_version, "annotations": annotations},
            "spec": {"volumeName": volume.name()},
        });
        // The status follows when this write shows.
        outcome.push(write::merge::<PersistentVolumeClaim>(&claim.object, None, body));
        return;
    }
    claim_phase(claim, "Bound", Some(volume), outcome);
}

fn claim_phase(
    claim: &Seen<PersistentVolumeClaim>,
    phase: &str,
    volume: Option<&Seen<PersistentVolume>>,
    outcome: &mut Outcome,
) {
    let Ok(value) = claim.object.value() else { return };
    let mut status = value["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    status["phase"] = phase.into();
    match volume.and_then(|volume| volume.object.value().ok()) {
        Some(volume) => {
            status["accessModes"] = volume["spec"]["accessModes"].clone();
            // A volume that grows tells its claim by itself.
            if status["capacity"].is_null() {
                status["capacity"] = volume["spec"]["capacity"].clone();
            }
        }
        None => {
            if let Some(fields) = status.as_object_mut() {
                fields.remove("accessModes");
                fields.remove("capacity");
            }
        }
    }
    let body = write::with_status(&claim.object, status);
    outcome.operations.extend(body.map(|body| write::update_status::<PersistentVolumeClaim>(&claim.object, body)));
}

/// One step for a volume: its phase follows its claim.
fn volume_step(volume: &Seen<PersistentVolume>, world: &Snapshot, now: Timestamp, outcome: &mut Outcome) {
    let Some(reference) = claim_reference(&volume.typed) else {
        return volume_phase(volume, "Available", now, outcome);
    };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid.is_empty() {
        // Promised by hand to a claim that has not taken it yet.
        return volume_phase(volume, "Available", now, outcome);
    }
    let claim = claim_of(&volume.typed)
        .and_then(|key| seen::get::<PersistentVolumeClaim>(world, &key.namespace, &key.name))
        .filter(|claim| claim.uid() == uid);
    match claim {
        Some(claim) if volume_name(&claim.typed).as_deref() == Some(volume.name()) => {
            volume_phase(volume, "Bound", now, outcome);
        }
        Some(_) => {}
        None => volume_phase(volume, "Released", now, outcome),
    }
}

fn volume_phase(volume: &Seen<PersistentVolume>, phase: &str, now: Timestamp, outcome: &mut Outcome) {
    let Ok(value) = volume.object.value() else { return };
    let mut status = value["status"].clone();
    let before = status["phase"].as_str().unwrap_or_default().to_owned();
    // A failed reclaim is for people to look at.
    if before == phase || (before == "Failed" && phase == "Released") {
        return;
    }
    if !status.is_object() {
        status = Value::Object(Default::default());
    }
    status["phase"] = phase.into();
    status["lastPhaseTransitionTime"] = write::time(now).into();
    let body = write::with_status(&volume.object, status);
    outcome.operations.extend(body.map(|body| write::update_status::<PersistentVolume>(&volume.object, body)));
}
