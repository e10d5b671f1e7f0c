//! The node's end of the reverse tunnel: dials the server and lets it reach
//! this node's kubelet port and the addresses of its pods, and nothing else.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use rustls_pki_types::ServerName;
use skiff_tunnel::{Dialer, DialerConfig, Target, websocket_config};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;

use crate::{
    join::{Endpoint, Trusted, client_config},
    pki::KeyAndCertificate,
};

/// Where the server accepts tunnels.
const PATH: &str = "/v1-skiff/connect";

/// What the server may reach through the tunnel.
#[derive(Clone, Debug)]
pub struct Reachable {
    pub kubelet_port: u16,
    pub pods: IpNet,
    /// Pods on the host's network have this address.
    pub node_ip: IpAddr,
}

impl Reachable {
    fn allows(&self, target: &Target) -> bool {
        match target {
            Target::Local(port) => *port == self.kubelet_port,
            Target::Address(address) => self.pods.contains(&address.ip()) || address.ip() == self.node_ip,
        }
    }
}

/// Keeps a tunnel to the server until stopped.
pub async fn run(
    endpoint: Endpoint,
    server_ca_pem: String,
    identity: KeyAndCertificate,
    reachable: Reachable,
    token: CancellationToken,
) -> Result<(), String> {
    let mut tls = client_config(&Trusted::Authority(server_ca_pem), Some(&identity))?;
    // A websocket needs HTTP/1.1.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsConnector::from(Arc::new(tls));
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| error.to_string())?;
    let connect = move || connect(endpoint.clone(), tls.clone(), name.clone());
    let allow = move |target: &Target| reachable.allows(target);
    Dialer::new(DialerConfig::new(connect, allow)).run(token).await;
    Ok(())
}

/// One attempt; the error is what a person can act on.
async fn connect(
    endpoint: Endpoint,
    tls: TlsConnector,
    name: ServerName<'static>,
) -> Result<WebSocketStream<TlsStream<TcpStream>>, String> {
    let socket = TcpStream::connect(&endpoint.address)
        .await
        .map_err(|error| format!("connect to {}: {error}", endpoint.address))?;
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = tls.connect(name, socket).await.map_err(|error| format!("TLS with {}: {error}", endpoint.address))?;
    let url = format!("wss://{}{PATH}", endpoint.address);
    let (websocket, _) = client_async_with_config(url, stream, Some(websocket_config()))
        .await
        .map_err(|error| format!("upgrade at {}: {error}", endpoint.address))?;
    Ok(websocket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kubelet_and_pods_are_reachable() {
        let reachable = Reachable {
            kubelet_port: 10250,
            pods: "10.42.0.0/16".parse().unwrap(),
            node_ip: "192.0.2.7".parse().unwrap(),
        };
        let address = |text: &str| Target::Address(text.parse().unwrap());
        assert!(reachable.allows(&Target::Local(10250)) && reachable.allows(&address("10.42.3.4:80")));
        assert!(reachable.allows(&address("192.0.2.7:9443")));
        assert!(!reachable.allows(&Target::Local(22)) && !reachable.allows(&address("192.0.2.8:22")));
    }
}
