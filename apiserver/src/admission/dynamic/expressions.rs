//! The expressions of a policy: variables, validations and messages, compiled
//! once and evaluated for one request with one set of parameters.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use skiff_cel::{Binding, Fault, FieldType, Fields, ObjectType, Program, Type, Value as Cel, limits};

use super::{
    conditions::compile_to,
    input::{self, Input},
};
use crate::admission::AdmissionRequest;

/// What a policy says about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// No, with a reason (may be empty) and a message.
    Deny { reason: String, message: String },
    /// An expression failed; the failure policy decides.
    Error(String),
}

struct Validation {
    expression: String,
    program: Result<Program, String>,
    message: String,
    message_program: Option<Result<Program, String>>,
    reason: String,
}

/// The compiled expressions of a policy.
pub struct Expressions {
    has_params: bool,
    variables: Vec<(String, Result<Program, String>)>,
    /// Places of the variables that something uses.
    used: Vec<usize>,
    validations: Vec<Validation>,
}

fn variables_type(known: &BTreeMap<String, FieldType>) -> Type {
    Type::Object(Arc::new(ObjectType { name: "kubernetes.variables".to_owned(), fields: known.clone() }))
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn trouble(expression: &str, error: &str) -> String {
    format!("expression '{}' resulted in error: {error}", expression.trim())
}

impl Expressions {
    /// Compiles the expressions of a policy's `spec`.
    pub fn new(spec: &Value) -> Expressions {
        let has_params = !spec["paramKind"].is_null();
        let mut base = input::env().with_type("namespaceObject", Type::Dyn);
        if has_params {
            base = base.with_type("params", Type::Dyn);
        }
        let mut known = BTreeMap::new();
        let mut variables = Vec::new();
        for variable in spec["variables"].as_array().into_iter().flatten() {
            let env = base.clone().with_type("variables", variables_type(&known));
            let program = compile_to(&text(variable, "expression"), &env, None);
            let ty = program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone());
            let name = text(variable, "name");
            known.insert(name.clone(), FieldType { json: name.clone(), ty });
            variables.push((name, program));
        }
        let env = base.with_type("variables", variables_type(&known));
        let validations: Vec<Validation> = spec["validations"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|validation| {
                let message = text(validation, "messageExpression");
                let expression = text(validation, "expression");
                Validation {
                    program: compile_to(&expression, &env, Some(Type::Bool)),
                    expression,
                    message: text(validation, "message"),
                    message_program: (!message.is_empty()).then(|| compile_to(&message, &env, Some(Type::String))),
                    reason: text(validation, "reason"),
                }
            })
            .collect();
        let used = used(&variables, &validations);
        Expressions { has_params, variables, used, validations }
    }

    /// What is wrong with expressions, with the field below `spec`.
    pub fn problems(&self) -> Vec<(String, String)> {
        let variables = self.variables.iter().enumerate();
        let mut found: Vec<(String, String)> = variables
            .filter_map(|(i, (_, program))| {
                Some((format!("variables[{i}].expression"), program.as_ref().err()?.clone()))
            })
            .collect();
        for (i, validation) in self.validations.iter().enumerate() {
            if let Err(error) = &validation.program {
                found.push((format!("validations[{i}].expression"), error.clone()));
            }
            if let Some(Err(error)) = &validation.message_program {
                found.push((format!("validations[{i}].messageExpression"), error.clone()));
            }
        }
        found
    }

    /// Evaluates the validations.
    pub fn decide(
        &self,
        input: &Input,
        request: &AdmissionRequest<'_>,
        namespace: Option<&Value>,
        params: Option<&Value>,
    ) -> Vec<Decision> {
        let variables = Variables { names: &self.variables, values: vec![OnceCell::new(); self.variables.len()] };
        let mut bindings = input.bindings(request);
        bindings.push(namespace.map_or(Cel::Null, Cel::of_json).into());
        if self.has_params {
            bindings.push(params.map_or(Cel::Null, Cel::of_json).into());
        }
        bindings.push(Binding::Fields(&variables));
        let mut budget = limits::REQUEST_COST_MAX;
        for &place in &self.used {
            let (name, program) = &self.variables[place];
            let value = match program {
                Ok(program) => evaluate(program, &bindings, &mut budget)
                    .map_err(|error| Fault::new(format!("composited variable \"{name}\" fails to evaluate: {error}"))),
                Err(error) => Err(Fault::new(format!("composited variable \"{name}\" fails to compile: {error}"))),
            };
            let _ = variables.values[place].set(value);
        }
        let mut decisions = Vec::new();
        for validation in &self.validations {
            let result = match &validation.program {
                Ok(program) => {
                    evaluate(program, &bindings, &mut budget).map_err(|error| trouble(&validation.expression, &error))
                }
                Err(error) => Err(format!("compilation error: {error}")),
            };
            match result {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => {
                    let message = validation.message_program.as_ref().and_then(|program| program.as_ref().ok());
                    let message = message.and_then(|program| evaluate(program, &bindings, &mut budget).ok());
                    let message = message.as_ref().and_then(Cel::as_str).unwrap_or_default();
                    decisions
                        .push(Decision::Deny { reason: validation.reason.clone(), message: validation.say(message) });
                }
                Err(error) => decisions.push(Decision::Error(error)),
            }
        }
        decisions
    }
}

impl Validation {
    /// What is said when the validation fails, given the result of the message expression.
    fn say(&self, computed: &str) -> String {
        let computed = computed.trim();
        let usable = !computed.is_empty() && computed.len() <= limits::MESSAGE_BYTES_MAX && !computed.contains('\n');
        match (usable, self.message.trim()) {
            (true, _) => computed.to_owned(),
            (false, "") => format!("failed expression: {}", self.expression.trim()),
            (false, message) => message.to_owned(),
        }
    }
}

/// The variables somebody uses, directly or through others, in their order.
fn used(variables: &[(String, Result<Program, String>)], validations: &[Validation]) -> Vec<usize> {
    let validated = validations.iter().flat_map(|validation| {
        [Some(&validation.program), validation.message_program.as_ref()].into_iter().flatten().flatten()
    });
    let mut wanted: BTreeSet<&str> = validated.flat_map(|program| program.fields_of("variables")).collect();
    let mut used = Vec::new();
    for (place, (name, program)) in variables.iter().enumerate().rev() {
        if wanted.contains(name.as_str()) {
            used.push(place);
            wanted.extend(program.iter().flat_map(|program| program.fields_of("variables")));
        }
    }
    used.reverse();
    used
}

fn evaluate<'a>(program: &'a Program, bindings: &'a [Binding<'a>], budget: &mut u64) -> Result<Cel<'a>, String> {
    let evaluation = program.evaluate(bindings, limits::CALL_COST_MAX);
    if evaluation.cost > *budget {
        return Err(
            "validation failed due to running out of cost budget, no further validation rules will be run".to_owned()
        );
    }
    *budget -= evaluation.cost;
    evaluation.result.map_err(|fault| fault.to_string())
}

/// The values of the variables, filled in their order.
struct Variables<'a> {
    names: &'a [(String, Result<Program, String>)],
    values: Vec<OnceCell<Result<Cel<'a>, Fault>>>,
}

impl<'a> Fields<'a> for Variables<'a> {
    fn field(&self, name: &str) -> Option<Result<Cel<'a>, Fault>> {
        let place = self.names.iter().position(|(have, _)| have == name)?;
        self.values[place].get().cloned()
    }
}
