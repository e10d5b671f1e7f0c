//! How the API server reaches nodes and pods: directly on its own host, through
//! the reverse tunnel everywhere else.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use skiff_apiserver::proxy::{BoxedIo, NodeDialer};
use skiff_tunnel::{Sessions, Target};
use tokio::net::TcpStream;

/// Dials for one server.
pub struct TunnelDialer {
    /// The node of this host, if it runs one.
    pub own_node: Option<String>,
    pub sessions: Arc<Sessions>,
}

#[async_trait]
impl NodeDialer for TunnelDialer {
    async fn dial(&self, node: &str, port: u16) -> io::Result<BoxedIo> {
        if self.own_node.as_deref() == Some(node) {
            return direct(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).await;
        }
        Ok(Box::new(self.sessions.dial(node, Target::Local(port)).await?))
    }

    async fn dial_address(&self, node: Option<&str>, address: SocketAddr) -> io::Result<BoxedIo> {
        match node {
            Some(node) if self.own_node.as_deref() != Some(node) && self.sessions.is_connected(node) => {
                Ok(Box::new(self.sessions.dial(node, Target::Address(address)).await?))
            }
            _ => direct(address).await,
        }
    }
}

async fn direct(address: SocketAddr) -> io::Result<BoxedIo> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(Box::new(socket))
}
