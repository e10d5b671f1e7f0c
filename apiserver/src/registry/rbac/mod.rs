//! RBAC kinds: roles, bindings, and the rule that nobody grants what they do not have.

pub mod binding;
pub mod escalation;
pub mod role;
