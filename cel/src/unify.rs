//! Type parameters: what they stand for, and whether one type fits another.

use std::sync::Arc;

use crate::types::{ListType, Type};

/// Bindings of type parameters, with a trail to take back what did not work.
#[derive(Default)]
pub struct Bindings {
    bound: Vec<Option<Type>>,
    trail: Vec<(u32, Option<Type>)>,
}

/// A moment to go back to.
#[derive(Clone, Copy)]
pub struct Mark(usize);

impl Bindings {
    /// A parameter nothing is known about.
    pub fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Param(self.bound.len() as u32 - 1)
    }

    pub fn mark(&self) -> Mark {
        Mark(self.trail.len())
    }

    pub fn undo(&mut self, mark: Mark) {
        while self.trail.len() > mark.0 {
            if let Some((number, before)) = self.trail.pop() {
                self.bound[number as usize] = before;
            }
        }
    }

    fn bind(&mut self, number: u32, ty: Type) {
        let before = self.bound[number as usize].replace(ty);
        self.trail.push((number, before));
    }

    fn get(&self, number: u32) -> Option<&Type> {
        self.bound.get(number as usize)?.as_ref()
    }

    /// Follows parameters at the top of a type.
    pub fn head(&self, ty: &Type) -> Type {
        let mut ty = ty;
        while let Type::Param(number) = ty {
            match self.get(*number) {
                Some(next) => ty = next,
                None => break,
            }
        }
        ty.clone()
    }

    /// Replaces parameters everywhere; unbound ones become `dyn` when `last`.
    pub fn resolve(&self, ty: &Type, last: bool) -> Type {
        match self.head(ty) {
            Type::Param(_) if last => Type::Dyn,
            Type::List(list) if has_param(&list.element) => {
                Type::List(Arc::new(ListType { element: self.resolve(&list.element, last), kind: list.kind.clone() }))
            }
            Type::Map(map) if has_param(&map.0) || has_param(&map.1) => {
                Type::map(self.resolve(&map.0, last), self.resolve(&map.1, last))
            }
            Type::Optional(inner) if has_param(&inner) => Type::optional(self.resolve(&inner, last)),
            Type::Type(inner) if has_param(&inner) => Type::Type(Arc::new(self.resolve(&inner, last))),
            other => other,
        }
    }

    /// An overload's type with parameters of its own.
    pub fn instantiate(&mut self, ty: &Type, own: &mut Vec<(u32, Type)>) -> Type {
        match ty {
            Type::Param(number) => {
                if let Some((_, known)) = own.iter().find(|(have, _)| have == number) {
                    return known.clone();
                }
                let fresh = self.fresh();
                own.push((*number, fresh.clone()));
                fresh
            }
            Type::List(list) if has_param(&list.element) => Type::list(self.instantiate(&list.element, own)),
            Type::Map(map) if has_param(&map.0) || has_param(&map.1) => {
                let key = self.instantiate(&map.0, own);
                Type::map(key, self.instantiate(&map.1, own))
            }
            Type::Optional(inner) if has_param(inner) => Type::optional(self.instantiate(inner, own)),
            Type::Type(inner) if has_param(inner) => Type::Type(Arc::new(self.instantiate(inner, own))),
            other => other.clone(),
        }
    }

    /// Whether a value of type `have` may stand where `want` is wanted; binds parameters.
    pub fn assign(&mut self, want: &Type, have: &Type) -> bool {
        match (want, have) {
            (Type::Param(a), Type::Param(b)) if a == b => return true,
            (Type::Param(number), _) => return self.assign_param(*number, have),
            (_, Type::Param(number)) => return self.assign_param(*number, want),
            _ => {}
        }
        if want.is_dyn() || have.is_dyn() {
            return true;
        }
        match (want, have) {
            (Type::Null, other) | (other, Type::Null) => {
                matches!(
                    other,
                    Type::Null
                        | Type::Object(_)
                        | Type::Optional(_)
                        | Type::Opaque(_)
                        | Type::Timestamp
                        | Type::Duration
                )
            }
            (Type::List(a), Type::List(b)) => self.assign(&a.element, &b.element),
            (Type::Map(a), Type::Map(b)) => self.assign(&a.0, &b.0) && self.assign(&a.1, &b.1),
            (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => a == b,
        }
    }

    fn assign_param(&mut self, number: u32, other: &Type) -> bool {
        match self.get(number).cloned() {
            Some(bound) => {
                if !self.assign(&bound, other) {
                    return false;
                }
                if self.head(other).is_dyn() && !self.head(&bound).is_dyn() && !matches!(bound, Type::Param(_)) {
                    self.bind(number, Type::Dyn);
                }
                true
            }
            None => {
                let other = self.head(other);
                if matches!(other, Type::Param(same) if same == number) {
                    return true;
                }
                if self.occurs(number, &other, 0) {
                    return false;
                }
                self.bind(number, other);
                true
            }
        }
    }

    fn occurs(&self, number: u32, ty: &Type, depth: usize) -> bool {
        if depth > crate::limits::TYPE_DEPTH_MAX {
            return true;
        }
        match self.head(ty) {
            Type::Param(other) => other == number,
            Type::List(list) => self.occurs(number, &list.element, depth + 1),
            Type::Map(map) => self.occurs(number, &map.0, depth + 1) || self.occurs(number, &map.1, depth + 1),
            Type::Optional(inner) | Type::Type(inner) => self.occurs(number, &inner, depth + 1),
            _ => false,
        }
    }
}

/// Whether parameters stand anywhere inside. Object types have none.
fn has_param(ty: &Type) -> bool {
    match ty {
        Type::Param(_) => true,
        Type::List(list) => has_param(&list.element),
        Type::Map(map) => has_param(&map.0) || has_param(&map.1),
        Type::Optional(inner) | Type::Type(inner) => has_param(inner),
        _ => false,
    }
}
