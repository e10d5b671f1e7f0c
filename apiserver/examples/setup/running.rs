//! A running server with the objects that every cluster has.

use skiff_apiserver::{ApiServer, Config, UserInfo, bootstrap::Bootstrap};
use tokio_util::sync::CancellationToken;

use crate::config::Error;

/// Who may do everything.
pub fn administrator() -> UserInfo {
    UserInfo::new("admin", &["system:masters"])
}

/// Starts a server and makes its bootstrap objects; it runs until the token is cancelled.
pub async fn start(config: Config, stop: &CancellationToken) -> Result<ApiServer, Error> {
    let service_cidrs = config.service_cidrs.clone();
    let server = ApiServer::new(config, stop.clone())?;
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    server.ready().await;
    let bootstrap = Bootstrap {
        client_ca_pem: String::new(),
        request_header_ca_pem: String::new(),
        service_cidrs,
        advertise_address: "192.0.2.1".parse()?,
        advertise_port: 6443,
    };
    bootstrap.run(&server.client(administrator(), "skiff")).await?;
    Ok(server)
}
