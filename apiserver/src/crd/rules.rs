//! `x-kubernetes-validations`: rules of a schema, compiled once, and evaluated
//! over objects.
//!
//! `self` is the value at the rule's place, `oldSelf` the value that was there
//! before, where the two can be told to be the same: fields, map entries, and
//! elements of lists with keys. Rules about something that did not change do
//! not refuse (ratcheting): they only warn. All rules of one object share one
//! budget; when it is used up, the object is refused.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::Cause;
use skiff_cel::{Binding, Declaration, Env, Program, Type, Value as Cel, limits};

use super::field_path;

/// Levels of schema that are looked at.
const DEPTH_MAX: usize = 100;

/// A rule as compiled.
pub(crate) struct Rule {
    /// None for an empty rule.
    pub program: Option<Result<Program, String>>,
    pub message_program: Option<Result<Program, String>>,
    pub uses_old: bool,
    optional_old: bool,
    rule: String,
    message: String,
    reason: String,
    /// Normalized, empty when the rule names none.
    field_path: String,
}

impl Rule {
    /// Compiles a rule of `schema`, whose declaration is given.
    pub fn compile(rule: &Value, schema: &Value, declared: &Arc<Declaration>) -> Rule {
        let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        let optional_old = rule["optionalOldSelf"] == true;
        let old = if optional_old { Type::optional(declared.ty.clone()) } else { declared.ty.clone() };
        let env = Env::default().with("self", Arc::clone(declared)).with_type("oldSelf", old);
        let program = (!text("rule").trim().is_empty()).then(|| compile_to(&text("rule"), &env, &Type::Bool));
        let uses_old = matches!(&program, Some(Ok(program)) if program.uses("oldSelf"));
        let message_program = match &program {
            Some(Ok(_)) if !text("messageExpression").is_empty() => {
                Some(compile_to(&text("messageExpression"), &env, &Type::String))
            }
            _ => None,
        };
        let field_path = field_path::normalize(&text("fieldPath"), schema).unwrap_or_default();
        Rule {
            program,
            message_program,
            uses_old,
            optional_old,
            rule: text("rule"),
            message: text("message"),
            reason: text("reason"),
            field_path,
        }
    }

    fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    fn default_message(&self) -> String {
        if self.message.is_empty() { format!("failed rule: {}", self.shown()) } else { self.message.trim().to_owned() }
    }
}

fn compile_to(source: &str, env: &Env, wanted: &Type) -> Result<Program, String> {
    let (prefix, name) = if *wanted == Type::Bool { ("", "a bool") } else { ("messageExpression ", "a string") };
    let program = Program::compile(source, env).map_err(|issues| format!("{prefix}compilation failed: {issues}"))?;
    if program.result_type() != wanted {
        let subject = if prefix.is_empty() { "cel expression" } else { "messageExpression" };
        return Err(format!("{subject} must evaluate to {name}"));
    }
    Ok(program)
}

/// The rules of one schema node and of what is below it.
pub(crate) struct Rules {
    type_name: String,
    declared: Arc<Declaration>,
    rules: Vec<Rule>,
    items: Option<Box<Rules>>,
    /// Keys of a `map` list: its elements can be told apart.
    keys: Vec<String>,
    values: Option<Box<Rules>>,
    properties: Vec<(String, Rules)>,
}

