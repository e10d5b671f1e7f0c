//! What an expression may cost at most, before it ever runs.
//!
//! Sizes come from the declaration a value is reached through (`maxItems`,
//! `maxLength`), from literals, and from what functions do to sizes. Where
//! nothing is known the bound is the largest number. Definitions are accepted
//! or refused by these numbers, so the rules are followed closely, including
//! that elements of a list that is no part of the object have the size of the
//! whole object's declaration.

use super::{AUTHORIZATION, PATTERN, Range, TEXT, runtime, scale};
use crate::{
    ast::{Fold, FoldKind, Id, Literal, Node},
    check::{Call, Reference},
    declaration::Declaration,
    functions::Overload,
    program::Program,
    types::Type,
};

/// Longest pattern of a named format.
const FORMAT_PATTERN_MAX: u64 = 128;
const FORMAT_NAME_MAX: u64 = 64;

/// Estimates a whole program.
pub(crate) fn of(program: &Program) -> Range {
    Estimator { program, locals: Vec::new() }.visit(program.ast.root).cost
}

/// Sizes of the entries of a list or map.
#[derive(Clone, Copy)]
struct Entry {
    list: bool,
    key: Range,
    value: Range,
}

impl Entry {
    fn union(self, other: Entry) -> Entry {
        Entry { list: self.list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

fn union(a: Option<Entry>, b: Option<Entry>) -> Option<Entry> {
    Some(a?.union(b?))
}

/// What is known about an expression.
#[derive(Clone)]
struct Known<'p> {
    cost: Range,
    size: Option<Range>,
    entry: Option<Entry>,
    /// Where the value is declared.
    declared: Option<&'p Declaration>,
    /// The value is reached by a path, declared or not.
    path: bool,
}

impl Known<'_> {
    fn cost(cost: Range) -> Self {
        Known { cost, size: None, entry: None, declared: None, path: false }
    }

    fn size(&self) -> Range {
        self.size.unwrap_or(Range::UNKNOWN)
    }
}

struct Estimator<'p> {
    program: &'p Program,
    locals: Vec<Known<'p>>,
}

fn fixed(value: u64) -> Range {
    Range::fixed(value)
}

fn declared_size(declared: Option<&Declaration>) -> Option<Range> {
    declared.map(|declared| Range { min: 0, max: declared.elements_max })
}

