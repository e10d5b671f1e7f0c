//! The list of built-in kinds that differ from the generic behaviour.

use super::{Dependencies, Registry};

/// Every built-in strategy, endpoint and view.
pub fn registry(_dependencies: &Dependencies) -> Registry {
    Registry::default()
}
