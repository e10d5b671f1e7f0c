//! Admission that users configure: webhooks and policies.
//!
//! What decides whether a request is theirs is [`matching`] and
//! [`conditions`]; what expressions see of it is [`input`]. These plugins run
//! behind the built-in ones and in front of quota, and never over the objects
//! that configure them.

pub(crate) mod conditions;
pub(crate) mod expressions;
mod input;
mod matching;
pub mod mutating;
mod policies;
mod review;
#[cfg(test)]
mod testing;
pub(crate) mod type_check;
pub mod validating;
pub mod webhooks;

use std::sync::Arc;

use parking_lot::Mutex;
use skiff_api::{GroupResource, Object};
use skiff_client::Snapshot;

/// What was made out of stored objects, kept as long as they do not change.
struct Compiled<T> {
    resource: GroupResource,
    kept: Mutex<Vec<(Arc<Object>, Arc<T>)>>,
}

impl<T> Compiled<T> {
    fn new(resource: &'static str) -> Compiled<T> {
        Compiled { resource: GroupResource::new("admissionregistration.k8s.io", resource), kept: Mutex::default() }
    }

    /// One entry for each stored object, in the order of names.
    fn all(&self, snapshot: &Snapshot, make: impl Fn(&Object) -> T) -> Vec<Arc<T>> {
        let Some(store) = snapshot.store(&self.resource) else { return Vec::new() };
        let mut kept = self.kept.lock();
        if store.is_empty() {
            kept.clear();
            return Vec::new();
        }
        let mut objects = store.list(None);
        objects.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
        let before = std::mem::take(&mut *kept);
        for object in objects {
            let known = before.iter().find(|(have, _)| Arc::ptr_eq(have, &object));
            let made = known.map_or_else(|| Arc::new(make(&object)), |(_, made)| Arc::clone(made));
            kept.push((object, made));
        }
        kept.iter().map(|(_, made)| Arc::clone(made)).collect()
    }
}
