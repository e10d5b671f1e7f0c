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