impl Rules {
    /// The rules of a schema; none when it has none.
    pub fn of(schema: &Value) -> Option<Rules> {
        build(schema, true, None, 0)
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

fn has_rules(schema: &Value, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    let below = |schema: &Value| schema.is_object() && has_rules(schema, depth + 1);
    schema["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty())
        || below(&schema["items"])
        || below(&schema["additionalProperties"])
        || schema["properties"].as_object().is_some_and(|properties| properties.values().any(below))
}

fn build(schema: &Value, root: bool, declared: Option<Arc<Declaration>>, depth: usize) -> Option<Rules> {
    if !has_rules(schema, depth) {
        return None;
    }
    let declared = match declared {
        Some(declared) => declared,
        None => Arc::new(Declaration::of_schema(schema, root, "selfType")?),
    };
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    let rules = rules.map(|rule| Rule::compile(rule, schema, &declared)).collect();
    let child = |schema: &Value, declared: Option<&Arc<Declaration>>| {
        build(schema, flag(schema, "x-kubernetes-embedded-resource"), declared.cloned(), depth + 1)
    };
    let part = |name: &str| schema.get(name).filter(|part| part.is_object());
    let keyed = schema["x-kubernetes-list-type"] == "map";
    let keys = schema["x-kubernetes-list-map-keys"].as_array().filter(|_| keyed).into_iter().flatten();
    let properties = schema["properties"].as_object().into_iter().flatten().filter_map(|(name, property)| {
        let declared = skiff_cel::escape(name).and_then(|escaped| declared.fields.get(&escaped));
        Some((name.clone(), child(property, declared)?))
    });
    Some(Rules {
        type_name: schema["type"].as_str().unwrap_or_default().to_owned(),
        items: part("items").and_then(|items| child(items, declared.element.as_ref())).map(Box::new),
        values: part("additionalProperties").and_then(|values| child(values, declared.element.as_ref())).map(Box::new),
        properties: properties.collect(),
        keys: keys.filter_map(Value::as_str).map(str::to_owned).collect(),
        declared: Arc::clone(&declared),
        rules,
    })
}

/// One pass over an object.
pub(crate) struct Pass {
    budget: u64,
    /// The budget is used up or an evaluation went too far: nothing more is evaluated.
    over: bool,
    pub causes: Vec<Cause>,
    /// Refusals about what did not change.
    pub warnings: Vec<String>,
    /// Only what can warn is evaluated.
    warn_only: bool,
}

impl Pass {
    pub fn new(warn_only: bool) -> Pass {
        Pass { budget: limits::REQUEST_COST_MAX, over: false, causes: Vec::new(), warnings: Vec::new(), warn_only }
    }

    fn invalid(&mut self, path: &str, type_name: &str, detail: String) {
        self.causes.push(Cause {
            reason: "FieldValueInvalid".to_owned(),
            field: path.to_owned(),
            message: format!("Invalid value: {type_name:?}: {detail}"),
        });
    }

    /// Evaluates the rules of a node and below it.
    pub fn run(&mut self, rules: &Rules, path: &str, value: &Value, old: Option<&Value>) {
        self.node(rules, path, value, old, false, 0);
    }

    fn node(
        &mut self,
        rules: &Rules,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        inside_unchanged: bool,
        depth: usize,
    ) {
        if self.over || value.is_null() || depth > DEPTH_MAX {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        let unchanged = inside_unchanged || old == Some(value);
        if !rules.rules.is_empty() && (unchanged || !self.warn_only) {
            self.evaluate(rules, path, value, old, unchanged);
        }
        match value {
            Value::Array(items) => {
                let Some(below) = &rules.items else { return };
                let before = old.and_then(Value::as_array);
                for (index, item) in items.iter().enumerate() {
                    let old = before
                        .filter(|_| !rules.keys.is_empty())
                        .and_then(|before| same_key(before, item, &rules.keys));
                    self.node(below, &format!("{path}[{index}]"), item, old, unchanged, depth + 1);
                }
            }
            Value::Object(fields) => {
                let child = |name: &str| old.and_then(|old| old.get(name));
                if let Some(below) = &rules.values {
                    for (name, value) in fields {
                        self.node(below, &format!("{path}[{name}]"), value, child(name), unchanged, depth + 1);
                    }
                }
                for (name, below) in &rules.properties {
                    if let Some(value) = fields.get(name) {
                        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        self.node(below, &at, value, child(name), unchanged, depth + 1);
                    }
                }
            }
            _ => {}
        }
    }

    fn evaluate(&mut self, rules: &Rules, path: &str, value: &Value, old: Option<&Value>, unchanged: bool) {
        const SPENT: &str =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        let field = if path.is_empty() { "<nil>" } else { path };
        for rule in &rules.rules {
            if self.over {
                return;
            }
            let program = match &rule.program {
                None => continue,
                Some(Err(error)) => {
                    self.invalid(field, &rules.type_name, format!("rule compile error: {error}"));
                    continue;
                }
                Some(Ok(program)) => program,
            };
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let now: Binding<'_> = Cel::typed(value, &rules.declared.ty).into();
            let before = old.map(|old| Cel::typed(old, &rules.declared.ty));
            let before: Binding<'_> = match (rule.optional_old, before) {
                (true, before) => Cel::Optional(before.map(Arc::new)).into(),
                (false, Some(before)) => before.into(),
                (false, None) => Binding::Absent,
            };
            let bindings = [now, before];
            let evaluation = program.evaluate(&bindings, limits::CALL_COST_MAX);
            if evaluation.cost > self.budget {
                self.over = true;
                self.invalid(field, &rules.type_name, SPENT.to_owned());
                return;
            }
            self.budget -= evaluation.cost;
            match evaluation.result {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => {
                    let causes = self.causes.len();
                    self.refuse(rules, rule, path, value, &bindings);
                    if unchanged && !rule.uses_old && !self.over {
                        let ratcheted = self.causes.split_off(causes);
                        self.warnings
                            .extend(ratcheted.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)));
                    }
                }
                Err(fault) if fault.is_cost() => {
                    self.over = true;
                    let shown = rule.shown();
                    let text = format!(
                        "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                    );
                    self.invalid(field, &rules.type_name, text);
                }
                Err(fault) if fault.message().starts_with("no such overload") => {
                    let shown = rule.shown();
                    let text = format!(
                        "'{fault}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                    );
                    self.invalid(field, &rules.type_name, text);
                }
                Err(fault) => {
                    self.invalid(field, &rules.type_name, format!("{fault} evaluating rule: {}", rule.shown()))
                }
            }
        }
    }

    /// The rule said no.
    fn refuse<'a>(&mut self, rules: &Rules, rule: &'a Rule, path: &str, value: &Value, bindings: &'a [Binding<'a>]) {
        let path = match (path, rule.field_path.as_str()) {
            ("", "") => "<nil>".to_owned(),
            (path, "") => path.to_owned(),
            ("", below) => below.to_owned(),
            (path, below) if below.starts_with('[') => format!("{path}{below}"),
            (path, below) => format!("{path}.{below}"),
        };
        let detail = match &rule.message_program {
            Some(Ok(program)) => match self.message(program, bindings) {
                Ok(message) => message.unwrap_or_else(|| rule.default_message()),
                Err(text) => {
                    self.over = true;
                    self.invalid(&path, &rules.type_name, text);
                    return;
                }
            },
            _ => rule.default_message(),
        };
        let shown = match value {
            Value::Object(_) | Value::Array(_) => String::new(),
            scalar => format!(": {scalar}"),
        };
        let (reason, message) = match rule.reason.as_str() {
            "FieldValueForbidden" => ("FieldValueForbidden", format!("Forbidden: {detail}")),
            "FieldValueRequired" => ("FieldValueRequired", format!("Required value: {detail}")),
            "FieldValueDuplicate" => ("FieldValueDuplicate", format!("Duplicate value{shown}")),
            _ => ("FieldValueInvalid", format!("Invalid value{shown}: {detail}")),
        };
        self.causes.push(Cause { reason: reason.to_owned(), field: path, message });
    }

    /// What a message expression gives; none when its result cannot be used, an error when the budget is gone.
    fn message<'a>(&mut self, program: &'a Program, bindings: &'a [Binding<'a>]) -> Result<Option<String>, String> {
        let evaluation = program.evaluate(bindings, limits::CALL_COST_MAX);
        if evaluation.cost > self.budget {
            return Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned());
        }
        self.budget -= evaluation.cost;
        match evaluation.result {
            Ok(value) => {
                let text = value.as_str().unwrap_or_default().trim();
                let usable = !text.is_empty() && !text.contains('\n') && text.len() <= limits::MESSAGE_BYTES_MAX;
                Ok(usable.then(|| text.to_owned()))
            }
            Err(fault) if fault.is_cost() => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                program.source()
            )),
            Err(_) => Ok(None),
        }
    }
}

