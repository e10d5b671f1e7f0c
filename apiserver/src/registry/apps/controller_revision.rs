//! ControllerRevisions: recorded templates, fixed once written.

use serde_json::Value;
use skiff_api::Cause;

use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, numbers::non_negative},
};

pub struct ControllerRevisionStrategy;

impl Strategy for ControllerRevisionStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        non_negative(&mut errors, &Path::new("revision"), &object["revision"]);
        if let Operation::Update { old } = op {
            errors.immutable(&Path::new("data"), &object["data"], &old["data"]);
        }
        errors.into_causes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{wrong, wrong_update};
    use serde_json::json;

    #[test]
    fn recorded_data_stays() {
        assert_eq!(
            wrong_update(
                &ControllerRevisionStrategy,
                json!({"data": {"a": 2}, "revision": 2}),
                json!({"data": {"a": 1}, "revision": 1})
            ),
            ["data: Invalid value: {\"a\":2}: field is immutable"]
        );
        assert_eq!(wrong(&ControllerRevisionStrategy, json!({"revision": -1})).len(), 1);
    }
}
