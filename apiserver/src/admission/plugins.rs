//! The admission plugins, in upstream's order.

use std::sync::Arc;

use super::Admission;
use crate::registry::Dependencies;

/// Every plugin that is on by default.
pub fn plugins(_dependencies: &Dependencies) -> Vec<Arc<dyn Admission>> {
    Vec::new()
}
