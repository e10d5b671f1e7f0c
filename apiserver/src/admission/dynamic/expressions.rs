//! The expressions of a policy: variables, validations, audit annotations and
//! mutations, compiled once and evaluated for one request with one set of parameters.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use skiff_cel::{Binding, Env, Fault, FieldType, Fields, ObjectType, Program, Type, Value as Cel, limits};

use super::{
    conditions::compile_to,
    input::{self, Input},
};
use crate::admission::AdmissionRequest;

/// A validation that does not hold, or could not be evaluated.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which validation.
    pub index: usize,
    /// May be empty.
    pub reason: String,
    pub message: String,
    /// The failure policy decides.
    pub is_error: bool,
}

/// How a mutation says what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// An object to lay over.
    ApplyConfiguration,
    /// A list of operations.
    JsonPatch,
}

/// An expression, compiled or not.
struct Expression {
    source: String,
    program: Result<Program, String>,
}

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

struct Mutation {
    patch: PatchType,
    expression: Expression,
    /// Places of the variables that it uses.
    used: Vec<usize>,
}

type Variable = (String, Result<Program, String>);

/// The compiled expressions of a policy.
pub struct Expressions {
    has_params: bool,
    variables: Vec<Variable>,
    /// Places of the variables that validations and annotations use.
    used: Vec<usize>,
    validations: Vec<Validation>,
    /// With their keys.
    annotations: Vec<(String, Expression)>,
    mutations: Vec<Mutation>,
}

/// What expressions are evaluated over.
pub struct Scene<'a> {
    pub input: &'a Input,
    pub request: &'a AdmissionRequest<'a>,
    pub namespace: Option<&'a Value>,
    pub params: Option<&'a Value>,
}

fn variables_type(known: &BTreeMap<String, FieldType>) -> Type {
    Type::Object(Arc::new(ObjectType { name: "kubernetes.variables".to_owned(), fields: known.clone() }))
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn items<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value[name].as_array().into_iter().flatten()
}

/// The environment with the variables of a policy, and these compiled.
pub(super) fn with_variables(base: &Env, spec: &Value) -> (Env, Vec<Variable>) {
    let mut known = BTreeMap::new();
    let mut variables = Vec::new();
    for variable in items(spec, "variables") {
        let env = base.clone().with_type("variables", variables_type(&known));
        let program = compile_to(&text(variable, "expression"), &env, &[]);
        let ty = program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone());
        let name = text(variable, "name");
        known.insert(name.clone(), FieldType { json: name.clone(), ty });
        variables.push((name, program));
    }
    (base.clone().with_type("variables", variables_type(&known)), variables)
}

impl Expression {
    fn new(source: String, env: &Env, wanted: &[Type]) -> Expression {
        Expression { program: compile_to(&source, env, wanted), source }
    }

    fn evaluate<'a>(&'a self, bindings: &'a [Binding<'a>], budget: &mut u64) -> Result<Cel<'a>, String> {
        let program = self.program.as_ref().map_err(|error| format!("compilation error: {error}"))?;
        evaluate(program, bindings, budget)
            .map_err(|error| format!("expression '{}' resulted in error: {error}", self.source.trim()))
    }
}

