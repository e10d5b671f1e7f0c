//! ServiceAccounts: nothing differs from the generic behaviour but that
//! nothing counts generations.

use serde_json::Value;

use crate::registry::strategy::Strategy;

pub struct ServiceAccountStrategy;

impl Strategy for ServiceAccountStrategy {
    fn has_generation(&self, _object: &Value) -> bool {
        false
    }
}