/// The element with the same keys.
pub(crate) fn same_key<'v>(before: &'v [Value], item: &Value, keys: &[String]) -> Option<&'v Value> {
    before.iter().find(|other| keys.iter().all(|key| other.get(key) == item.get(key)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(schema: &Value, value: &Value, old: Option<&Value>) -> (Vec<String>, Vec<String>) {
        let rules = Rules::of(schema).expect("rules");
        let mut pass = Pass::new(false);
        pass.run(&rules, "", value, old);
        (pass.causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect(), pass.warnings)
    }

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is above ' + string(self.max)", "fieldPath": ".min"},
                {"rule": "!has(self.name) || self.name == oldSelf.name", "message": "name may not change", "reason": "FieldValueForbidden"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object",
                    "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size", "message": "may not shrink"}],
                    "properties": {"id": {"type": "string"}, "size": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 10"}]}}}}}}}})
    }

    #[test]
    fn rules_refuse_with_their_messages() {
        let (causes, _) = run(&schema(), &json!({"spec": {"min": 5, "max": 1}}), None);
        assert_eq!(causes, ["spec.min: Invalid value: min 5 is above 1"]);
        let (causes, _) = run(&schema(), &json!({"spec": {"min": 1}}), None);
        assert_eq!(causes, ["spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"]);
        let (causes, _) =
            run(&schema(), &json!({"spec": {"min": 1, "max": 2, "parts": [{"id": "a", "size": 11}]}}), None);
        assert_eq!(causes, ["spec.parts[0].size: Invalid value: 11: failed rule: self < 10"]);
    }

    #[test]
    fn transitions_compare_with_what_was_there() {
        let old = json!({"spec": {"min": 1, "max": 2, "name": "a", "parts": [{"id": "x", "size": 3}, {"id": "y", "size": 5}]}});
        let new = json!({"spec": {"min": 1, "max": 2, "name": "b", "parts": [{"id": "y", "size": 4}, {"id": "x", "size": 3}, {"id": "z", "size": 1}]}});
        let (causes, _) = run(&schema(), &new, Some(&old));
        assert_eq!(causes, ["spec: Forbidden: name may not change", "spec.parts[0]: Invalid value: may not shrink"]);
    }

    #[test]
    fn what_did_not_change_only_warns() {
        let old = json!({"spec": {"min": 1, "max": 2, "parts": [{"id": "a", "size": 99}]}});
        let new = json!({"spec": {"min": 1, "max": 3, "parts": [{"id": "a", "size": 99}]}});
        let (causes, warnings) = run(&schema(), &new, Some(&old));
        assert!(causes.is_empty(), "{causes:?}");
        assert_eq!(warnings, ["spec.parts[0].size: Invalid value: 99: failed rule: self < 10"]);
    }

    #[test]
    fn the_budget_ends_everything() {
        let schema = json!({"type": "object", "properties": {"list": {"type": "array", "items": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, a + b + c + d > self))))"}]}}}});
        let value = json!({"list": vec![0; 1000]});
        let (causes, _) = run(&schema, &value, None);
        assert_eq!(causes.len(), 1);
        assert!(causes[0].contains("running out of cost budget"), "{causes:?}");
    }
}