impl Expressions {
    /// Compiles the expressions of a policy's `spec`.
    pub fn new(spec: &Value) -> Expressions {
        let has_params = !spec["paramKind"].is_null();
        let mut base = input::env().with_type("namespaceObject", Type::Dyn);
        if has_params {
            base = base.with_type("params", Type::Dyn);
        }
        let (env, variables) = with_variables(&base, spec);
        let validations: Vec<Validation> = items(spec, "validations")
            .map(|validation| {
                let message = text(validation, "messageExpression");
                Validation {
                    expression: Expression::new(text(validation, "expression"), &env, &[Type::Bool]),
                    message: text(validation, "message"),
                    message_expression: (!message.is_empty()).then(|| Expression::new(message, &env, &[Type::String])),
                    reason: text(validation, "reason"),
                }
            })
            .collect();
        let annotations: Vec<(String, Expression)> = items(spec, "auditAnnotations")
            .map(|annotation| {
                let expression = text(annotation, "valueExpression");
                (text(annotation, "key"), Expression::new(expression, &env, &[Type::String, Type::Null]))
            })
            .collect();
        let of_validations =
            validations.iter().flat_map(|one| std::iter::once(&one.expression).chain(&one.message_expression));
        let used = used(&variables, of_validations.chain(annotations.iter().map(|(_, expression)| expression)));
        let env = env.with_mutation();
        let mutations = items(spec, "mutations").map(|mutation| {
            let (patch, field, result) = match mutation["patchType"].as_str() {
                Some("JSONPatch") => (PatchType::JsonPatch, "jsonPatch", Type::list(Type::object("JSONPatch", []))),
                _ => (PatchType::ApplyConfiguration, "applyConfiguration", Type::object("Object", [])),
            };
            let expression = Expression::new(text(&mutation[field], "expression"), &env, &[result]);
            Mutation { patch, used: self::used(&variables, [&expression]), expression }
        });
        let mutations = mutations.collect();
        Expressions { has_params, variables, used, validations, annotations, mutations }
    }

    /// What is wrong with expressions, with the field below `spec`.
    pub fn problems(&self) -> Vec<(String, String)> {
        let variables = self.variables.iter().enumerate();
        let mut found: Vec<(String, String)> = variables
            .filter_map(|(i, (_, program))| {
                Some((format!("variables[{i}].expression"), program.as_ref().err()?.clone()))
            })
            .collect();
        let mut add = |field: String, expression: &Expression| {
            if let Err(error) = &expression.program
                && !expression.source.trim().is_empty()
            {
                found.push((field, error.clone()));
            }
        };
        for (i, validation) in self.validations.iter().enumerate() {
            add(format!("validations[{i}].expression"), &validation.expression);
            if let Some(message) = &validation.message_expression {
                add(format!("validations[{i}].messageExpression"), message);
            }
        }
        for (i, (_, expression)) in self.annotations.iter().enumerate() {
            add(format!("auditAnnotations[{i}].valueExpression"), expression);
        }
        for (i, mutation) in self.mutations.iter().enumerate() {
            let kind = if mutation.patch == PatchType::JsonPatch { "jsonPatch" } else { "applyConfiguration" };
            add(format!("mutations[{i}].{kind}.expression"), &mutation.expression);
        }
        found
    }

