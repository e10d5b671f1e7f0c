//! Short notation in which the built-in rows are written.

use base64::Engine as _;
use serde_json::Value;

use crate::{
    GroupResource, GroupVersionKind,
    group_version::Name,
    printers,
    resource::{Column, FieldSource, Origin, Resource, SelectableField, Subresource, Verb, Verbs},
    schema::Root,
};

/// What discovery shows for a proxying subresource that takes any method.
pub(super) const PROXY: Verbs =
    Verbs::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update, Verb::Connect]);
/// What discovery shows for `exec` and its like.
pub(super) const STREAM: Verbs = Verbs::of(&[Verb::Create, Verb::Get, Verb::Connect]);
pub(super) const CREATE: Verbs = Verbs::of(&[Verb::Create]);

/// A stored, namespaced resource with the standard verbs and only name and age as columns.
pub(super) fn row(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Resource {
    Resource {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: Verbs::STANDARD,
        subresources: Vec::new(),
        origin: Origin::BuiltIn,
        storage: Some(GroupResource::new(group, plural)),
        storage_version: Some((group.into(), version.into())),
        storage_version_hash: storage_version_hash(group, version, kind).into(),
        status_isolated: false,
        selectable_fields: Vec::new(),
        columns: vec![printers::name(), printers::age()],
        open_api: None,
        schema: Root::for_kind(&GroupVersionKind::new(group, version, kind)),
        create_on_update: false,
        unconditional_update: true,
        graceful_deletion: false,
        default_finalizers: Vec::new(),
        default_orphan: false,
    }
}

/// A resource that only answers a posted question; nothing is stored.
pub(super) fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Resource {
    Resource {
        verbs: CREATE,
        storage: None,
        storage_version: None,
        storage_version_hash: "".into(),
        columns: Vec::new(),
        namespaced: false,
        ..row(group, "v1", kind, plural)
    }
}

/// Changes of a row that read as a sentence.
pub(super) trait Describe: Sized {
    fn edit(self, change: impl FnOnce(&mut Resource)) -> Resource;

    fn cluster(self) -> Resource {
        self.edit(|row| row.namespaced = false)
    }

    fn short(self, names: &[&'static str]) -> Resource {
        self.edit(|row| row.short_names = names.iter().map(|name| Name::Borrowed(name)).collect())
    }

    /// Shown by `kubectl get all`.
    fn in_all(self) -> Resource {
        self.categories(&["all"])
    }

    fn categories(self, names: &[&'static str]) -> Resource {
        self.edit(|row| row.categories = names.iter().map(|name| Name::Borrowed(name)).collect())
    }

    /// A `status` subresource of the same kind.
    fn status(self) -> Resource {
        self.edit(|row| row.status_isolated = true).same_kind("status", Verbs::GET_PATCH_UPDATE)
    }

    /// A `scale` subresource.
    fn scale(self) -> Resource {
        self.sub("scale", "autoscaling", "v1", "Scale", Verbs::GET_PATCH_UPDATE)
    }

    /// A subresource whose body is the object itself.
    fn same_kind(self, name: &'static str, verbs: Verbs) -> Resource {
        self.edit(|row| {
            let (group, version, kind) = (row.group.clone(), row.version.clone(), row.kind.clone());
            row.subresources.push(Subresource { name: name.into(), group, version, kind, verbs });
        })
    }

    fn sub(
        self,
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        verbs: Verbs,
    ) -> Resource {
        self.edit(|row| {
            row.subresources.push(Subresource {
                name: name.into(),
                group: group.into(),
                version: version.into(),
                kind: kind.into(),
                verbs,
            });
        })
    }

    /// A selectable field read at its own path, `""` when absent.
    fn select(self, path: &'static str) -> Resource {
        self.select_or(path, "")
    }

    /// A selectable field read at its own path, with the text of an absent value.
    fn select_or(self, path: &'static str, absent: &'static str) -> Resource {
        let source = FieldSource::Pointer(format!("/{}", path.replace('.', "/")).into());
        self.edit(|row| {
            row.selectable_fields.push(SelectableField { path: path.into(), source, absent: absent.into() })
        })
    }

    fn select_by(self, path: &'static str, compute: fn(&Value) -> String) -> Resource {
        let source = FieldSource::Computed(compute);
        self.edit(|row| row.selectable_fields.push(SelectableField { path: path.into(), source, absent: "".into() }))
    }

    fn columns(self, columns: Vec<Column>) -> Resource {
        self.edit(|row| row.columns = columns)
    }

    fn create_on_update(self) -> Resource {
        self.edit(|row| row.create_on_update = true)
    }

    /// PUT needs a resourceVersion.
    fn conditional_update(self) -> Resource {
        self.edit(|row| row.unconditional_update = false)
    }

    fn default_orphan(self) -> Resource {
        self.edit(|row| row.default_orphan = true)
    }
}

impl Describe for Resource {
    fn edit(mut self, change: impl FnOnce(&mut Resource)) -> Resource {
        change(&mut self);
        self
    }
}

/// Upstream's hash of the storage version: the first eight bytes of SHA-256 over
/// `group/version/Kind`, in base64.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let text = format!("{group}/{version}/{kind}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest.as_ref()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_version_hashes_are_those_of_upstream_discovery() {
        assert_eq!(storage_version_hash("", "v1", "Pod"), "xPOwRZ+Yhw8=");
        assert_eq!(storage_version_hash("apps", "v1", "Deployment"), "8aSe+NMegvE=");
    }
}
