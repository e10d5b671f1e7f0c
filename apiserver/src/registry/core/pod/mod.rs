//! Pods, and the pod specification that every workload carries as a template.

pub mod binding;
pub mod containers;
pub mod defaults;
pub mod eviction;
pub mod qos;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod strategy;
pub mod update;
pub mod validation;
pub mod volumes;

pub use strategy::PodStrategy;