    fn bindings<'a>(&'a self, scene: &'a Scene<'a>, variables: &'a Variables<'a>) -> Vec<Binding<'a>> {
        let object = |value: Option<&'a Value>| value.map_or(Cel::Null, Cel::of_json).into();
        let mut bindings = scene.input.bindings(scene.request);
        bindings.push(object(scene.namespace));
        if self.has_params {
            bindings.push(object(scene.params));
        }
        bindings.push(Binding::Fields(variables));
        bindings
    }

    /// Evaluates the validations; those that do not hold.
    pub fn violations(&self, scene: &Scene<'_>) -> Vec<Violation> {
        let variables = Variables::new(&self.variables);
        let bindings = self.bindings(scene, &variables);
        let mut budget = limits::REQUEST_COST_MAX;
        variables.fill(&self.used, &bindings, &mut budget);
        let mut violations = Vec::new();
        for (index, validation) in self.validations.iter().enumerate() {
            let violation = match validation.expression.evaluate(&bindings, &mut budget) {
                Ok(Cel::Bool(true)) => continue,
                Ok(_) => {
                    let message = validation.message_expression.as_ref();
                    let message = message.and_then(|message| message.evaluate(&bindings, &mut budget).ok());
                    let message = validation.say(message.as_ref().and_then(Cel::as_str).unwrap_or_default());
                    Violation { index, reason: validation.reason.clone(), message, is_error: false }
                }
                Err(message) => Violation { index, reason: String::new(), message, is_error: true },
            };
            violations.push(violation);
        }
        violations
    }

    /// Evaluates the annotations: keys, and values or errors. What is null or blank is left out.
    pub fn annotations(&self, scene: &Scene<'_>) -> Vec<(&str, Result<String, String>)> {
        if self.annotations.is_empty() {
            return Vec::new();
        }
        let variables = Variables::new(&self.variables);
        let bindings = self.bindings(scene, &variables);
        let mut budget = limits::REQUEST_COST_MAX;
        variables.fill(&self.used, &bindings, &mut budget);
        let evaluated = self.annotations.iter().filter_map(|(key, expression)| {
            let value = match expression.evaluate(&bindings, &mut budget) {
                Ok(Cel::Null) => return None,
                Ok(Cel::String(text)) if text.trim().is_empty() => return None,
                Ok(Cel::String(text)) => Ok(text.trim().to_owned()),
                Ok(other) => Err(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    expression.source.trim(),
                    other.type_name()
                )),
                Err(error) => Err(error),
            };
            Some((key.as_str(), value))
        });
        evaluated.collect()
    }

    /// How the mutations patch, in their order.
    pub fn patches(&self) -> impl Iterator<Item = PatchType> {
        self.mutations.iter().map(|mutation| mutation.patch)
    }

    /// Evaluates one mutation.
    pub fn patch(&self, index: usize, scene: &Scene<'_>) -> Result<Value, String> {
        let Some(mutation) = self.mutations.get(index) else { return Ok(Value::Null) };
        let variables = Variables::new(&self.variables);
        let bindings = self.bindings(scene, &variables);
        let mut budget = limits::REQUEST_COST_MAX;
        variables.fill(&mutation.used, &bindings, &mut budget);
        mutation.expression.evaluate(&bindings, &mut budget)?.to_json().map_err(|fault| fault.to_string())
    }
}

impl Validation {
    /// What is said when the validation fails, given the result of the message expression.
    fn say(&self, computed: &str) -> String {
        let computed = computed.trim();
        let usable = !computed.is_empty() && computed.len() <= limits::MESSAGE_BYTES_MAX && !computed.contains('\n');
        match (usable, self.message.trim()) {
            (true, _) => computed.to_owned(),
            (false, "") => format!("failed expression: {}", self.expression.source.trim()),
            (false, message) => message.to_owned(),
        }
    }
}

/// The variables somebody uses, directly or through others, in their order.
fn used<'e>(variables: &[Variable], by: impl IntoIterator<Item = &'e Expression>) -> Vec<usize> {
    let programs = by.into_iter().filter_map(|expression| expression.program.as_ref().ok());
    let mut wanted: BTreeSet<&str> = programs.flat_map(|program| program.fields_of("variables")).collect();
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
    variables: &'a [Variable],
    values: Vec<OnceCell<Result<Cel<'a>, Fault>>>,
}

impl<'a> Variables<'a> {
    fn new(variables: &'a [Variable]) -> Variables<'a> {
        Variables { variables, values: vec![OnceCell::new(); variables.len()] }
    }

    fn fill(&'a self, places: &[usize], bindings: &'a [Binding<'a>], budget: &mut u64) {
        for &place in places {
            let (name, program) = &self.variables[place];
            let value = match program {
                Ok(program) => evaluate(program, bindings, budget)
                    .map_err(|error| Fault::new(format!("composited variable \"{name}\" fails to evaluate: {error}"))),
                Err(error) => Err(Fault::new(format!("composited variable \"{name}\" fails to compile: {error}"))),
            };
            let _ = self.values[place].set(value);
        }
    }
}

impl<'a> Fields<'a> for Variables<'a> {
    fn field(&self, name: &str) -> Option<Result<Cel<'a>, Fault>> {
        let place = self.variables.iter().position(|(have, _)| have == name)?;
        self.values[place].get().cloned()
    }
}
