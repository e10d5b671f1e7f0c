//! The interpreter. Every step is charged; the budget is the only thing that
//! ends a loop early, and nothing absorbs its end.
//!
//! Besides the cost that clients know, [`crate::work`] is counted.

use std::sync::Arc;

use crate::{
    ast::{Fold, FoldKind, Id, Literal, Node},
    check::Reference,
    cost::runtime,
    fault::Fault,
    functions::Args,
    library::operators,
    program::Program,
    value::{Entries, List, Map, Text, Value},
    work::Work,
};

/// The fields of a variable that are computed when they are asked for.
pub trait Fields<'a> {
    /// Whether there is such a field; nothing is computed.
    fn has(&self, name: &str) -> bool;

    /// None when there is no such field.
    fn field(&self, name: &str) -> Option<Result<Value<'a>, Fault>>;
}

/// What a variable of the environment holds during one evaluation.
#[derive(Clone)]
pub enum Binding<'a> {
    Absent,
    Value(Value<'a>),
    Fields(&'a dyn Fields<'a>),
}

impl<'a> From<Value<'a>> for Binding<'a> {
    fn from(value: Value<'a>) -> Binding<'a> {
        Binding::Value(value)
    }
}

/// What an element of a list or map takes.
const ELEMENT_BYTES: u64 = 64;
/// How often the bytes of a text count, so that many long ones do not fill the memory.
const COPIES: u64 = 4;

/// What came out and what it cost.
pub struct Evaluation<'a> {
    pub result: Result<Value<'a>, Fault>,
    pub cost: u64,
}

pub(crate) fn evaluate<'a>(program: &'a Program, bindings: &'a [Binding<'a>], limit: u64) -> Evaluation<'a> {
    let mut run = Run { program, bindings, locals: Vec::new(), cost: 0, limit, work: Work::default() };
    let result = run.eval(program.ast.root);
    Evaluation { result, cost: run.cost }
}

struct Run<'a> {
    program: &'a Program,
    bindings: &'a [Binding<'a>],
    locals: Vec<Result<Value<'a>, Fault>>,
    cost: u64,
    limit: u64,
    work: Work,
}

type Answer<'a> = Result<Value<'a>, Fault>;

