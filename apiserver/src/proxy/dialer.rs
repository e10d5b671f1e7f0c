//! The seam through which the API server reaches nodes and pods.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite + ?Sized> AsyncReadWrite for T {}

/// A connection of any kind.
pub type BoxedIo = Box<dyn AsyncReadWrite + Send + Unpin>;

/// Opens connections to nodes and pods, wherever they are.
#[async_trait]
pub trait NodeDialer: Send + Sync + 'static {
    /// Connects to a port of the node itself, as the node reaches it on loopback.
    async fn dial(&self, node: &str, port: u16) -> io::Result<BoxedIo>;

    /// Connects to an address that `node` reaches, usually one of its pods. Without a node the address is outside the cluster
    /// or its node is unknown.
    async fn dial_address(&self, node: Option<&str>, address: SocketAddr) -> io::Result<BoxedIo>;
}
