//! The type checker: names, fields and overloads are resolved before anything runs.

use std::{collections::HashMap, sync::Arc};

use crate::{
    ast::{Ast, Fold, FoldKind, Id, Literal, Node},
    declaration::Declaration,
    functions::{self, Function, Overload},
    issues::Issue,
    limits::ERRORS_MAX,
    time,
    types::Type,
    unify::Bindings,
};

/// What expressions may use besides the language.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(Arc<str>, Arc<Declaration>)>,
    /// `Object{...}` and `JSONPatch{...}` may be made.
    mutation: bool,
}

impl Env {
    /// With a variable of a declared shape.
    pub fn with(mut self, name: &str, declaration: Arc<Declaration>) -> Env {
        self.variables.retain(|(have, _)| **have != *name);
        self.variables.push((name.into(), declaration));
        self
    }

    /// With a variable of a type without known bounds.
    pub fn with_type(self, name: &str, ty: Type) -> Env {
        self.with(name, Arc::new(Declaration::of(ty)))
    }

    /// With `Object{...}` and `JSONPatch{...}`.
    pub fn with_mutation(mut self) -> Env {
        self.mutation = true;
        self
    }

    /// Names in the order in which values are given to an evaluation.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| &**name)
    }

    pub(crate) fn declaration(&self, number: usize) -> &Arc<Declaration> {
        &self.variables[number].1
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|(have, _)| **have == *name)
    }
}

/// What a name stands for.
#[derive(Clone, Debug, Default)]
pub enum Reference {
    #[default]
    None,
    /// A variable of the environment.
    Global(u32),
    /// A variable of a comprehension or `cel.bind`, by its place on the stack.
    Local(u32),
    /// A type used as value.
    Type(Arc<str>),
}

/// A resolved call.
#[derive(Clone, Debug)]
pub struct Call {
    pub function: &'static Function,
    /// The overloads that fit.
    pub overloads: Vec<&'static Overload>,
    /// The target was the first part of the function's name.
    pub namespaced: bool,
}

/// What the checker found out, by node.
#[derive(Debug)]
pub struct Checked {
    pub types: Vec<Type>,
    pub references: Vec<Reference>,
    pub calls: HashMap<u32, Call>,
}

/// Checks a tree.
pub fn check(ast: &Ast, env: &Env) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        ast,
        env,
        bindings: Bindings::default(),
        scope: Vec::new(),
        issues: Vec::new(),
        out: Checked {
            types: vec![Type::Dyn; ast.count()],
            references: vec![Reference::None; ast.count()],
            calls: HashMap::new(),
        },
    };
    checker.check(ast.root);
    let Checker { bindings, mut issues, mut out, .. } = checker;
    if !issues.is_empty() {
        issues.sort_by_key(|issue| issue.at);
        issues.dedup();
        issues.truncate(ERRORS_MAX);
        return Err(issues);
    }
    for ty in &mut out.types {
        *ty = bindings.resolve(ty, true);
    }
    Ok(out)
}

struct Checker<'e> {
    ast: &'e Ast,
    env: &'e Env,
    bindings: Bindings,
    scope: Vec<(Arc<str>, Type)>,
    issues: Vec<Issue>,
    out: Checked,
}

fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}' (in container '')")
}

/// The type a name stands for.
fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "dyn" => Type::Dyn,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "kubernetes.Quantity" => Type::Opaque("kubernetes.Quantity"),
        "kubernetes.URL" => Type::Opaque("kubernetes.URL"),
        "kubernetes.Semver" => Type::Opaque("kubernetes.Semver"),
        _ => return None,
    })
}