impl<'p> Estimator<'p> {
    fn root(&self) -> Option<&'p Declaration> {
        self.program.env.names().next()?;
        Some(&**self.program.env.declaration(0))
    }

    fn ty(&self, id: Id) -> &'p Type {
        &self.program.checked.types[id.0 as usize]
    }

    /// Completes the size: by declaration, then by type.
    fn sized(&self, id: Id, mut known: Known<'p>) -> Known<'p> {
        if known.size.is_none() {
            known.size = declared_size(known.declared).or_else(|| self.ty(id).is_scalar().then_some(fixed(1)));
        }
        known
    }

    fn visit(&mut self, id: Id) -> Known<'p> {
        let program = self.program;
        match program.ast.get(id) {
            Node::Literal(literal) => Known { size: literal_size(literal), ..Known::cost(fixed(0)) },
            Node::Ident(_) => self.ident(id),
            Node::Select { operand, field, test } => self.select(id, *operand, field, *test),
            Node::Call { function, target, args } => self.call(id, function, *target, args),
            Node::List(elements) => {
                let mut cost = fixed(runtime::LIST);
                let mut value = Range { min: if elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
                for (id, _) in elements {
                    let known = self.visit(*id);
                    cost = cost.plus(known.cost);
                    value = value.union(known.size());
                }
                let entry = Some(Entry { list: true, key: fixed(1), value });
                Known { size: Some(fixed(elements.len() as u64)), entry, ..Known::cost(cost) }
            }
            Node::Map(entries) => self.map(entries),
            Node::Struct { fields, .. } => {
                let cost =
                    fields.iter().map(|(_, id, _)| self.visit(*id).cost).fold(fixed(runtime::STRUCT), Range::plus);
                Known::cost(cost)
            }
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { name, value, body } => {
                let value = self.visit(*value);
                let base = if &**name == "@target" { 0 } else { runtime::LIST };
                let cost = fixed(base).plus(value.cost);
                self.locals.push(value);
                let body = self.visit(*body);
                self.locals.pop();
                Known { cost: cost.plus(body.cost), size: body.size, entry: body.entry, declared: None, path: false }
            }
        }
    }

    fn ident(&self, id: Id) -> Known<'p> {
        let known = match &self.program.checked.references[id.0 as usize] {
            Reference::Local(place) => match self.locals.get(*place as usize) {
                Some(local) => {
                    let size = declared_size(local.declared)
                        .or_else(|| self.ty(id).is_scalar().then_some(fixed(1)))
                        .or(local.size);
                    Known { cost: fixed(1), size, ..local.clone() }
                }
                None => Known::cost(fixed(1)),
            },
            Reference::Global(_) => Known { declared: self.root(), path: true, ..Known::cost(fixed(1)) },
            _ => Known { path: true, ..Known::cost(fixed(1)) },
        };
        self.sized(id, known)
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, test: bool) -> Known<'p> {
        if !matches!(self.program.checked.references[id.0 as usize], Reference::None) {
            return Known { path: true, ..Known::cost(fixed(1)) };
        }
        let target = self.visit(operand);
        if test {
            return Known { size: Some(fixed(1)), ..Known::cost(target.cost) };
        }
        let step = u64::from(matches!(self.ty(operand), Type::Map(_) | Type::Object(_) | Type::Param(_)));
        let declared = target.declared.and_then(|declared| {
            let entry = declared.element.as_ref().filter(|_| declared.open);
            declared.fields.get(field).or(entry).map(|field| &**field)
        });
        self.sized(id, Known { declared, path: target.path, ..Known::cost(target.cost.plus(fixed(step))) })
    }

    fn map(&mut self, entries: &'p [(Id, Id, bool)]) -> Known<'p> {
        let empty = Range { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
        let (mut cost, mut key_size, mut value_size) = (fixed(runtime::MAP), empty, empty);
        for (key, value, _) in entries {
            let (key, value) = (self.visit(*key), self.visit(*value));
            cost = cost.plus(key.cost).plus(value.cost);
            key_size = key_size.union(key.size());
            value_size = value_size.union(value.size());
        }
        let entry = Some(Entry { list: false, key: key_size, value: value_size });
        Known { size: Some(fixed(entries.len() as u64)), entry, ..Known::cost(cost) }
    }

    /// The variable of an iteration: what the elements of `range` are.
    fn iteration(&self, range: Id, known: &Known<'p>, keys: bool) -> Known<'p> {
        let list = known.entry.map_or(matches!(self.ty(range), Type::List(_)), |entry| entry.list);
        let declared = match known.path {
            false => self.root(),
            true if keys => None,
            true => known.declared.and_then(|declared| declared.element.as_deref()),
        };
        let size = known.entry.map(|entry| if keys { entry.key } else { entry.value });
        // Keys of maps are declared as text without a length.
        let size = if keys && known.path && !list && known.declared.is_some() { Some(fixed(0)) } else { size };
        Known { size, declared, path: true, ..Known::cost(fixed(1)) }
    }

    fn fold(&mut self, fold: &'p Fold) -> Known<'p> {
        let range = self.visit(fold.range);
        let list = match range.entry {
            Some(entry) => entry.list,
            None => matches!(self.ty(fold.range), Type::List(_)),
        };
        let depth = self.locals.len();
        if fold.second.is_some() {
            let key = self.iteration(fold.range, &range, true);
            self.locals.push(key);
            let value = self.iteration(fold.range, &range, false);
            self.locals.push(value);
        } else {
            let variable = self.iteration(fold.range, &range, !list);
            self.locals.push(variable);
        }
        let element = self.locals[depth].clone();
        let condition = fold.condition.map(|id| self.visit(id).cost);
        let step = self.visit(fold.step);
        self.locals.truncate(depth);
        let made = match fold.kind {
            FoldKind::Filter => Some(element.size()),
            FoldKind::List | FoldKind::Map => Some(step.size()),
            _ => None,
        };
        let each = each_cost(fold.kind, condition, &step);
        let count = range.size();
        let (base, after) = match fold.kind {
            FoldKind::All | FoldKind::Exists => (0, 1),
            FoldKind::ExistsOne => (0, 2),
            FoldKind::Filter | FoldKind::List => (runtime::LIST, 1),
            FoldKind::Map | FoldKind::MapEntry => (runtime::MAP, 1),
        };
        let cost = range.cost.plus(fixed(base + after)).plus(count.times(each));
        let Some(made) = made else {
            let size = if fold.kind == FoldKind::MapEntry { count } else { fixed(1) };
            return Known { size: Some(size), ..Known::cost(cost) };
        };
        let nothing = Entry { list: true, key: fixed(1), value: fixed(0) };
        let entry = nothing.union(Entry { list: true, key: fixed(1), value: made });
        let entry = (fold.kind != FoldKind::Map).then_some(entry);
        Known { size: Some(count), entry, ..Known::cost(cost) }
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, args: &'p [Id]) -> Known<'p> {
        let program = self.program;
        if function == "_?._" {
            let operand = self.visit(args[0]);
            return self.sized(id, Known::cost(operand.cost.plus(fixed(1))));
        }
        let Some(call) = program.checked.calls.get(&id.0) else { return Known::cost(fixed(0)) };
        let target = target.filter(|_| !call.namespaced);
        let target_known = target.map(|id| self.visit(id));
        let knowns: Vec<Known<'p>> = args.iter().map(|id| self.visit(*id)).collect();
        if function == "dyn" {
            let Some(arg) = knowns.into_iter().next() else { return Known::cost(fixed(1)) };
            return Known {
                cost: arg.cost.plus(fixed(1)),
                size: arg.size,
                entry: arg.entry,
                declared: None,
                path: false,
            };
        }
        let site =
            Site { estimator: self, call, target_id: target, target: target_known.as_ref(), args: &knowns, ids: args };
        let mut cost = Range { min: u64::MAX, max: 0 };
        let mut size: Option<Range> = None;
        for overload in &call.overloads {
            let (overload_cost, overload_size) = site.overload(overload);
            cost = cost.union(overload_cost);
            size = match (size, overload_size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
        }
        let mut known = Known::cost(cost.plus(target_known.as_ref().map_or(fixed(0), |target| target.cost)));
        known.size = size;
        match call.overloads.last().map(|overload| overload.id.as_str()) {
            Some("index_list" | "index_map") => {
                let operand = &knowns[0];
                known.path = true;
                known.declared = if operand.path {
                    operand.declared.and_then(|declared| declared.element.as_deref())
                } else {
                    self.root()
                };
                known.size = operand.entry.map(|entry| entry.value);
            }
            Some("conditional") => known.entry = union(knowns[1].entry, knowns[2].entry),
            Some("add_list") => known.entry = union(knowns[0].entry, knowns[1].entry),
            _ => {}
        }
        self.sized(id, known)
    }
}

/// One turn of a loop, the way the fold is made of simpler expressions.
fn each_cost(kind: FoldKind, condition: Option<Range>, step: &Known<'_>) -> Range {
    let plus =
        |min: u64, max: u64| Range { min: step.cost.min.saturating_add(min), max: step.cost.max.saturating_add(max) };
    let add = 2 + runtime::LIST;
    let each = match kind {
        FoldKind::All => return Range { min: 3, max: step.cost.max.saturating_add(3) },
        FoldKind::Exists => return Range { min: 4, max: step.cost.max.saturating_add(4) },
        FoldKind::ExistsOne => return plus(1, 2),
        FoldKind::Filter => return plus(1, add + 1),
        FoldKind::List => plus(add, add),
        FoldKind::Map => plus(3, 3),
        FoldKind::MapEntry => plus(2, 2),
    };
    match condition {
        Some(condition) => condition.plus(each.union(fixed(1))),
        None => each,
    }
}

fn literal_size(literal: &Literal) -> Option<Range> {
    Some(fixed(match literal {
        Literal::String(text) => text.chars().count() as u64,
        Literal::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    }))
}

/// A call with what is known about its arguments.
struct Site<'e, 'p> {
    estimator: &'e Estimator<'p>,
    call: &'p Call,
    target_id: Option<Id>,
    target: Option<&'e Known<'p>>,
    args: &'e [Known<'p>],
    ids: &'p [Id],
}

impl Site<'_, '_> {
    fn arg(&self, index: usize) -> Range {
        self.args.get(index).map_or(Range::UNKNOWN, Known::size)
    }

    fn target(&self) -> Range {
        self.target.map_or(Range::UNKNOWN, Known::size)
    }

    fn number(&self, index: usize) -> Option<u64> {
        match self.estimator.program.ast.get(*self.ids.get(index)?) {
            Node::Literal(Literal::Int(number)) => Some((*number).max(0) as u64),
            _ => None,
        }
    }

    /// Cost with arguments, and the size of the result where it is special.
    fn overload(&self, overload: &Overload) -> (Range, Option<Range>) {
        let args = self.args.iter().map(|arg| arg.cost).fold(fixed(0), Range::plus);
        if let Some((cost, size)) = self.library(overload) {
            return (cost.plus(args), size);
        }
        match overload.id.as_str() {
            "string_format" => (self.target().scaled(TEXT).plus(args), None),
            "string_to_bytes" => {
                let size = self.arg(0);
                (size.scaled(TEXT).plus(args), Some(Range { min: size.min, max: size.max.saturating_mul(4) }))
            }
            "bytes_to_string" => {
                let size = self.arg(0);
                (size.scaled(TEXT).plus(args), Some(Range { min: size.min / 4, max: size.max }))
            }
            "strings_quote" => {
                let size = self.arg(0);
                let quoted = size.times(Range { min: 1, max: 2 }).plus(fixed(2));
                (size.scaled(TEXT).plus(args), Some(quoted))
            }
            "starts_with_string" | "ends_with_string" => (self.arg(0).scaled(TEXT).plus(args), None),
            "in_list" => (self.arg(1).plus(args), None),
            "matches_string" => {
                let text = self.target().plus(fixed(1)).scaled(TEXT);
                (text.times(self.arg(0).scaled(PATTERN)).plus(args), None)
            }
            "contains_string" => (self.target().scaled(TEXT).times(self.arg(0).scaled(TEXT)).plus(args), None),
            "logical_or" | "logical_and" => {
                let (a, b) = (self.args[0].cost, self.args[1].cost);
                (Range { min: a.min, max: a.plus(b).max }, None)
            }
            "conditional" => {
                let cost = self.args[0].cost.plus(self.args[1].cost.union(self.args[2].cost));
                (cost, Some(self.arg(1).union(self.arg(2))))
            }
            "add_list" => (fixed(1).plus(args), Some(self.arg(0).plus(self.arg(1)))),
            "add_string" | "add_bytes" => {
                let size = self.arg(0).plus(self.arg(1));
                (size.scaled(TEXT).plus(args), Some(size))
            }
            "equals"
            | "not_equals"
            | "less_string"
            | "less_equals_string"
            | "greater_string"
            | "greater_equals_string"
            | "less_bytes"
            | "less_equals_bytes"
            | "greater_bytes"
            | "greater_equals_bytes" => {
                let max = self.arg(0).max.min(self.arg(1).max);
                (Range { min: u64::from(max > 0), max }.scaled(TEXT).plus(args), None)
            }
            _ => (fixed(1).plus(args), None),
        }
    }

    /// Functions of the Kubernetes libraries, arguments not included.
    fn library(&self, overload: &Overload) -> Option<(Range, Option<Range>)> {
        let text = |size: Range| Some((size.scaled(TEXT), Some(size)));
        let parsed = |size: Range, factor: f64| Some((size.scaled(factor * TEXT), None));
        let nominal = Some((fixed(1), None));
        let member = self.target.is_some();
        let bytes = Range { min: 4, max: 16 };
        match self.call.function.name.as_str() {
            "check" => Some((fixed(AUTHORIZATION), None)),
            "fieldSelector" | "labelSelector" => {
                let size = self.arg(0);
                let each = (runtime::LIST + runtime::STRUCT) as f64;
                Some((fixed(runtime::LIST).plus(size.scaled(TEXT)).plus(size.scaled(0.5).scaled(each)), None))
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" if member => {
                Some((self.over_elements(), None))
            }
            "url" | "jsonpatch.escapeKey" => text(self.arg(0)),
            "lowerAscii" | "upperAscii" | "substring" | "trim" if member => text(self.target()),
            "replace" if member => Some(self.replace()),
            "split" if member => {
                let max = self.number(1).unwrap_or(self.target().max);
                Some((self.target().scaled(2.0 * TEXT), Some(Range { min: 0, max })))
            }
            "join" if member => text(self.joined()),
            "find" | "findAll" if member => {
                let text = self.target().plus(fixed(1)).scaled(TEXT);
                Some((text.times(self.arg(0).scaled(PATTERN)), Some(Range { min: 0, max: self.target().max })))
            }
            "ip" if overload.id == "cidr_ip" => nominal,
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                parsed(self.arg(0), 1.0)
            }
            "ip.isCanonical" => parsed(self.arg(0), 2.0),
            "containsIP" | "containsCIDR" => {
                let mut cost = bytes.plus(bytes).scaled(TEXT);
                if self.call.function.name == "containsCIDR" {
                    cost = cost.plus(bytes.scaled(TEXT)).plus(fixed(1));
                }
                if overload.id.ends_with("_string") {
                    cost = cost.plus(self.arg(0).scaled(TEXT));
                }
                Some((cost, None))
            }
            "validate" => Some((self.arg(0).scaled(TEXT).scaled(FORMAT_PATTERN_MAX as f64 * PATTERN), None)),
            "_==_" => self.opaque_equality(),
            "sets.contains" | "sets.intersects" => Some((self.arg(0).times(self.arg(1)).plus(fixed(1)), None)),
            "sets.equivalent" => Some((self.arg(0).times(self.arg(1)).scaled(2.0).plus(fixed(1)), None)),
            name => self.lists(name),
        }
    }

    fn lists(&self, name: &str) -> Option<(Range, Option<Range>)> {
        let made = |factor: f64, size: Range| Some((size.scaled(factor).plus(fixed(1 + runtime::LIST)), Some(size)));
        let squared = |size: Range, ty: Option<&Type>| {
            let text = matches!(ty, Some(Type::List(list)) if matches!(list.element, Type::String | Type::Bytes));
            made(if text { 2.0 + TEXT } else { 2.0 }, size.times(size))
        };
        match name {
            "slice" => {
                let end = self.number(1).unwrap_or(self.target().max);
                made(1.0, fixed(end.saturating_sub(self.number(0).unwrap_or(0))))
            }
            "lists.range" => made(1.0, fixed(self.number(0).unwrap_or(u64::MAX))),
            "reverse" => made(1.0, self.target()),
            "flatten" => {
                let depth = if self.ids.is_empty() { 1 } else { self.number(0).unwrap_or(u64::MAX) };
                made(depth as f64, self.target())
            }
            "distinct" => made(2.0, self.target().times(self.target())),
            "sort" => squared(self.target(), self.target_id.map(|id| self.estimator.ty(id))),
            "@sortByAssociatedKeys" => squared(self.arg(0), self.ids.first().map(|id| self.estimator.ty(*id))),
            _ => None,
        }
    }

    /// The element of the target list: its size as declared.
    fn element(&self) -> Option<(&Type, Range)> {
        let Type::List(list) = self.estimator.ty(self.target_id?) else { return None };
        let declared = self.target?.declared.and_then(|declared| declared.element.as_deref());
        Some((&list.element, declared_size(declared).unwrap_or(Range::UNKNOWN)))
    }

    fn over_elements(&self) -> Range {
        match self.element() {
            Some((Type::String | Type::Bytes, size)) => self.target().times(fixed(1).plus(size.scaled(TEXT))),
            Some(_) => self.target(),
            None if self.call.function.name == "includes" => self.target(),
            None => self.target().scaled(TEXT),
        }
    }

    fn joined(&self) -> Range {
        let count = self.target();
        let mut size = self.element().map_or(fixed(0), |(_, size)| count.times(size));
        if !self.args.is_empty() {
            let gaps = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
            size = size.plus(self.arg(0).times(gaps));
        }
        size
    }

    fn replace(&self) -> (Range, Option<Range>) {
        let (size, from, to) = (self.target(), self.arg(0), self.arg(1));
        let (mut count, mut kept) = (fixed(0), fixed(0));
        if from.min == 0 {
            (count.max, kept.max) = (size.max.saturating_add(1), size.max);
        } else if to.max <= from.min {
            kept.max = size.max;
        } else {
            count.max = scale(size.max, 1.0 / from.min as f64);
        }
        if from.max == 0 {
            (count.min, kept.min) = (size.min.saturating_add(1), size.min);
        } else if from.max <= to.min {
            kept.min = size.min;
        } else {
            count.min = scale(size.min, 1.0 / from.max as f64);
        }
        (size.scaled(2.0 * TEXT), Some(count.times(to).plus(kept)))
    }

    fn opaque_equality(&self) -> Option<(Range, Option<Range>)> {
        let (a, b) = (self.estimator.ty(*self.ids.first()?), self.estimator.ty(*self.ids.get(1)?));
        match (a, b) {
            (Type::Opaque(a), Type::Opaque(b)) if a == b => Some((
                match *a {
                    "kubernetes.NamedFormat" => Range { min: 1, max: FORMAT_NAME_MAX }.scaled(TEXT),
                    "kubernetes.URL" => Range { min: 1, max: self.arg(1).max }.scaled(TEXT),
                    _ => fixed(1),
                },
                None,
            )),
            _ => None,
        }
    }
}
