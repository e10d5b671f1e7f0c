//! The Kubernetes API server of Skiff.
//!
//! One generic machinery over one table of resources: a request becomes a
//! [`request_info::RequestInfo`], passes authentication, flow control and
//! authorization, and is served by one function per verb ([`rest`]). Every
//! write ends in [`registry::store`]; every read comes from the watch caches,
//! which the components of this process share as a `skiff_client::Snapshot`.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod registry;
