//! Volumes decide where a pod can run: bound claims by the node affinity of
//! their volume; unbound ones by letting their provisioner know the node first.

use std::collections::HashSet;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::json;
use skiff_api::GroupVersionResource;
use skiff_client::{Operation, Patch};

use super::{Plugin, Rejection, View};
use crate::{
    node_info::NodeInfo,
    pod_info::{NodeTerm, PodInfo},
};

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// The claims of one pod.
pub struct Prepared {
    /// Node terms of bound volumes; each list holds alternatives.
    affinities: Vec<Vec<NodeTerm>>,
    /// (namespace, name) of claims that wait for the first pod, with the node chosen for them already.
    waiting: Vec<(String, String, Option<String>)>,
    /// Claims used by this pod that only one pod may use.
    exclusive: HashSet<String>,
}

impl Prepared {
    pub fn new(pod: &PodInfo, view: &View) -> Result<Prepared, Rejection> {
        let mut prepared = Prepared { affinities: Vec::new(), waiting: Vec::new(), exclusive: HashSet::new() };
        for name in claims(pod) {
            prepared.add(&name, pod, view)?;
        }
        if !prepared.exclusive.is_empty() {
            let taken = view.nodes.iter().flat_map(|node| &node.pods).any(|other| {
                other.namespace() == pod.namespace()
                    && claims(other).iter().any(|claim| prepared.exclusive.contains(claim))
            });
            if taken {
                let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
                return Err(Rejection::new(Plugin::VolumeBinding, reason));
            }
        }
        Ok(prepared)
    }

    fn add(&mut self, name: &str, pod: &PodInfo, view: &View) -> Result<(), Rejection> {
        let missing = || Rejection::firm(Plugin::VolumeBinding, format!("persistentvolumeclaim \"{name}\" not found"));
        let object = view.world.object::<PersistentVolumeClaim>(pod.namespace(), name).ok_or_else(missing)?;
        let claim = object.typed::<PersistentVolumeClaim>().map_err(|_| missing())?;
        if object.meta.is_deleting() {
            let reason = format!("persistentvolumeclaim \"{name}\" is being deleted");
            return Err(Rejection::firm(Plugin::VolumeBinding, reason));
        }
        let Some(spec) = &claim.spec else { return Err(missing()) };
        if spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod") {
            self.exclusive.insert(name.to_owned());
        }
        let volume_name = spec.volume_name.as_deref().unwrap_or_default();
        if !volume_name.is_empty() {
            return self.add_bound(name, volume_name, view);
        }
        let class = spec.storage_class_name.as_deref().unwrap_or_default();
        let class = view.world.get::<StorageClass>("", class);
        let waits = class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        if !waits {
            let reason = "pod has unbound immediate PersistentVolumeClaims";
            return Err(Rejection::firm(Plugin::VolumeBinding, reason));
        }
        let selected = object.meta.annotations.get(SELECTED_NODE).cloned();
        self.waiting.push((pod.namespace().to_owned(), name.to_owned(), selected));
        Ok(())
    }

    fn add_bound(&mut self, claim: &str, volume: &str, view: &View) -> Result<(), Rejection> {
        let Some(volume) = view.world.get::<PersistentVolume>("", volume) else {
            let reason =
                format!("persistentvolumeclaim \"{claim}\" bound to non-existent persistentvolume \"{volume}\"");
            return Err(Rejection::firm(Plugin::VolumeBinding, reason));
        };
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        if let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) {
            self.affinities.push(required.node_selector_terms.iter().filter_map(NodeTerm::new).collect());
        }
        Ok(())
    }

    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let fits =
            self.affinities.iter().all(|terms| terms.iter().any(|term| term.matches(node.name(), node.labels())));
        if fits {
            return Ok(());
        }
        let reason = "node(s) didn't match PersistentVolume's node affinity";
        Err(Rejection::firm(Plugin::VolumeBinding, reason))
    }

    /// Tells the provisioners of waiting claims which node it will be.
    pub fn selections(&self, node: &str) -> Vec<Operation> {
        self.waiting
            .iter()
            .filter(|(_, _, selected)| selected.as_deref() != Some(node))
            .map(|(namespace, name, _)| Operation::Patch {
                resource: GroupVersionResource::new("", "v1", "persistentvolumeclaims"),
                namespace: Some(namespace.clone()),
                name: name.clone(),
                subresource: None,
                patch: Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: node}}})),
            })
            .collect()
    }

    /// The node that provisioners were told before.
    pub fn selected_node(&self) -> Option<&str> {
        self.waiting.iter().find_map(|(_, _, selected)| selected.as_deref())
    }

    /// Whether the pod must wait for provisioners before it can be bound.
    pub fn must_wait(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Names of the claims a pod uses, those of ephemeral volumes included.
fn claims(pod: &PodInfo) -> Vec<String> {
    let volumes = pod.spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes
        .iter()
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
            _ => None,
        })
        .collect()
}
