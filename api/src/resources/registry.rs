//! Lookup over the rows, built-in and custom.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;

use super::{builtin, group_rank};
use crate::{GroupResource, GroupVersionKind, GroupVersionResource, group_version::Name, resource::Resource};

/// An immutable set of rows with indexes. Cheap to hold; a changed registry makes a new one.
#[derive(Default)]
pub struct Table {
    /// Rises with every change of the registry.
    pub version: u64,
    rows: Vec<Arc<Resource>>,
    by_resource: HashMap<Name, HashMap<Name, HashMap<Name, Arc<Resource>>>>,
    by_kind: HashMap<GroupVersionKind, Arc<Resource>>,
    /// Versions of a group, preferred first.
    versions: BTreeMap<(usize, Name), Vec<Name>>,
}

impl Table {
    fn new(version: u64, rows: Vec<Arc<Resource>>) -> Table {
        let mut table = Table { version, ..Table::default() };
        for row in &rows {
            let versions = table.versions.entry((group_rank(&row.group), row.group.clone())).or_default();
            if !versions.contains(&row.version) {
                versions.push(row.version.clone());
            }
            let group = table.by_resource.entry(row.group.clone()).or_default();
            group.entry(row.version.clone()).or_default().insert(row.plural.clone(), Arc::clone(row));
            table.by_kind.entry(row.gvk()).or_insert_with(|| Arc::clone(row));
        }
        for versions in table.versions.values_mut() {
            versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        }
        table.rows = rows;
        table
    }

    /// All rows: built-in first, then custom ones in order of arrival.
    pub fn rows(&self) -> &[Arc<Resource>] {
        &self.rows
    }

    /// The row that serves `plural` in a group and version.
    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_resource.get(group)?.get(version)?.get(plural)
    }

    /// The row of a kind.
    pub fn by_kind(&self, gvk: &GroupVersionKind) -> Option<&Arc<Resource>> {
        self.by_kind.get(gvk)
    }

    /// The row of a resource in its group's preferred version that has it.
    pub fn preferred(&self, resource: &GroupResource) -> Option<&Arc<Resource>> {
        let versions = self.versions(&resource.group);
        versions.iter().find_map(|version| self.lookup(&resource.group, version, &resource.resource))
    }

    /// The row of a kind in its group's preferred version that has it.
    pub fn preferred_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.versions(group).iter().find_map(|version| {
            let gvk = GroupVersionKind {
                group: Name::Owned(group.to_owned()),
                version: version.clone(),
                kind: Name::Owned(kind.to_owned()),
            };
            self.by_kind(&gvk)
        })
    }

    /// Groups in discovery order.
    pub fn groups(&self) -> impl Iterator<Item = &Name> {
        self.versions.keys().map(|(_, group)| group)
    }

    /// Versions of a group, preferred first; empty for an unknown group.
    pub fn versions(&self, group: &str) -> &[Name] {
        let key = (group_rank(group), Name::Owned(group.to_owned()));
        self.versions.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Rows of one group and version, sorted by plural.
    pub fn group_version(&self, group: &str, version: &str) -> Vec<Arc<Resource>> {
        let found = self.by_resource.get(group).and_then(|versions| versions.get(version));
        let mut rows: Vec<Arc<Resource>> = found.into_iter().flat_map(|rows| rows.values().cloned()).collect();
        rows.sort_by(|a, b| a.plural.cmp(&b.plural));
        rows
    }

    /// One row for every store, in its storage version where that is served:
    /// what namespace deletion, garbage collection and migration walk over.
    pub fn stored(&self) -> Vec<Arc<Resource>> {
        let mut seen: HashMap<GroupResource, Arc<Resource>> = HashMap::new();
        for row in &self.rows {
            let Some(store) = &row.storage else { continue };
            let is_storage_version = row
                .storage_version
                .as_ref()
                .is_some_and(|(group, version)| *group == row.group && *version == row.version);
            if is_storage_version || !seen.contains_key(store) {
                seen.insert(store.clone(), Arc::clone(row));
            }
        }
        let mut rows: Vec<Arc<Resource>> = seen.into_values().collect();
        rows.sort_by_key(|row| (group_rank(&row.group), row.group_resource()));
        rows
    }
}

