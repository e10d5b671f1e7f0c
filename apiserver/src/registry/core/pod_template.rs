//! PodTemplates.

use serde_json::Value;
use skiff_api::Cause;

use super::pod::{defaults, validation};
use crate::registry::{
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path},
    value::child,
};

pub struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        defaults::template(child(object, "template"));
    }

    fn validate(&self, _context: &RequestContext<'_>, _op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        validation::template(&mut errors, &Path::new("template"), &object["template"]);
        errors.into_causes()
    }
}
