//! Sizes of what has a `scale` subresource, of built-in and of custom kinds.
//!
//! Reads the objects themselves: the paths that make up a Scale are known, for
//! custom kinds from their definitions. Kinds of aggregated servers are unknown here.

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceSubresourceScale,
};
use serde_json::Value;
use skiff_api::{GroupResource, GroupVersionKind, GroupVersionResource, OwnerReference, Selector, Uid, builtin};
use skiff_client::Snapshot;

use crate::seen;

/// Size of an object.
pub struct Scale {
    pub resource: GroupVersionResource,
    pub uid: Uid,
    pub replicas: i64,
    /// As many as there are.
    pub running: i64,
    /// Its pods; a custom kind need not say.
    pub selector: Option<Selector>,
    /// What scales this object itself.
    pub controller: Option<OwnerReference>,
}

/// Why there is no size.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    Kind(GroupVersionKind),
    /// The kind cannot be scaled.
    Scale(GroupResource),
    Object(GroupResource, String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Kind(kind) if kind.group.is_empty() => {
                write!(f, "no matches for kind {:?} in version {:?}", &*kind.kind, &*kind.version)
            }
            Missing::Kind(kind) => {
                write!(f, "no matches for kind {:?} in version \"{}/{}\"", &*kind.kind, kind.group, kind.version)
            }
            Missing::Scale(resource) => write!(f, "{resource} does not implement the scale subresource"),
            Missing::Object(resource, name) => write!(f, "{resource} {name:?} not found"),
        }
    }
}

/// The size of the object that a reference names.
pub fn find(world: &Snapshot, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Scale, Missing> {
    let kind = GroupVersionKind::parse(api_version, kind);
    let row = builtin().iter().find(|row| row.group == kind.group && row.kind == kind.kind && row.is_stored());
    if let Some(row) = row {
        let resource = row.group_resource();
        if !row.subresources.iter().any(|sub| sub.name == "scale") {
            return Err(Missing::Scale(resource));
        }
        let (object, value) = read(world, &resource, namespace, name)?;
        let spec = &value["spec"];
        let labels = if kind.group.is_empty() {
            Selector::from_value(Some(&serde_json::json!({"matchLabels": spec["selector"]})))
        } else {
            Selector::from_value(Some(&spec["selector"]))
        };
        return Ok(Scale {
            resource: row.gvr(),
            uid: object.meta.uid.clone(),
            replicas: spec["replicas"].as_i64().unwrap_or(1),
            running: value["status"]["replicas"].as_i64().unwrap_or(0),
            selector: labels.ok(),
            controller: object.meta.controller().cloned(),
        });
    }
    custom(world, kind, namespace, name)
}

fn custom(world: &Snapshot, kind: GroupVersionKind, namespace: &str, name: &str) -> Result<Scale, Missing> {
    let definitions = seen::list::<CustomResourceDefinition>(world, None);
    let is_named = |definition: &&seen::Seen<CustomResourceDefinition>| {
        let spec = &definition.typed.spec;
        spec.group == *kind.group && spec.names.kind == *kind.kind
    };
    let Some(definition) = definitions.iter().find(is_named) else { return Err(Missing::Kind(kind)) };
    let spec = &definition.typed.spec;
    let resource = GroupResource { group: spec.group.clone().into(), resource: spec.names.plural.clone().into() };
    let scale_of = |version: &str| -> Option<&CustomResourceSubresourceScale> {
        let version = spec.versions.iter().find(|have| have.name == version)?;
        version.subresources.as_ref()?.scale.as_ref()
    };
    if scale_of(&kind.version).is_none() {
        return Err(Missing::Scale(resource));
    }
    let namespace = if spec.scope == "Namespaced" { namespace } else { "" };
    let (object, value) = read(world, &resource, namespace, name)?;
    // The object may be kept in another version than it is named in.
    let stored = object.api_version();
    let stored = stored.rsplit_once('/').map_or(stored, |(_, version)| version);
    let Some(scale) = scale_of(stored).or_else(|| scale_of(&kind.version)) else {
        return Err(Missing::Scale(resource));
    };
    let selector = scale.label_selector_path.as_deref().and_then(|path| at(&value, path).as_str());
    Ok(Scale {
        resource: GroupVersionResource { group: resource.group, version: kind.version, resource: resource.resource },
        uid: object.meta.uid.clone(),
        replicas: at(&value, &scale.spec_replicas_path).as_i64().unwrap_or(0),
        running: at(&value, &scale.status_replicas_path).as_i64().unwrap_or(0),
        selector: selector.and_then(|text| text.parse().ok()),
        controller: object.meta.controller().cloned(),
    })
}

fn read(
    world: &Snapshot,
    resource: &GroupResource,
    namespace: &str,
    name: &str,
) -> Result<(std::sync::Arc<skiff_api::Object>, Value), Missing> {
    let object = world.store(resource).and_then(|store| store.get(namespace, name));
    let found = object.and_then(|object| object.value().ok().map(|value| (object, value)));
    found.ok_or_else(|| Missing::Object(resource.clone(), name.to_owned()))
}

/// What a path such as `.spec.replicas` leads to; definitions allow no other form.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').filter(|part| !part.is_empty()).fold(value, |value, part| &value[part])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulation;

    /// A world with a custom kind that is kept in `v1` and can be scaled in it.
    pub fn world() -> Simulation {
        let mut simulation = Simulation::new(
            "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rings.e.io}
spec:
  group: e.io
  scope: Namespaced
  names: {kind: Ring, plural: rings}
  versions:
  - {name: v1, served: true, storage: true, subresources: {scale: {specReplicasPath: .spec.size,
      statusReplicasPath: .status.size, labelSelectorPath: .status.selector}}}
  - {name: v2, served: true, storage: false}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s, namespace: d, uid: u}
spec: {replicas: 3, selector: {matchLabels: {a: b}}}",
        );
        simulation.serve(GroupResource::new("e.io", "rings"));
        simulation.put_in(
            GroupResource::new("e.io", "rings"),
            serde_json::json!({"apiVersion": "e.io/v1", "kind": "Ring", "metadata": {"name": "r", "namespace": "d",
                "uid": "ring"}, "spec": {"size": 4}, "status": {"selector": "a=b"}}),
        );
        simulation
    }

    #[test]
    fn built_in_and_custom_kinds_tell_their_sizes() {
        let simulation = world();
        let ask = |version: &str, kind: &str, name: &str| find(&simulation.world, version, kind, "d", name);
        let labels = [("a".to_owned(), "b".to_owned())].into();
        for (version, kind, name, replicas, resource) in
            [("apps/v1", "StatefulSet", "s", 3, "statefulsets.apps"), ("e.io/v1", "Ring", "r", 4, "rings.e.io")]
        {
            let scale = ask(version, kind, name).unwrap_or_else(|missing| panic!("{missing}"));
            assert_eq!((scale.replicas, scale.resource.group_resource().to_string().as_str()), (replicas, resource));
            assert!(scale.selector.is_some_and(|selector| selector.matches(&labels)), "{kind}");
        }
        for (version, kind, name, wanted) in [
            ("batch/v1", "Job", "j", "jobs.batch does not implement the scale subresource"),
            ("e.io/v2", "Ring", "r", "rings.e.io does not implement the scale subresource"),
            ("e.io/v1", "Ring", "other", "rings.e.io \"other\" not found"),
            ("f.io/v1", "Odd", "o", "no matches for kind \"Odd\" in version \"f.io/v1\""),
        ] {
            assert_eq!(ask(version, kind, name).err().unwrap().to_string(), wanted);
        }
    }
}