/// Orders versions as upstream does: general availability over beta over alpha,
/// then by number; anything else last, in reverse alphabetical order.
fn version_priority(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (major, tail) = rest.split_at(digits);
    let Ok(major) = major.parse::<u64>() else { return other };
    let none = std::cmp::Reverse(String::new());
    let minor = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    if tail.is_empty() {
        (3, major, 0, none)
    } else if let Some(minor) = tail.strip_prefix("beta").and_then(minor) {
        (2, major, minor, none)
    } else if let Some(minor) = tail.strip_prefix("alpha").and_then(minor) {
        (1, major, minor, none)
    } else {
        other
    }
}

/// The rows in force. Readers take a [`Table`] and keep it as long as they need
/// one consistent view.
pub struct ResourceRegistry {
    table: RwLock<Arc<Table>>,
}

impl ResourceRegistry {
    /// A registry of the built-in rows.
    pub fn builtin() -> ResourceRegistry {
        ResourceRegistry { table: RwLock::new(Arc::new(Table::new(1, builtin().to_vec()))) }
    }

    /// The present rows.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read())
    }

    /// Rises with every change.
    pub fn version(&self) -> u64 {
        self.table.read().version
    }

    /// See [`Table::lookup`].
    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.table.read().lookup(group, version, plural).cloned()
    }

    /// See [`Table::by_kind`].
    pub fn by_kind(&self, gvk: &GroupVersionKind) -> Option<Arc<Resource>> {
        self.table.read().by_kind(gvk).cloned()
    }

    /// See [`Table::preferred`].
    pub fn preferred(&self, resource: &GroupResource) -> Option<Arc<Resource>> {
        self.table.read().preferred(resource).cloned()
    }

    /// Adds rows, or replaces those of the same group, version and plural.
    pub fn add(&self, rows: impl IntoIterator<Item = Arc<Resource>>) {
        self.change(|have| {
            for row in rows {
                let gvr = row.gvr();
                match have.iter_mut().find(|old| old.gvr() == gvr) {
                    Some(old) => *old = row,
                    None => have.push(row),
                }
            }
        });
    }

    /// Removes rows that match; built-in ones included, so be precise.
    pub fn remove(&self, matches: impl Fn(&Resource) -> bool) {
        self.change(|rows| rows.retain(|row| !matches(row)));
    }

    /// Replaces all versions of one resource at once, so that no reader sees it absent.
    pub fn replace(&self, resource: &GroupResource, rows: Vec<Arc<Resource>>) {
        self.change(|have| {
            have.retain(|row| row.group_resource() != *resource);
            have.extend(rows);
        });
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Arc<Resource>>)) {
        let mut table = self.table.write();
        let mut rows = table.rows.clone();
        edit(&mut rows);
        *table = Arc::new(Table::new(table.version + 1, rows));
    }

    /// The row a fully named resource belongs to.
    pub fn get(&self, gvr: &GroupVersionResource) -> Option<Arc<Resource>> {
        self.lookup(&gvr.group, &gvr.version, &gvr.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_upstream_orders_them() {
        let mut versions = vec!["v1beta1", "v10", "v1", "foo", "v1alpha1", "v11beta2", "v2", "bar", "v1beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v1beta2", "v1beta1", "v1alpha1", "bar", "foo"]);
    }

    #[test]
    fn a_custom_row_comes_and_goes_and_raises_the_version() {
        let registry = ResourceRegistry::builtin();
        let before = registry.version();
        let mut row = Resource::clone(&registry.lookup("apps", "v1", "deployments").unwrap());
        (row.group, row.plural, row.kind) = ("example.com".into(), "widgets".into(), "Widget".into());
        let old = registry.table();
        registry.add([Arc::new(row)]);
        assert!(registry.version() > before);
        assert!(registry.lookup("example.com", "v1", "widgets").is_some());
        assert!(old.lookup("example.com", "v1", "widgets").is_none(), "a held table does not change");
        assert_eq!(registry.table().groups().last().unwrap(), "example.com");
        registry.replace(&GroupResource::new("example.com", "widgets"), Vec::new());
        assert!(registry.lookup("example.com", "v1", "widgets").is_none());
    }

    #[test]
    fn two_views_of_one_store_are_walked_once() {
        let registry = ResourceRegistry::builtin();
        let stored = registry.table().stored();
        assert_eq!(stored.iter().filter(|row| row.plural == "events").count(), 1);
        let scalers: Vec<_> = stored.iter().filter(|row| row.plural == "horizontalpodautoscalers").collect();
        assert_eq!(scalers.len(), 1);
        assert_eq!(scalers[0].version, "v2");
    }
}
