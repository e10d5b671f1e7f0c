//! `matchConditions`: expressions that say whether a request is meant.

use std::sync::LazyLock;

use serde_json::Value;
use skiff_cel::{Binding, Env, Program, Type, Value as Cel, limits};

use super::input;

static ENV: LazyLock<Env> = LazyLock::new(input::env);

/// Compiles an expression whose result must be of one of the types (of any, when there are none), and not only
/// possibly so; the error is a text for users.
pub(super) fn compile_to(expression: &str, env: &Env, wanted: &[Type]) -> Result<Program, String> {
    let program = Program::compile(expression, env).map_err(|issues| format!("compilation failed: {issues}"))?;
    let got = program.result_type();
    if wanted.is_empty() || wanted.contains(got) {
        return Ok(program);
    }
    let shown = |ty: &Type| if *ty == Type::Null { ty.name().to_owned() } else { ty.to_string() };
    let names: Vec<String> = wanted.iter().map(shown).collect();
    Err(match names.as_slice() {
        [name] => format!("must evaluate to {name} but got {}", shown(got)),
        names => format!("must evaluate to one of [{}] but got {}", names.join(" "), shown(got)),
    })
}

fn compile(expression: &str, env: &Env) -> Result<Program, String> {
    compile_to(expression, env, &[Type::Bool])
}

fn env(has_params: bool) -> Env {
    if has_params { input::env().with_type("params", Type::Dyn) } else { ENV.clone() }
}

/// What is wrong with the expression of a condition; of a policy with a `paramKind` it may use `params`.
pub(crate) fn check(expression: &str, has_params: bool) -> Result<(), String> {
    compile(expression, &env(has_params)).map(|_| ())
}

/// The conditions of one webhook or policy.
pub struct Conditions(Vec<(String, Result<Program, String>)>);

impl Conditions {
    pub fn new(conditions: &Value) -> Conditions {
        Conditions::of_policy(conditions, false)
    }

    /// Of a policy, which may use `params`.
    pub fn of_policy(conditions: &Value, has_params: bool) -> Conditions {
        let env = env(has_params);
        let conditions = conditions.as_array().into_iter().flatten();
        Conditions(
            conditions
                .map(|condition| {
                    let expression = condition["expression"].as_str().unwrap_or_default();
                    (expression.to_owned(), compile(expression, &env))
                })
                .collect(),
        )
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not decides, whatever is wrong with the others; then errors count.
    pub fn hold<'a>(&'a self, bindings: &'a [Binding<'a>]) -> Result<bool, String> {
        let mut budget = limits::MATCH_CONDITIONS_COST_MAX;
        let mut errors = Vec::new();
        for (expression, program) in &self.0 {
            let program = match program {
                Ok(program) => program,
                Err(error) => {
                    errors.push(error.clone());
                    continue;
                }
            };
            let evaluation = program.evaluate(bindings, limits::CALL_COST_MAX);
            if evaluation.cost > budget {
                return Err(
                    "validation failed due to running out of cost budget, no further validation rules will be run"
                        .to_owned(),
                );
            }
            budget -= evaluation.cost;
            match evaluation.result {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => errors.push(format!("expression '{expression}' resulted in error: no bool")),
                Err(fault) => errors.push(format!("expression '{expression}' resulted in error: {fault}")),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [error] => Err(error.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{super::input::Input, *};
    use crate::{admission::testing::Case, authz::Masters};

    #[test]
    fn conditions_decide_in_upstreams_way() {
        let case = Case::new();
        let bench = case.create("", "configmaps", "ns", json!({"metadata": {"name": "a"}, "data": {"x": "y"}}));
        let options = json!({});
        let request = bench.request(&options);
        let input = Input::new(&request, &(Arc::new(Masters) as _));
        let hold = |expressions: &[&str]| {
            let conditions: Vec<Value> =
                expressions.iter().map(|text| json!({"name": "c", "expression": text})).collect();
            let conditions = Conditions::new(&Value::Array(conditions));
            let bindings = input.bindings(&request);
            conditions.hold(&bindings)
        };
        assert_eq!(hold(&[]), Ok(true));
        assert_eq!(hold(&["object.metadata.name == 'a' && oldObject == null"]), Ok(true));
        assert_eq!(hold(&["request.operation == 'CREATE'", "request.resource.resource == 'configmaps'"]), Ok(true));
        assert_eq!(hold(&["request.userInfo.username != 'tester'"]), Ok(false));
        assert_eq!(hold(&["authorizer.requestResource.check('get').allowed()"]), Ok(false));
        // An error gives way to a condition that says no.
        assert_eq!(hold(&["object.nothing == 1", "false"]), Ok(false));
        let error = hold(&["object.nothing == 1", "true"]).unwrap_err();
        assert_eq!(error, "expression 'object.nothing == 1' resulted in error: no such key: nothing");
        assert!(check("... [] bad expression", false).unwrap_err().starts_with("compilation failed: ERROR: "));
        assert!(check("request.nothing == 1", false).unwrap_err().contains("undefined field 'nothing'"));
        assert_eq!(check("1", false).unwrap_err(), "must evaluate to bool but got int");
        assert_eq!(check("object.x", false).unwrap_err(), "must evaluate to bool but got dyn");
        assert!(check("params.x == 1", false).is_err() && check("params.x == 1", true).is_ok());
    }
}
