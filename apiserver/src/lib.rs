//! The Kubernetes API server of Skiff.
//!
//! One generic machinery over one table of resources: a request becomes a
//! [`request_info::RequestInfo`], passes authentication, flow control and
//! authorization, and is served by one function per verb ([`rest`]). Every
//! write ends in [`registry::store`]; every read comes from the watch caches,
//! which the components of this process share as a `skiff_client::Snapshot`.

// A failure is a `Status`, which is the answer itself: it is made once and sent.
#![allow(clippy::result_large_err)]

pub mod admission;
mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod caches;
mod conversion;
pub mod crd;
mod discovery;
mod flow;
pub mod health;
mod in_process;
pub mod indexes;
pub mod limits;
mod managed;
mod metrics;
mod negotiation;
mod openapi;
pub mod options;
mod patience;
mod process_metrics;
pub mod proxy;
pub mod registry;
mod render;
pub mod request_info;
pub mod resource_metrics;
mod rest;
mod selection;
pub mod serve;
pub mod server;
mod statusz;
pub mod storage;
mod storage_migration;
mod table;
pub mod version;
pub mod warnings;
mod watch_cache;
mod webhook;
mod wire;

pub use authn::{TokenIssuer, UserInfo};
pub use serve::{ConnectionInfo, Handler, serve};
pub use server::{ApiServer, Config, ConfigError, ProxySettings};
pub use storage::{Backend, memory::MemoryBackend};
pub use version::VersionInfo;
