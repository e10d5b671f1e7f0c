//! The Common Expression Language as Kubernetes uses it: parser, type checker,
//! cost estimate and cost-counting interpreter.
//!
//! Existing crates check no types, know no cost and can overflow the stack;
//! rules that come from users may do none of that. An expression is compiled
//! once ([`Program::compile`]) against an [`Env`] of declared variables, and
//! evaluated any number of times over borrowed JSON ([`Program::evaluate`]).
//!
//! Invariants: parsing, checking and evaluating never recurse deeper than
//! [`limits::DEPTH_MAX`] levels of expression; an evaluation ends when its
//! budget does; nothing here panics on any input.

mod ast;
mod check;
mod cost;
mod declaration;
mod evaluate;
mod fault;
mod functions;
mod issues;
mod lexer;
mod library;
pub mod limits;
mod macros;
mod parser;
mod program;
mod time;
mod types;
mod unify;
mod value;
mod work;

pub use check::Env;
pub use cost::Range;
pub use declaration::Declaration;
pub use evaluate::{Binding, Evaluation, Fields};
pub use fault::Fault;
pub use functions::{authorizer_type, quantity_type, resource_check_type};
pub use issues::{Issue, Issues};
pub use library::authorizer::{Ask, Authorize, Decided, authorizer_value, resource_check_value};
pub use program::Program;
pub use types::{FieldType, ListKind, ListType, ObjectType, Type, escape};
pub use value::{Entries, List, Map, Text, Value};

/// Whether a text is a URL as `isURL` says.
pub fn is_url(text: &str) -> bool {
    library::is_url(text)
}

/// Whether a text is a duration (`1h30m`).
pub fn is_duration(text: &str) -> bool {
    time::duration(text).is_some()
}

/// Whether a text is a timestamp (RFC 3339) or a date.
pub fn is_timestamp(text: &str) -> bool {
    time::timestamp(text).is_some()
}
