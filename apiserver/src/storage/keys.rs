//! Where objects lie in the store.
//!
//! The layout is upstream's, so that a key found in its documentation, in a
//! backup tool or with `etcdctl` is the key here: built-in resources lie at
//! `/registry/<plural>/[<namespace>/]<name>`, a few under older names, and
//! the resources of the extension and aggregation layers and all custom
//! resources at `/registry/<group>/<plural>/[<namespace>/]<name>`. The two
//! cannot meet: a group has a dot, a plural has none.

use std::{collections::HashMap, sync::LazyLock};

use skiff_api::{GroupResource, resources};

/// Root of all keys of the API server.
pub const ROOT: &str = "/registry/";

/// Built-in resources that do not lie under their plural.
const OLDER_NAMES: [(GroupResource, &str); 5] = [
    (GroupResource::new("", "endpoints"), "services/endpoints"),
    (GroupResource::new("", "nodes"), "minions"),
    (GroupResource::new("", "replicationcontrollers"), "controllers"),
    (GroupResource::new("", "services"), "services/specs"),
    (GroupResource::new("networking.k8s.io", "ingresses"), "ingress"),
];

/// Groups that upstream serves from a store of their own, by group.
const BY_GROUP: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

static BUILTIN: LazyLock<HashMap<GroupResource, String>> = LazyLock::new(|| {
    let rows = resources::builtin().iter().filter_map(|row| row.storage.clone());
    rows.filter(|resource| !BY_GROUP.contains(&&*resource.group))
        .map(|resource| {
            let older = OLDER_NAMES.iter().find(|(of, _)| *of == resource).map(|(_, name)| *name);
            let prefix = format!("{ROOT}{}/", older.unwrap_or(&resource.resource));
            (resource, prefix)
        })
        .collect()
});

/// The prefix of a resource's keys; ends in a slash.
pub fn resource_prefix(resource: &GroupResource) -> String {
    match BUILTIN.get(resource) {
        Some(prefix) => prefix.clone(),
        None => format!("{ROOT}{}/{}/", resource.group, resource.resource),
    }
}

/// The key of one object.
pub fn object_key(resource: &GroupResource, namespace: &str, name: &str) -> String {
    let prefix = resource_prefix(resource);
    if namespace.is_empty() { format!("{prefix}{name}") } else { format!("{prefix}{namespace}/{name}") }
}

/// The prefix of the resource a key belongs to.
pub fn prefix_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix(ROOT)?;
    let first = rest.find('/')?;
    let two_parts = rest[..first].contains('.') || &rest[..first] == "services";
    let end = if two_parts { first + 1 + rest[first + 1..].find('/')? } else { first };
    Some(&key[..ROOT.len() + end + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_upstreams() {
        let key = |group, resource, namespace| object_key(&GroupResource::new(group, resource), namespace, "x");
        assert_eq!(key("", "pods", "n"), "/registry/pods/n/x");
        assert_eq!(key("", "nodes", ""), "/registry/minions/x");
        assert_eq!(key("", "services", "n"), "/registry/services/specs/n/x");
        assert_eq!(key("", "endpoints", "n"), "/registry/services/endpoints/n/x");
        assert_eq!(key("", "replicationcontrollers", "n"), "/registry/controllers/n/x");
        assert_eq!(key("apps", "deployments", "n"), "/registry/deployments/n/x");
        assert_eq!(key("networking.k8s.io", "ingresses", "n"), "/registry/ingress/n/x");
        assert_eq!(key("rbac.authorization.k8s.io", "roles", "n"), "/registry/roles/n/x");
        assert_eq!(
            key("apiextensions.k8s.io", "customresourcedefinitions", ""),
            "/registry/apiextensions.k8s.io/customresourcedefinitions/x"
        );
        assert_eq!(key("apiregistration.k8s.io", "apiservices", ""), "/registry/apiregistration.k8s.io/apiservices/x");
        assert_eq!(key("example.com", "widgets", "n"), "/registry/example.com/widgets/n/x");
    }

    #[test]
    fn keys_lead_back_to_their_resource_and_no_two_resources_share_a_prefix() {
        let mut seen = HashMap::new();
        for resource in resources::builtin().iter().filter_map(|row| row.storage.clone()) {
            let prefix = resource_prefix(&resource);
            assert_eq!(prefix_of(&object_key(&resource, "n", "p")), Some(prefix.as_str()));
            let other = seen.insert(prefix, resource.clone());
            assert!(other.is_none_or(|other| other == resource), "{resource:?}");
        }
        assert_eq!(prefix_of("/registry/example.com/widgets/n/w"), Some("/registry/example.com/widgets/"));
        assert_eq!(prefix_of("/bootstrap/x"), None);
        assert_eq!(prefix_of("/registry/pods"), None);
        assert_eq!(prefix_of("/registry/services/specs"), None);
    }
}
