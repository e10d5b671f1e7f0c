//! The etcd v3 face: the same store for stock etcd clients.
//!
//! Translates and nothing more: every rule is the store's. Errors carry etcd's codes
//! and messages, because clients compare them. No task is spawned per watch or stream:
//! a stream is driven by the connection that reads it and ends with it.

mod auth;
mod authority;
mod calls;
mod cluster;
mod convert;
mod dispatch;
mod fetch;
mod health;
mod kv;
mod lease;
mod maintenance;
mod serve;
mod unary;
mod watch;

/// Generated messages, clients and servers.
pub mod pb {
    #![allow(missing_docs, clippy::all)]

    /// All services and messages, for gRPC reflection.
    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/services.bin"));

    /// Package `mvccpb`.
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    /// Package `authpb`.
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    /// Package `etcdserverpb`.
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    /// Package `grpc.health.v1`.
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}

pub use fetch::{ClientTls, FetchError, fetch_snapshot};
pub use serve::{Listener, ServeError, TlsOptions, serve_tcp, serve_unix};

use tokio_util::sync::CancellationToken;

use crate::revision::Revision;
use crate::store::Store;
use pb::etcdserverpb::ResponseHeader;

/// The etcd version whose API is spoken; clients derive features from it.
pub(crate) const ETCD_VERSION: &str = "3.5.21";
/// There is no raft; the term never changes.
pub(crate) const RAFT_TERM: u64 = 2;

/// What every service holds.
#[derive(Clone)]
pub(crate) struct Face {
    pub(crate) store: Store,
    /// Ends streams when the server stops.
    pub(crate) token: CancellationToken,
    /// Where clients reach this server, for the member list.
    pub(crate) client_url: String,
}

impl Face {
    /// The header of an answer made at `revision`.
    pub(crate) fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        let (cluster_id, member_id) = self.store.ids();
        let revision = revision.as_i64();
        Some(ResponseHeader { cluster_id, member_id, revision, raft_term: RAFT_TERM })
    }

    /// The header of an answer that has no revision of its own.
    pub(crate) fn header_now(&self) -> Option<ResponseHeader> {
        self.header(self.store.current_revision())
    }
}
