//! The container runtime interface: generated messages and the client.

mod client;
mod error;

pub use client::Cri;
pub use error::CriError;

/// Messages and stubs of `runtime.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// containerd's native event service.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod events {
    tonic::include_proto!("containerd.services.events.v1");
}

/// The gRPC health protocol.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