impl<'a> Run<'a> {
    fn charge(&mut self, cost: u64) -> Result<(), Fault> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(Fault::cost()) } else { Ok(()) }
    }

    fn touch(&self, size: u64) -> Result<(), Fault> {
        if self.work.step(size) { Ok(()) } else { Err(Fault::cost()) }
    }

    fn eval(&mut self, id: Id) -> Answer<'a> {
        let program = self.program;
        match program.ast.get(id) {
            Node::Literal(literal) => Ok(constant(literal)),
            Node::Ident(name) => self.ident(id, name),
            Node::Select { operand, field, test } => self.select(id, *operand, field, *test),
            Node::Call { function, target, args } => self.call(id, function, *target, args),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct { name, fields } => self.structure(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { value, body, .. } => {
                let value = self.eval(*value);
                if matches!(&value, Err(fault) if fault.is_cost()) {
                    return value;
                }
                self.locals.push(value);
                let result = self.eval(*body);
                self.locals.pop();
                result
            }
        }
    }

    fn ident(&mut self, id: Id, name: &str) -> Answer<'a> {
        self.charge(1)?;
        match &self.program.checked.references[id.0 as usize] {
            Reference::Local(place) => {
                self.locals.get(*place as usize).cloned().unwrap_or_else(|| Err(Fault::new("no such variable")))
            }
            Reference::Global(number) => match self.bindings.get(*number as usize) {
                Some(Binding::Value(value)) => Ok(value.clone()),
                _ => Err(Fault::new(format!("no such attribute(s): {name}"))),
            },
            Reference::Type(name) => Ok(Value::Type(Arc::clone(name))),
            Reference::None => Err(Fault::new(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, test: bool) -> Answer<'a> {
        if !matches!(self.program.checked.references[id.0 as usize], Reference::None) {
            return self.ident(id, field);
        }
        if let Some(fields) = self.computed(operand) {
            self.charge(1 + u64::from(!test))?;
            return if test {
                Ok(Value::Bool(fields.has(field)))
            } else {
                fields.field(field).unwrap_or_else(|| Err(no_such_key(field)))
            };
        }
        let target = self.eval(operand)?;
        if !test {
            self.charge(1)?;
        }
        match (&target, test) {
            (Value::Map(map), true) => Ok(Value::Bool(map.field(field).is_some())),
            (Value::Map(map), false) => map.field(field).ok_or_else(|| no_such_key(field)),
            (Value::Optional(inner), test) => match inner.as_deref() {
                Some(Value::Map(map)) if test => Ok(Value::Bool(map.field(field).is_some())),
                Some(Value::Map(map)) => Ok(Value::Optional(map.field(field).map(Arc::new))),
                None if test => Ok(Value::Bool(false)),
                None => Ok(Value::Optional(None)),
                Some(_) => Err(Fault::no_such_overload()),
            },
            _ => Err(Fault::no_such_overload()),
        }
    }

    fn computed(&self, operand: Id) -> Option<&'a dyn Fields<'a>> {
        match &self.program.checked.references[operand.0 as usize] {
            Reference::Global(number) => match self.bindings.get(*number as usize) {
                Some(Binding::Fields(fields)) => Some(*fields),
                _ => None,
            },
            _ => None,
        }
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, args: &'a [Id]) -> Answer<'a> {
        match (function, args) {
            ("_&&_", [a, b]) => return self.logical(*a, *b, false),
            ("_||_", [a, b]) => return self.logical(*a, *b, true),
            ("_?_:_", [condition, a, b]) => {
                return match self.eval(*condition)? {
                    Value::Bool(true) => self.eval(*a),
                    Value::Bool(false) => self.eval(*b),
                    _ => Err(Fault::no_such_overload()),
                };
            }
            ("_?._", [operand, field]) => return self.optional_select(*operand, *field),
            ("or" | "orValue", [other]) if target.is_some() => {
                if let Some(target) = target {
                    return self.or(target, *other, function == "orValue");
                }
            }
            _ => {}
        }
        self.plain_call(id, target, args)
    }

    /// `&&` and `||`: an error counts only when the other side does not decide.
    fn logical(&mut self, a: Id, b: Id, decisive: bool) -> Answer<'a> {
        let mut failed: Option<Fault> = None;
        for id in [a, b] {
            match self.eval(id) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failed = failed.or_else(|| Some(Fault::no_such_overload())),
                Err(fault) if fault.is_cost() => return Err(fault),
                Err(fault) => failed = failed.or(Some(fault)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn or(&mut self, target: Id, other: Id, unwrap: bool) -> Answer<'a> {
        let value = self.eval(target)?;
        self.charge(1)?;
        match value {
            Value::Optional(Some(inner)) if unwrap => Ok((*inner).clone()),
            Value::Optional(None) => self.eval(other),
            value @ Value::Optional(_) => Ok(value),
            _ => Err(Fault::no_such_overload()),
        }
    }

    fn optional_select(&mut self, operand: Id, field: Id) -> Answer<'a> {
        let Node::Literal(Literal::String(field)) = self.program.ast.get(field) else {
            return Err(Fault::no_such_overload());
        };
        let target = self.eval(operand)?;
        self.charge(1)?;
        let target = match &target {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => inner,
            other => other,
        };
        match target {
            Value::Map(map) => Ok(Value::Optional(map.field(field).map(Arc::new))),
            _ => Err(Fault::no_such_overload()),
        }
    }

    fn plain_call(&mut self, id: Id, target: Option<Id>, args: &'a [Id]) -> Answer<'a> {
        let program = self.program;
        let Some(call) = program.checked.calls.get(&id.0) else { return Err(Fault::no_such_overload()) };
        let target = target.filter(|_| !call.namespaced);
        let mut values = Vec::with_capacity(args.len() + 1);
        for id in target.iter().chain(args) {
            values.push(self.eval(*id)?);
        }
        for value in &values {
            self.touch(weight(value))?;
        }
        let Some(run) = call.function.run else {
            // `dyn(x)` only looks away from the type.
            self.charge(1)?;
            return values.pop().ok_or_else(Fault::no_such_overload);
        };
        let pattern = program.patterns.get(&id.0);
        let result = run(&Args { values: &values, pattern, work: &self.work });
        self.touch(0)?;
        self.charge(runtime::call(call, &values, result.as_ref().ok()))?;
        if let Ok(value) = &result {
            self.touch(weight(value))?;
        }
        result
    }

    /// Literals made of constants only cost nothing.
    fn is_constant(&self, id: Id) -> bool {
        match self.program.ast.get(id) {
            Node::Literal(_) => true,
            Node::List(elements) => elements.iter().all(|(id, optional)| !optional && self.is_constant(*id)),
            _ => false,
        }
    }

    fn list(&mut self, elements: &'a [(Id, bool)]) -> Answer<'a> {
        let constant = elements.iter().all(|(id, optional)| !optional && self.is_constant(*id));
        let mut items = Vec::with_capacity(elements.len());
        for (id, optional) in elements {
            let value = self.eval(*id)?;
            match (optional, value) {
                (false, value) => items.push(value),
                (true, Value::Optional(Some(inner))) => items.push((*inner).clone()),
                (true, Value::Optional(None)) => {}
                (true, _) => return Err(Fault::no_such_overload()),
            }
        }
        self.touch(items.len() as u64)?;
        self.charge(if constant { 0 } else { runtime::LIST })?;
        Ok(Value::list(items))
    }

    fn map(&mut self, entries: &'a [(Id, Id, bool)]) -> Answer<'a> {
        let mut made = Entries::default();
        for (key, value, optional) in entries {
            let key = self.eval(*key)?;
            if !matches!(key, Value::String(_) | Value::Int(_) | Value::Uint(_) | Value::Bool(_)) {
                return Err(Fault::new(format!("unsupported key type: {}", key.type_name())));
            }
            let value = match (optional, self.eval(*value)?) {
                (false, value) => value,
                (true, Value::Optional(Some(inner))) => (*inner).clone(),
                (true, Value::Optional(None)) => continue,
                (true, _) => return Err(Fault::no_such_overload()),
            };
            if made.list.iter().any(|(have, _)| have.equals(&key, &self.work)) {
                return Err(Fault::new("Failed with repeated key"));
            }
            made.list.push((key, value));
        }
        self.charge(runtime::MAP)?;
        Ok(Value::Map(Map::Owned(Arc::new(made))))
    }

    fn structure(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Id, bool)]) -> Answer<'a> {
        let mut made = Entries { list: Vec::new(), type_name: Some(Arc::clone(name)) };
        for (field, id, optional) in fields {
            let value = match (optional, self.eval(*id)?) {
                (false, value) => value,
                (true, Value::Optional(Some(inner))) => (*inner).clone(),
                (true, Value::Optional(None)) => continue,
                (true, _) => return Err(Fault::no_such_overload()),
            };
            check_type_name(name, field, &value)?;
            made.list.push((Value::String(Text::Shared(Arc::clone(field))), value));
        }
        self.charge(runtime::STRUCT)?;
        Ok(Value::Map(Map::Owned(Arc::new(made))))
    }

    fn fold(&mut self, fold: &'a Fold) -> Answer<'a> {
        let range = self.eval(fold.range)?;
        let depth = self.locals.len();
        let result = match &range {
            Value::List(list) => {
                self.touch(list.len() as u64)?;
                let both = fold.second.is_some();
                let items = list.iter().enumerate().map(|(index, value)| match both {
                    true => (Value::Int(index as i64), Some(value)),
                    false => (value, None),
                });
                self.fold_over(fold, items)
            }
            Value::Map(map) => {
                self.touch(map.len() as u64)?;
                let both = fold.second.is_some();
                self.fold_over(fold, map.iter().map(|(key, value)| (key, both.then_some(value))))
            }
            _ => Err(Fault::no_such_overload()),
        };
        self.locals.truncate(depth);
        result
    }

    fn fold_over(&mut self, fold: &'a Fold, items: impl Iterator<Item = (Value<'a>, Option<Value<'a>>)>) -> Answer<'a> {
        let depth = self.locals.len();
        let mut state = Accumulated::default();
        for (first, second) in items {
            self.touch(0)?;
            self.locals.truncate(depth);
            let element = first.clone();
            self.locals.push(Ok(first));
            self.locals.extend(second.map(Ok));
            if let Some(condition) = fold.condition
                && !self.condition(condition)?
            {
                self.charge(1)?;
                continue;
            }
            if self.step(fold, element, &mut state)? {
                break;
            }
        }
        self.charge(if fold.kind == FoldKind::ExistsOne { 2 } else { 1 })?;
        state.finish(fold.kind)
    }

    fn condition(&mut self, id: Id) -> Result<bool, Fault> {
        self.eval(id)?.as_bool().ok_or_else(Fault::no_such_overload)
    }

    /// One element; true when the result is decided.
    fn step(&mut self, fold: &'a Fold, element: Value<'a>, state: &mut Accumulated<'a>) -> Result<bool, Fault> {
        match fold.kind {
            FoldKind::All | FoldKind::Exists => {
                let decisive = fold.kind == FoldKind::Exists;
                self.charge(if decisive { 4 } else { 3 })?;
                match self.eval(fold.step) {
                    Ok(Value::Bool(value)) if value == decisive => {
                        state.decided = true;
                        return Ok(true);
                    }
                    Ok(Value::Bool(_)) => {}
                    Err(fault) if fault.is_cost() => return Err(fault),
                    Ok(_) => state.fail(Fault::no_such_overload()),
                    Err(fault) => state.fail(fault),
                }
            }
            FoldKind::ExistsOne => {
                let found = self.condition(fold.step)?;
                self.charge(if found { 2 } else { 1 })?;
                state.count += u64::from(found);
            }
            FoldKind::Filter => {
                let kept = self.condition(fold.step)?;
                self.charge(if kept { 3 + runtime::LIST } else { 1 })?;
                if kept {
                    state.items.push(element);
                }
            }
            FoldKind::List => {
                let value = self.eval(fold.step)?;
                self.charge(2 + runtime::LIST)?;
                state.items.push(value);
            }
            FoldKind::Map => {
                let value = self.eval(fold.step)?;
                self.charge(3)?;
                state.entries.push((element, value));
            }
            FoldKind::MapEntry => {
                let Value::Map(map) = self.eval(fold.step)? else { return Err(Fault::no_such_overload()) };
                self.charge(2)?;
                for (key, value) in map.iter() {
                    self.touch(state.entries.len() as u64)?;
                    if state.entries.iter().any(|(have, _)| have.equals(&key, &self.work)) {
                        return Err(Fault::new(format!(
                            "insert failed: key {} already exists",
                            operators::shown(&key)
                        )));
                    }
                    state.entries.push((key, value));
                }
            }
        }
        Ok(false)
    }
}

/// What a comprehension has gathered.
#[derive(Default)]
struct Accumulated<'a> {
    decided: bool,
    failed: Option<Fault>,
    count: u64,
    items: Vec<Value<'a>>,
    entries: Vec<(Value<'a>, Value<'a>)>,
}

impl<'a> Accumulated<'a> {
    fn fail(&mut self, fault: Fault) {
        self.failed.get_or_insert(fault);
    }

    fn finish(self, kind: FoldKind) -> Answer<'a> {
        match (kind, self.failed) {
            (FoldKind::All | FoldKind::Exists, _) if self.decided => Ok(Value::Bool(kind == FoldKind::Exists)),
            (_, Some(fault)) => Err(fault),
            (FoldKind::All | FoldKind::Exists, None) => Ok(Value::Bool(kind == FoldKind::All)),
            (FoldKind::ExistsOne, None) => Ok(Value::Bool(self.count == 1)),
            (FoldKind::Filter | FoldKind::List, None) => Ok(Value::list(self.items)),
            (FoldKind::Map | FoldKind::MapEntry, None) => {
                Ok(Value::Map(Map::Owned(Arc::new(Entries { list: self.entries, type_name: None }))))
            }
        }
    }
}

fn no_such_key(name: &str) -> Fault {
    Fault::new(format!("no such key: {name}"))
}

/// `Object.spec` may only stand in the field `spec` of `Object`, by itself or in a list.
fn check_type_name(name: &str, field: &str, value: &Value<'_>) -> Result<(), Fault> {
    if let Value::List(List::Owned(items)) = value {
        return items.iter().try_for_each(|item| match item {
            Value::List(_) => Ok(()),
            item => check_type_name(name, field, item),
        });
    }
    let Value::Map(Map::Owned(entries)) = value else { return Ok(()) };
    let Some(have) = entries.type_name.as_deref() else { return Ok(()) };
    let want = format!("{name}.{field}");
    if have == want || name == "JSONPatch" {
        return Ok(());
    }
    Err(Fault::new(format!(
        "unexpected type name {have:?}, expected {want:?}, which matches field name path from root Object type"
    )))
}

fn constant<'a>(literal: &'a Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(Arc::clone(bytes)),
    }
}

/// Bytes, as far as they can be known without looking inside.
fn weight(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.len() as u64 * COPIES,
        Value::Bytes(bytes) => bytes.len() as u64 * COPIES,
        Value::List(list) => list.len() as u64 * ELEMENT_BYTES,
        Value::Map(Map::Json { fields, .. } | Map::Object { fields, .. }) => fields.len() as u64 * ELEMENT_BYTES,
        Value::Map(Map::Owned(entries)) => entries.list.len() as u64 * ELEMENT_BYTES,
        _ => 0,
    }
}