impl Checker<'_> {
    fn issue(&mut self, at: usize, message: impl Into<String>) -> Type {
        if self.issues.len() <= ERRORS_MAX {
            self.issues.push(Issue::new(at, message));
        }
        Type::Error
    }

    fn shown(&self, ty: &Type) -> String {
        self.bindings.resolve(ty, false).to_string()
    }

    fn check(&mut self, id: Id) -> Type {
        let ast = self.ast;
        let at = ast.position(id);
        let ty = match ast.get(id) {
            Node::Literal(literal) => literal_type(literal),
            Node::Ident(name) => self.ident(id, name, at),
            Node::Select { operand, field, test } => self.select(id, *operand, field, *test, at),
            Node::Call { function, target, args } => self.call(id, function, *target, args, at),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct { name, fields } => self.structure(name, fields, at),
            Node::Fold(fold) => self.fold(fold, at),
            Node::Bind { name, value, body } => {
                let ty = self.check(*value);
                self.scope.push((Arc::clone(name), ty));
                let ty = self.check(*body);
                self.scope.pop();
                ty
            }
        };
        self.out.types[id.0 as usize] = ty.clone();
        ty
    }

    fn ident(&mut self, id: Id, name: &str, at: usize) -> Type {
        match self.resolve_name(id, name) {
            Some(ty) => ty,
            None => self.issue(at, undeclared(name)),
        }
    }

    fn resolve_name(&mut self, id: Id, name: &str) -> Option<Type> {
        let (reference, ty) = if let Some(place) = self.scope.iter().rposition(|(have, _)| **have == *name) {
            (Reference::Local(place as u32), self.scope[place].1.clone())
        } else if let Some(number) = self.env.find(name) {
            (Reference::Global(number as u32), self.env.declaration(number).ty.clone())
        } else {
            let ty = named_type(name)?;
            (Reference::Type(ty.name().into()), Type::Type(Arc::new(ty)))
        };
        self.out.references[id.0 as usize] = reference;
        Some(ty)
    }

    /// `a.b.c` where `a` is no variable.
    fn qualified(&self, id: Id) -> Option<String> {
        let parts = self.ast.dotted(id)?;
        let root = *parts.first()?;
        let variable = self.scope.iter().any(|(have, _)| **have == *root) || self.env.find(root).is_some();
        (!variable).then(|| parts.join("."))
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, test: bool, at: usize) -> Type {
        if !test && let Some(ty) = self.dotted_variable(id, operand, field) {
            return ty;
        }
        if !test && let Some(name) = self.qualified(id) {
            return match named_type(&name) {
                Some(ty) => {
                    self.out.references[id.0 as usize] = Reference::Type(ty.name().into());
                    Type::Type(Arc::new(ty))
                }
                None => {
                    let root = name.split('.').next().unwrap_or_default().to_owned();
                    let at = self.root_position(operand);
                    self.issue(at, undeclared(&root))
                }
            };
        }
        let target = self.check(operand);
        let ty = self.field(&target, field, at, false);
        if test { Type::Bool } else { ty }
    }

    /// A variable with a dot in its name: `authorizer.requestResource`.
    fn dotted_variable(&mut self, id: Id, operand: Id, field: &str) -> Option<Type> {
        let Node::Ident(root) = self.ast.get(operand) else { return None };
        if self.scope.iter().any(|(have, _)| have == root) {
            return None;
        }
        let number = self.env.find(&format!("{root}.{field}"))?;
        self.out.references[id.0 as usize] = Reference::Global(number as u32);
        Some(self.env.declaration(number).ty.clone())
    }

    fn root_position(&self, id: Id) -> usize {
        let mut id = id;
        while let Node::Select { operand, .. } = self.ast.get(id) {
            id = *operand;
        }
        self.ast.position(id)
    }

    fn field(&mut self, target: &Type, field: &str, at: usize, inside: bool) -> Type {
        match self.bindings.head(target) {
            Type::Dyn => Type::Dyn,
            Type::Error => Type::Error,
            Type::Param(_) => {
                self.bindings.assign(target, &Type::Dyn);
                Type::Dyn
            }
            Type::Map(map) => map.1.clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(found) => found.ty.clone(),
                None => self.issue(at, format!("undefined field '{field}'")),
            },
            Type::Optional(inner) if !inside => Type::optional(self.field(&inner, field, at, true)),
            other => {
                let shown = self.shown(&other);
                self.issue(at, format!("type '{shown}' does not support field selection"))
            }
        }
    }

    fn call(&mut self, id: Id, name: &str, target: Option<Id>, args: &[Id], at: usize) -> Type {
        if name == "_?._" {
            return self.optional_select(args, at);
        }
        if let Some(target) = target
            && let Some(space) = self.qualified(target)
            && let Some(function) = functions::find(&format!("{space}.{name}"))
        {
            return self.resolve(id, function, None, args, at, true);
        }
        let Some(function) = functions::find(name) else {
            for id in target.iter().chain(args) {
                self.check(*id);
            }
            return self.issue(at, undeclared(name));
        };
        self.resolve(id, function, target, args, at, false)
    }

    fn optional_select(&mut self, args: &[Id], at: usize) -> Type {
        let (Some(operand), Some(field)) = (args.first(), args.get(1)) else { return Type::Error };
        let target = self.check(*operand);
        let Node::Literal(Literal::String(field)) = self.ast.get(*field) else { return Type::Error };
        self.out.types[args[1].0 as usize] = Type::String;
        match self.field(&target, field, at, false) {
            optional @ Type::Optional(_) if matches!(self.bindings.head(&target), Type::Optional(_)) => optional,
            ty => Type::optional(ty),
        }
    }

    fn resolve(
        &mut self,
        id: Id,
        function: &'static Function,
        target: Option<Id>,
        args: &[Id],
        at: usize,
        namespaced: bool,
    ) -> Type {
        let types: Vec<Type> = target.iter().chain(args).map(|id| self.check(*id)).collect();
        let (overloads, result) = self.candidates(function, target.is_some(), &types);
        let Some(result) = result else {
            if types.iter().any(|ty| matches!(self.bindings.head(ty), Type::Error)) {
                return Type::Error;
            }
            let shown: Vec<String> = types.iter().map(|ty| self.shown(ty)).collect();
            let applied = match target {
                Some(_) => format!("{}.({})", shown[0], shown[1..].join(", ")),
                None => format!("({})", shown.join(", ")),
            };
            let message = format!("found no matching overload for '{}' applied to '{applied}'", function.name);
            return self.issue(at, message);
        };
        self.check_literals(&function.name, target, args);
        self.out.calls.insert(id.0, Call { function, overloads, namespaced });
        result
    }

    /// The overloads that fit and their common result.
    fn candidates(
        &mut self,
        function: &'static Function,
        member: bool,
        types: &[Type],
    ) -> (Vec<&'static Overload>, Option<Type>) {
        let mut found = Vec::new();
        let mut result: Option<Type> = None;
        for overload in &function.overloads {
            if overload.member != member || overload.params.len() != types.len() {
                continue;
            }
            let mark = self.bindings.mark();
            let mut own = Vec::new();
            let fits = overload.params.iter().zip(types).all(|(param, ty)| {
                let param = self.bindings.instantiate(param, &mut own);
                self.bindings.assign(&param, ty)
            });
            if !fits {
                self.bindings.undo(mark);
                continue;
            }
            found.push(overload);
            let own_result = self.bindings.instantiate(&overload.result, &mut own);
            let own_result = self.bindings.resolve(&own_result, false);
            result = Some(match result {
                None => own_result,
                Some(before) if before.is_dyn() || before == own_result => before,
                Some(_) => Type::Dyn,
            });
        }
        (found, result)
    }

    /// Constants that could never work are found at once.
    fn check_literals(&mut self, name: &str, target: Option<Id>, args: &[Id]) {
        let checked = match (name, target) {
            ("matches", Some(_)) | ("find" | "findAll" | "duration" | "timestamp", _) => args.first(),
            ("matches", None) => args.get(1),
            _ => return,
        };
        let Some(id) = checked else { return };
        let Node::Literal(Literal::String(text)) = self.ast.get(*id) else { return };
        let good = match name {
            "duration" => time::duration(text).is_some(),
            "timestamp" => time::timestamp(text).is_some(),
            _ => crate::library::regex::compile(text).is_ok(),
        };
        if !good {
            let at = self.ast.position(*id);
            let name = if matches!(name, "find" | "findAll") { "matches" } else { name };
            self.issue(at, format!("invalid {name} argument"));
        }
    }

    /// The type of an element of a literal together with those before it.
    fn join(&mut self, before: Option<Type>, id: Id, optional: bool) -> Type {
        let mut ty = self.check(id);
        let at = self.ast.position(id);
        if optional {
            ty = match self.bindings.head(&ty) {
                Type::Optional(inner) => (*inner).clone(),
                Type::Dyn => Type::Dyn,
                other => {
                    let shown = self.shown(&other);
                    return self.issue(at, format!("expected type 'optional_type({shown})' but found '{shown}'"));
                }
            };
        }
        let Some(before) = before else { return ty };
        if !self.bindings.assign(&before, &ty) {
            let (want, have) = (self.shown(&before), self.shown(&ty));
            self.issue(at, format!("expected type '{want}' but found '{have}'"));
            return before;
        }
        if self.bindings.head(&ty).is_dyn() { ty } else { before }
    }

    fn list(&mut self, elements: &[(Id, bool)]) -> Type {
        let mut element = None;
        for (id, optional) in elements {
            element = Some(self.join(element, *id, *optional));
        }
        let element = element.unwrap_or_else(|| self.bindings.fresh());
        Type::list(element)
    }

    fn map(&mut self, entries: &[(Id, Id, bool)]) -> Type {
        let (mut key, mut value) = (None, None);
        for (key_id, value_id, optional) in entries {
            key = Some(self.join(key, *key_id, false));
            value = Some(self.join(value, *value_id, *optional));
        }
        let key = key.unwrap_or_else(|| self.bindings.fresh());
        let value = value.unwrap_or_else(|| self.bindings.fresh());
        Type::map(key, value)
    }

    fn structure(&mut self, name: &str, fields: &[(Arc<str>, Id, bool)], at: usize) -> Type {
        let known = name == "JSONPatch" || name == "Object" || name.starts_with("Object.");
        let declared = self.env.mutation && known;
        for (field, id, optional) in fields {
            let ty = self.check(*id);
            if declared && name == "JSONPatch" {
                self.operation_field(field, &ty, *optional, at);
            }
        }
        if !declared {
            return self.issue(at, undeclared(name));
        }
        Type::Object(Arc::new(crate::types::ObjectType { name: name.to_owned(), fields: Default::default() }))
    }

    /// A field of `JSONPatch{...}`: all but the value are texts.
    fn operation_field(&mut self, field: &str, ty: &Type, optional: bool, at: usize) {
        let wanted = match field {
            "op" | "path" | "from" => Type::String,
            "value" => return,
            _ => {
                self.issue(at, format!("undefined field '{field}'"));
                return;
            }
        };
        let wanted = if optional { Type::optional(wanted) } else { wanted };
        if !self.bindings.assign(&wanted, ty) {
            let (wanted, ty) = (self.shown(&wanted), self.shown(ty));
            self.issue(at, format!("expected type of field '{field}' is '{wanted}' but provided type is '{ty}'"));
        }
    }

    fn fold(&mut self, fold: &Fold, at: usize) -> Type {
        let range = self.check(fold.range);
        let (key, value) = match self.bindings.head(&range) {
            Type::List(list) => (Type::Int, list.element.clone()),
            Type::Map(map) => (map.0.clone(), map.1.clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Param(_) => {
                self.bindings.assign(&range, &Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let shown = self.shown(&other);
                let range_at = self.ast.position(fold.range);
                self.issue(
                    range_at,
                    format!("expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)"),
                );
                (Type::Error, Type::Error)
            }
        };
        let is_map = matches!(self.bindings.head(&range), Type::Map(_));
        let depth = self.scope.len();
        match &fold.second {
            Some(second) => {
                self.scope.push((Arc::clone(&fold.first), key.clone()));
                self.scope.push((Arc::clone(second), value.clone()));
            }
            None => self.scope.push((Arc::clone(&fold.first), if is_map { key.clone() } else { value.clone() })),
        }
        let element = self.scope[depth].1.clone();
        if let Some(condition) = fold.condition {
            let ty = self.check(condition);
            self.must_be_bool(&ty, "_?_:_", "(@, list(A), list(A))", at);
        }
        let step = self.check(fold.step);
        self.scope.truncate(depth);
        match fold.kind {
            FoldKind::All => self.must_be_bool(&step, "_&&_", "(bool, @)", at),
            FoldKind::Exists => self.must_be_bool(&step, "_||_", "(bool, @)", at),
            FoldKind::ExistsOne => self.must_be_bool(&step, "_?_:_", "(@, int, int)", at),
            FoldKind::Filter => {
                self.must_be_bool(&step, "_?_:_", "(@, list(A), list(A))", at);
                Type::list(element)
            }
            FoldKind::List => Type::list(step),
            FoldKind::Map => Type::map(key, step),
            FoldKind::MapEntry => match self.bindings.head(&step) {
                map @ Type::Map(_) => map,
                Type::Dyn => Type::map(Type::Dyn, Type::Dyn),
                other => {
                    let shown = self.shown(&other);
                    self.issue(
                        at,
                        format!("found no matching overload for 'cel.@mapInsert' applied to '(map(A, B), {shown})'"),
                    )
                }
            },
        }
    }

    fn must_be_bool(&mut self, ty: &Type, function: &str, applied: &str, at: usize) -> Type {
        if !self.bindings.assign(&Type::Bool, ty) {
            let applied = applied.replace('@', &self.shown(ty));
            self.issue(at, format!("found no matching overload for '{function}' applied to '{applied}'"));
        }
        Type::Bool
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
