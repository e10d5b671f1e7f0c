//! Behaviour of built-in kinds through the whole server: defaults, allocation,
//! subresources, admission and the objects every cluster has.

#[path = "../api/harness.rs"]
#[allow(dead_code)]
mod harness;

mod access;
mod bootstrap;
mod defaults;
mod immutable;
mod pods;
mod policies;
mod services;
