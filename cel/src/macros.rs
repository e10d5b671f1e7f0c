//! Calls that are syntax: `has`, comprehensions, `cel.bind`, `optMap`.

use std::sync::Arc;

use crate::{
    ast::{Fold, FoldKind, Id, Node},
    issues::Issue,
    parser::Parser,
};

/// A call without target.
pub(crate) fn global(parser: &mut Parser, name: &Arc<str>, args: Vec<Id>, at: usize) -> Result<Id, Issue> {
    if &**name == "has" && args.len() == 1 {
        return match parser.ast.get(args[0]).clone() {
            Node::Select { operand, field, test: false } => {
                parser.push(Node::Select { operand, field, test: true }, at)
            }
            _ => Err(Issue::new(at, "invalid argument to has() macro")),
        };
    }
    parser.push(Node::Call { function: Arc::clone(name), target: None, args }, at)
}

/// A call on a target.
pub(crate) fn member(parser: &mut Parser, target: Id, name: &Arc<str>, args: Vec<Id>, at: usize) -> Result<Id, Issue> {
    let on_cel = matches!(parser.ast.get(target), Node::Ident(name) if &**name == "cel");
    match (&**name, args.as_slice()) {
        ("bind", [variable, value, body]) if on_cel => {
            let name = simple(parser, *variable)?;
            parser.push(Node::Bind { name, value: *value, body: *body }, at)
        }
        ("all", [v, step]) => fold(parser, FoldKind::All, target, &[*v], None, *step, at),
        ("exists", [v, step]) => fold(parser, FoldKind::Exists, target, &[*v], None, *step, at),
        ("exists_one" | "existsOne", [v, step]) => fold(parser, FoldKind::ExistsOne, target, &[*v], None, *step, at),
        ("filter", [v, step]) => fold(parser, FoldKind::Filter, target, &[*v], None, *step, at),
        ("map", [v, step]) => fold(parser, FoldKind::List, target, &[*v], None, *step, at),
        ("map", [v, only, step]) => fold(parser, FoldKind::List, target, &[*v], Some(*only), *step, at),
        ("all", [k, v, step]) => fold(parser, FoldKind::All, target, &[*k, *v], None, *step, at),
        ("exists", [k, v, step]) => fold(parser, FoldKind::Exists, target, &[*k, *v], None, *step, at),
        ("exists_one" | "existsOne", [k, v, step]) => {
            fold(parser, FoldKind::ExistsOne, target, &[*k, *v], None, *step, at)
        }
        ("transformList", [k, v, step]) => fold(parser, FoldKind::List, target, &[*k, *v], None, *step, at),
        ("transformList", [k, v, only, step]) => {
            fold(parser, FoldKind::List, target, &[*k, *v], Some(*only), *step, at)
        }
        ("transformMap", [k, v, step]) => fold(parser, FoldKind::Map, target, &[*k, *v], None, *step, at),
        ("transformMap", [k, v, only, step]) => fold(parser, FoldKind::Map, target, &[*k, *v], Some(*only), *step, at),
        ("transformMapEntry", [k, v, step]) => fold(parser, FoldKind::MapEntry, target, &[*k, *v], None, *step, at),
        ("transformMapEntry", [k, v, only, step]) => {
            fold(parser, FoldKind::MapEntry, target, &[*k, *v], Some(*only), *step, at)
        }
        ("sortBy", [v, key]) => sort_by(parser, target, *v, *key, at),
        ("optMap", [v, body]) => optional(parser, target, *v, *body, true, at),
        ("optFlatMap", [v, body]) => optional(parser, target, *v, *body, false, at),
        _ => parser.push(Node::Call { function: Arc::clone(name), target: Some(target), args }, at),
    }
}

fn simple(parser: &Parser, id: Id) -> Result<Arc<str>, Issue> {
    match parser.ast.get(id) {
        Node::Ident(name) => Ok(Arc::clone(name)),
        _ => Err(Issue::new(parser.ast.position(id), "argument must be a simple name")),
    }
}

fn fold(
    parser: &mut Parser,
    kind: FoldKind,
    range: Id,
    variables: &[Id],
    condition: Option<Id>,
    step: Id,
    at: usize,
) -> Result<Id, Issue> {
    let first = simple(parser, variables[0])?;
    let second = variables.get(1).map(|id| simple(parser, *id)).transpose()?;
    if second.as_ref() == Some(&first) {
        return Err(Issue::new(at, format!("duplicate variable name: {first}")));
    }
    parser.push(Node::Fold(Box::new(Fold { kind, range, first, second, condition, step })), at)
}

/// `list.sortBy(v, key)` binds the list, maps it to keys and sorts by them.
fn sort_by(parser: &mut Parser, target: Id, variable: Id, key: Id, at: usize) -> Result<Id, Issue> {
    const INPUT: &str = "@__sortBy_input__";
    let input = parser.push(Node::Ident(INPUT.into()), at)?;
    let keys = fold(parser, FoldKind::List, input, &[variable], None, key, at)?;
    let sorted = Node::Call { function: "@sortByAssociatedKeys".into(), target: Some(input), args: vec![keys] };
    let body = parser.push(sorted, at)?;
    parser.push(Node::Bind { name: INPUT.into(), value: target, body }, at)
}

/// `target.hasValue() ? optional.of(bind(v, target.value(), body)) : optional.none()`,
/// the target bound first so that nested uses do not evaluate it again and again.
fn optional(parser: &mut Parser, target: Id, variable: Id, body: Id, wrap: bool, at: usize) -> Result<Id, Issue> {
    const TARGET: &str = "@target";
    let name = simple(parser, variable)?;
    let bound = parser.push(Node::Ident(TARGET.into()), at)?;
    let has = parser.push(Node::Call { function: "hasValue".into(), target: Some(bound), args: Vec::new() }, at)?;
    let value = parser.push(Node::Call { function: "value".into(), target: Some(bound), args: Vec::new() }, at)?;
    let body = parser.push(Node::Bind { name, value, body }, at)?;
    let some = if wrap { parser.call("optional.of", vec![body], at)? } else { body };
    let none = parser.call("optional.none", Vec::new(), at)?;
    let choice = parser.call("_?_:_", vec![has, some, none], at)?;
    parser.push(Node::Bind { name: TARGET.into(), value: target, body: choice }, at)
}
