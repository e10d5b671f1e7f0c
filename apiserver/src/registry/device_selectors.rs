//! Which devices a class or a claim is about: expressions over one device,
//! compiled when they are written, so that a driver's allocator never meets one
//! that cannot run or costs too much.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use serde_json::Value;
use skiff_cel::{Declaration, Env, Program, Type, quantity_type};

use super::{
    validation::{Errors, Path},
    value::{field, list, text_at},
};

/// Selectors of one request or class.
const SELECTORS_MAX: usize = 32;
/// Bytes of one expression.
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
/// What one evaluation may cost at most.
const EXPRESSION_COST_MAX: u64 = 1_000_000;

/// Attributes and capacities of one device.
const ATTRIBUTES_MAX: u64 = 32;
const ATTRIBUTE_BYTES_MAX: u64 = 64;
const DRIVER_BYTES_MAX: u64 = 63;

/// The variable `device`.
static DEVICE: LazyLock<Env> = LazyLock::new(|| {
    let bounded = |ty: Type, elements_max: u64| Declaration { elements_max, ..Declaration::of(ty) };
    // By domain, then by name.
    let by_name = |value: Declaration, open: bool| {
        let names = Type::map(Type::String, value.ty.clone());
        let names = Declaration { element: Some(Arc::new(value)), open, ..bounded(names, ATTRIBUTES_MAX) };
        let domains = Type::map(Type::String, names.ty.clone());
        Declaration { element: Some(Arc::new(names)), ..bounded(domains, ATTRIBUTES_MAX) }
    };
    let fields = [
        ("driver", bounded(Type::String, DRIVER_BYTES_MAX)),
        ("allowMultipleAllocations", bounded(Type::Bool, 1)),
        ("attributes", by_name(bounded(Type::Dyn, ATTRIBUTE_BYTES_MAX), true)),
        ("capacity", by_name(Declaration::of(quantity_type()), false)),
    ];
    let types = fields.iter().map(|(name, declared)| (*name, declared.ty.clone()));
    let device = Type::object("kubernetes.DRADevice", types);
    let fields: BTreeMap<_, _> =
        fields.into_iter().map(|(name, declared)| (name.to_owned(), Arc::new(declared))).collect();
    Env::default().with("device", Arc::new(Declaration { fields, ..Declaration::of(device) }))
});

/// Checks the selectors of a class or a request. Expressions that were stored before stay accepted.
pub(super) fn validate(errors: &mut Errors, path: &Path<'_>, holder: &Value, are_stored: bool) {
    let path = path.child("selectors");
    let selectors = list(holder, "selectors");
    if selectors.len() > SELECTORS_MAX {
        errors.too_many(&path, selectors.len(), SELECTORS_MAX);
    }
    for (at, selector) in selectors.iter().enumerate() {
        let path = path.index(at);
        let path = path.child("cel");
        if field(selector, "cel").is_none() {
            errors.required(&path, "");
        } else if !are_stored {
            expression(errors, &path.child("expression"), text_at(selector, &["cel", "expression"]));
        }
    }
}

fn expression(errors: &mut Errors, path: &Path<'_>, text: &str) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    if text.len() > EXPRESSION_BYTES_MAX {
        return errors.too_long(path, EXPRESSION_BYTES_MAX);
    }
    match Program::compile(text, &DEVICE) {
        Err(issues) => errors.invalid(path, text, format!("compilation failed: {issues}")),
        Ok(program) => {
            let result = program.result_type();
            if *result != Type::Bool && !result.is_dyn() {
                errors.invalid(path, text, format!("must evaluate to bool or the unknown type, not {result}"));
            } else if program.estimate().max > EXPRESSION_COST_MAX {
                errors.forbidden(path, "too complex, exceeds cost limit");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(expression: &str) -> Vec<String> {
        let mut errors = Errors::new();
        let holder = json!({"selectors": [{"cel": {"expression": expression}}]});
        validate(&mut errors, &Path::new("spec"), &holder, false);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn expressions_of_the_documentation_compile() {
        for good in [
            "true",
            "device.driver == \"dra.example.com\"",
            "device.attributes[\"dra.example.com\"].model == \"A100\" && device.allowMultipleAllocations",
            "device.attributes[\"dra.example.com\"].anonymous",
            "device.attributes[\"dra.example.com\"].version.isGreaterThan(semver(\"1.0.0\"))",
            "device.capacity[\"dra.example.com\"].memory.compareTo(quantity(\"10Gi\")) >= 0",
            "cel.bind(dra, device.attributes[\"dra.example.com\"], dra.one && dra.other)",
            "\"dra.example.com\" in device.attributes && has(device.capacity[\"dra.example.com\"].memory)",
        ] {
            assert_eq!(wrong(good), [""; 0], "{good}");
        }
    }

    #[test]
    fn what_cannot_run_or_costs_too_much_is_refused() {
        let at = "spec.selectors[0].cel.expression";
        assert_eq!(wrong(""), [format!("{at}: Required value")]);
        assert_eq!(
            wrong("device.name"),
            [format!(
                "{at}: Invalid value: \"device.name\": compilation failed: ERROR: <input>:1:7: undefined field 'name'\n | device.name\n | ......^"
            )]
        );
        assert_eq!(
            wrong("device.driver"),
            [format!("{at}: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string")]
        );
        assert_eq!(
            wrong(&" ".repeat(EXPRESSION_BYTES_MAX + 1)),
            [format!("{at}: Too long: may not be more than 10240 bytes")]
        );
        let every = "device.attributes[\"dra.example.com\"]";
        let folds = (0..5).map(|depth| format!("{every}.all(a{depth}, ")).collect::<String>();
        let costly = format!("{folds}{every}.s.matches(\"(a+)+b\"){}", ")".repeat(5));
        assert_eq!(wrong(&costly), [format!("{at}: Forbidden: too complex, exceeds cost limit")]);
        let once = format!("{every}.s.matches(\"(a+)+b\")");
        assert_eq!(wrong(&once), [""; 0], "attributes are short");
    }
}
