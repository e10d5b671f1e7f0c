//! From a pod to what the runtime is told: sandbox and container configurations.
//!
//! Everything here is pure: objects that a pod refers to, addresses and host
//! facts come in as values, so that each rule can be tested alone.

pub mod container;
pub mod dns;
pub mod downward;
pub mod env;
pub mod expansion;
pub mod hosts;
pub mod resources;
pub mod sandbox;
pub mod security;

/// A pod that cannot be turned into a configuration; the text goes to the user.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("{0}")]
pub struct ConfigError(pub String);
