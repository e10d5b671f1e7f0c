//! The table of built-in resources, and the registry that adds custom ones.
//!
//! [`builtin`] makes every row once. [`ResourceRegistry`] answers lookups by
//! resource and by kind, and takes rows added and removed at run time; its
//! version counter rises with every change, and readers share an immutable
//! [`Table`], so discovery and OpenAPI documents can be cached by version.

mod apps;
mod batch;
mod build;
mod core;
pub mod custom;
mod extension;
mod network;
mod policy;
mod registry;
mod review;
mod storage;

use std::sync::{Arc, LazyLock};

pub use registry::{ResourceRegistry, Table};

use crate::resource::Resource;

/// All built-in rows: the core group first, then groups in the order of
/// discovery, resources in alphabetical order.
pub fn builtin() -> &'static [Arc<Resource>] {
    static ROWS: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| {
        let parts = [
            core::rows(),
            apps::rows(),
            batch::rows(),
            review::rows(),
            network::rows(),
            policy::rows(),
            storage::rows(),
            extension::rows(),
        ];
        let mut rows: Vec<Resource> = parts.into_iter().flatten().collect();
        rows.sort_by(|a, b| (group_rank(&a.group), &a.plural).cmp(&(group_rank(&b.group), &b.plural)));
        rows.into_iter().map(Arc::new).collect()
    });
    &ROWS
}

/// Groups in upstream's discovery order, which decides between equal short names and kinds.
const GROUP_ORDER: [&str; 22] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
    "storagemigration.k8s.io",
];

/// Position of a group in discovery; groups of custom resources come last.
pub fn group_rank(group: &str) -> usize {
    GROUP_ORDER.iter().position(|known| *known == group).unwrap_or(GROUP_ORDER.len())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::resource::Verb;

    #[test]
    fn rows_are_unique_and_every_stored_one_has_a_schema() {
        let mut seen = HashSet::new();
        for row in builtin() {
            assert!(seen.insert(row.gvr()), "{row:?} twice");
            assert!(row.schema.is_some() || row.plural == "componentstatuses", "{row:?} has no schema");
            assert_eq!(row.is_stored(), row.verbs.contains(Verb::Update), "{row:?}");
            assert!(group_rank(&row.group) < GROUP_ORDER.len(), "{row:?}");
            assert!(row.status_isolated == row.subresource("status").is_some(), "{row:?}");
            assert!(!row.columns.is_empty() || !row.is_stored(), "{row:?} has no columns");
        }
        assert!(seen.len() > 70, "{}", seen.len());
    }

    #[test]
    fn short_names_are_unique_but_for_the_two_event_groups() {
        let mut seen = HashSet::new();
        for row in builtin().iter().filter(|row| row.group != "events.k8s.io" && row.version == "v1") {
            for short in &row.short_names {
                assert!(seen.insert(short.clone()), "{row:?} repeats {short}");
            }
        }
    }

    #[test]
    fn subresources_name_existing_kinds() {
        for row in builtin() {
            for sub in &row.subresources {
                assert!(crate::schema::Root::for_kind(&sub.gvk()).is_some(), "{row:?}/{}", sub.name);
            }
        }
    }
}
