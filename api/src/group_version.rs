//! Names of API groups, versions, kinds and resources, and the URL paths they make.

use std::{borrow::Cow, fmt};

/// Text that is usually a constant of the program and sometimes comes from a
/// custom resource definition.
pub type Name = Cow<'static, str>;

/// A resource without its version: the identity of a store or a watch cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// Empty for the core group.
    pub group: Name,
    /// Lower-case plural, for example `pods`.
    pub resource: Name,
}

impl GroupResource {
    pub const fn new(group: &'static str, resource: &'static str) -> Self {
        GroupResource { group: Cow::Borrowed(group), resource: Cow::Borrowed(resource) }
    }

    /// The resource of a typed kind.
    pub fn of<K: k8s_openapi::Resource>() -> Self {
        GroupResource::new(K::GROUP, K::URL_PATH_SEGMENT)
    }
}

/// `deployments.apps`; the core group has no suffix.
impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

/// A kind without its version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    pub group: Name,
    pub kind: Name,
}

/// A fully named kind, as in `apiVersion` and `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
}

impl GroupVersionKind {
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        GroupVersionKind { group: Cow::Borrowed(group), version: Cow::Borrowed(version), kind: Cow::Borrowed(kind) }
    }

    /// Splits an `apiVersion` (`v1`, `apps/v1`) and joins it with a kind.
    pub fn parse(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        GroupVersionKind {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Owned(version.to_owned()),
            kind: Cow::Owned(kind.to_owned()),
        }
    }

    /// The `apiVersion` text.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// A fully named resource, as in a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    pub group: Name,
    pub version: Name,
    pub resource: Name,
}

impl GroupVersionResource {
    pub const fn new(group: &'static str, version: &'static str, resource: &'static str) -> Self {
        GroupVersionResource {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            resource: Cow::Borrowed(resource),
        }
    }

    /// The resource of a typed kind.
    pub fn of<K: k8s_openapi::Resource>() -> Self {
        GroupVersionResource::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone(), resource: self.resource.clone() }
    }

    /// The `apiVersion` text.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// URL path of the collection, or of all namespaces when `namespace` is `None`.
    pub fn collection_path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.resource),
            None => format!("{root}/{}", self.resource),
        }
    }

    /// URL path of one object, with an optional subresource.
    pub fn object_path(&self, namespace: Option<&str>, name: &str, subresource: Option<&str>) -> String {
        let collection = self.collection_path(namespace);
        match subresource {
            Some(subresource) => format!("{collection}/{name}/{subresource}"),
            None => format!("{collection}/{name}"),
        }
    }
}

/// Joins group and version the way `apiVersion` does.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
