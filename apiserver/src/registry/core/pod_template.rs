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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{made, wrong};
    use serde_json::json;

    #[test]
    fn the_template_is_completed_and_checked() {
        let template =
            made(&PodTemplateStrategy, json!({"template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}}));
        assert_eq!(template["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(wrong(&PodTemplateStrategy, json!({})), ["template.spec.containers: Required value"]);
    }
}
