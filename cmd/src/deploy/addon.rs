//! `Addon` (skiff.io/v1): what the deploy controller applied from one file.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionResource, ObjectReference, Resource, ResourceRegistry};

pub const GROUP: &str = "skiff.io";
pub const VERSION: &str = "v1";
pub const NAMESPACE: &str = "kube-system";
pub const ADDONS: GroupVersionResource = GroupVersionResource::new(GROUP, VERSION, "addons");

/// The row of the resource table: a plain, schemaless, namespaced kind.
pub fn resource() -> Option<Arc<Resource>> {
    let builtin = ResourceRegistry::builtin();
    let model = builtin.lookup("", "v1", "configmaps")?;
    Some(Arc::new(Resource {
        group: GROUP.into(),
        version: VERSION.into(),
        kind: "Addon".into(),
        list_kind: "AddonList".into(),
        plural: "addons".into(),
        singular: "addon".into(),
        short_names: Vec::new(),
        storage: Some(GroupResource::new(GROUP, "addons")),
        storage_version: Some((GROUP.into(), VERSION.into())),
        storage_version_hash: "".into(),
        schema: None,
        columns: model.columns.iter().filter(|column| column.name == "Name" || column.name == "Age").cloned().collect(),
        ..(*model).clone()
    }))
}

/// The addon of a file, for events.
pub fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "Addon".to_owned(),
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
        ..ObjectReference::default()
    }
}

/// An object that was applied, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub gvr: GroupVersionResource,
    pub namespace: Option<String>,
    pub name: String,
}

impl Applied {
    fn encode(&self) -> Value {
        json!({"group": self.gvr.group, "version": self.gvr.version, "resource": self.gvr.resource,
            "namespace": self.namespace, "name": self.name})
    }

    fn decode(value: &Value) -> Option<Applied> {
        let text = |field: &str| Some(value.get(field)?.as_str()?.to_owned());
        Some(Applied {
            gvr: GroupVersionResource {
                group: text("group")?.into(),
                version: text("version")?.into(),
                resource: text("resource")?.into(),
            },
            namespace: text("namespace"),
            name: text("name")?,
        })
    }
}

/// The object for a file that was applied.
pub fn object(name: &str, source: &str, checksum: &str, applied: &[Applied]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Addon",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"source": source, "checksum": checksum},
        "status": {"objects": applied.iter().map(Applied::encode).collect::<Vec<_>>()},
    })
}

/// Checksum and objects of an addon.
pub fn read(addon: &Value) -> (String, Vec<Applied>) {
    let checksum = addon.pointer("/spec/checksum").and_then(Value::as_str).unwrap_or_default().to_owned();
    let objects = addon.pointer("/status/objects").and_then(Value::as_array);
    (checksum, objects.into_iter().flatten().filter_map(Applied::decode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_read_back() {
        let applied = vec![Applied {
            gvr: GroupVersionResource::new("apps", "v1", "deployments"),
            namespace: Some("n".into()),
            name: "d".into(),
        }];
        assert_eq!(read(&object("a", "a.yaml", "abc", &applied)), ("abc".to_owned(), applied));
    }
}
