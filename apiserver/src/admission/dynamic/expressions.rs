//! The expressions of a policy: variables, validations, audit annotations and
//! mutations, compiled once and evaluated for one request with one set of parameters.

use std::{
    cell::{Cell, OnceCell},
    collections::{BTreeMap, BTreeSet},
    fmt,
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
}

type Variable = (String, Result<Program, String>);

/// The compiled expressions of a policy.
pub struct Expressions {
    has_params: bool,
    variables: Vec<Variable>,
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

    /// Pays for itself and for the variables that it is the first to use.
    fn evaluate<'a>(&'a self, variables: &Variables<'a>, budget: &mut u64) -> Result<Cel<'a>, Failure> {
        let program = self.program.as_ref().map_err(|error| Failure::Fault(format!("compilation error: {error}")))?;
        variables.depth.set(program.depth());
        let evaluation = program.evaluate(variables.bindings(), limits::CALL_COST_MAX);
        let cost = evaluation.cost.saturating_add(variables.cost.take());
        *budget = budget.checked_sub(cost).ok_or(Failure::Budget)?;
        let shown = |fault| Failure::Fault(format!("expression '{}' resulted in error: {fault}", self.source.trim()));
        evaluation.result.map_err(shown)
    }
}

/// Why an expression gave no value.
enum Failure {
    /// Nothing else is evaluated.
    Budget,
    Fault(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Budget => {
                "validation failed due to running out of cost budget, no further validation rules will be run"
            }
            Failure::Fault(text) => text,
        })
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
        let env = env.with_mutation();
        let mutations = items(spec, "mutations").map(|mutation| {
            let (patch, field, result) = match mutation["patchType"].as_str() {
                Some("JSONPatch") => (PatchType::JsonPatch, "jsonPatch", Type::list(Type::object("JSONPatch", []))),
                _ => (PatchType::ApplyConfiguration, "applyConfiguration", Type::object("Object", [])),
            };
            let expression = Expression::new(text(&mutation[field], "expression"), &env, &[result]);
            Mutation { patch, expression }
        });
        let mutations = mutations.collect();
        Expressions { has_params, variables, validations, annotations, mutations }
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
        variables.bind(&bindings);
        let mut budget = limits::REQUEST_COST_MAX;
        let mut violations = Vec::new();
        for (index, validation) in self.validations.iter().enumerate() {
            let violation = match validation.expression.evaluate(&variables, &mut budget) {
                Ok(Cel::Bool(true)) => continue,
                Ok(_) => {
                    let message = validation.message_expression.as_ref();
                    let message = message.and_then(|message| message.evaluate(&variables, &mut budget).ok());
                    let message = validation.say(message.as_ref().and_then(Cel::as_str).unwrap_or_default());
                    Violation { index, reason: validation.reason.clone(), message, is_error: false }
                }
                Err(failure) => {
                    let error =
                        Violation { index, reason: String::new(), message: failure.to_string(), is_error: true };
                    if matches!(failure, Failure::Budget) {
                        return vec![error];
                    }
                    error
                }
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
        variables.bind(&bindings);
        let mut budget = limits::REQUEST_COST_MAX;
        let evaluated = self.annotations.iter().filter_map(|(key, expression)| {
            let value = match expression.evaluate(&variables, &mut budget) {
                Ok(Cel::Null) => return None,
                Ok(Cel::String(text)) if text.trim().is_empty() => return None,
                Ok(Cel::String(text)) => Ok(text.trim().to_owned()),
                Ok(other) => Err(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    expression.source.trim(),
                    other.type_name()
                )),
                Err(failure) => Err(failure.to_string()),
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
        variables.bind(&bindings);
        let mut budget = limits::REQUEST_COST_MAX;
        let value = mutation.expression.evaluate(&variables, &mut budget).map_err(|failure| failure.to_string())?;
        value.to_json().map_err(|fault| fault.to_string())
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

/// The variables before `place` that it uses, directly or through others, in their order.
fn used_by(variables: &[Variable], place: usize) -> Vec<usize> {
    let fields = |place: usize| variables[place].1.iter().flat_map(|program| program.fields_of("variables"));
    let mut wanted: BTreeSet<&str> = fields(place).collect();
    let mut used = Vec::new();
    for earlier in (0..place).rev() {
        if wanted.contains(variables[earlier].0.as_str()) {
            used.push(earlier);
            wanted.extend(fields(earlier));
        }
    }
    used.reverse();
    used
}

/// The values of the variables, each evaluated when it is first asked for: one
/// that no expression reaches costs nothing and cannot fail.
struct Variables<'a> {
    variables: &'a [Variable],
    values: Vec<OnceCell<Result<Cel<'a>, Fault>>>,
    /// What they and the expressions are evaluated over; the variables are among them.
    bindings: OnceCell<&'a [Binding<'a>]>,
    /// What was evaluated and not yet paid for.
    cost: Cell<u64>,
    /// Levels of the expressions under way.
    depth: Cell<u16>,
}

impl<'a> Variables<'a> {
    fn new(variables: &'a [Variable]) -> Variables<'a> {
        let values = vec![OnceCell::new(); variables.len()];
        Variables { variables, values, bindings: OnceCell::new(), cost: Cell::new(0), depth: Cell::new(0) }
    }

    fn bind(&self, bindings: &'a [Binding<'a>]) {
        let _ = self.bindings.set(bindings);
    }

    fn bindings(&self) -> &'a [Binding<'a>] {
        self.bindings.get().copied().unwrap_or_default()
    }

    /// The value of one, evaluated inside of what asks for it. A chain that
    /// would go too deep is evaluated from its start, one after the other.
    fn value(&self, place: usize) -> Result<Cel<'a>, Fault> {
        if let Some(value) = self.values[place].get() {
            return value.clone();
        }
        let deeper = self.variables[place].1.as_ref().map_or(0, Program::depth);
        if self.depth.get() + deeper > limits::DEPTH_MAX {
            for earlier in used_by(self.variables, place) {
                self.values[earlier].get_or_init(|| self.compute(earlier));
            }
        }
        self.values[place].get_or_init(|| self.compute(place)).clone()
    }

    fn compute(&self, place: usize) -> Result<Cel<'a>, Fault> {
        let (name, program) = &self.variables[place];
        let failed = |how: &str, error: &dyn fmt::Display| {
            Fault::new(format!("composited variable \"{name}\" fails to {how}: {error}"))
        };
        let program = program.as_ref().map_err(|error| failed("compile", error))?;
        let outer = self.depth.replace(self.depth.get().saturating_add(program.depth()));
        let evaluation = program.evaluate(self.bindings(), limits::CALL_COST_MAX);
        self.depth.set(outer);
        self.cost.set(self.cost.get().saturating_add(evaluation.cost));
        evaluation.result.map_err(|fault| failed("evaluate", &fault))
    }
}

impl<'a> Fields<'a> for Variables<'a> {
    fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|(have, _)| have == name)
    }

    fn field(&self, name: &str) -> Option<Result<Cel<'a>, Fault>> {
        let place = self.variables.iter().position(|(have, _)| have == name)?;
        Some(self.value(place))
    }
}
