//! One check of a container.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use super::http::{HttpCheck, http_get};
use crate::cri::{Cri, health};

/// What is checked, and where.
#[derive(Clone, Debug)]
pub struct CheckTarget {
    pub container_id: String,
    pub container: Container,
    /// Address of the pod.
    pub ip: Option<IpAddr>,
}

/// A number, or the name of one of the container's ports.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port)
                .ok_or_else(|| format!("couldn't find port: \"{name}\""))?,
        },
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Runs a probe once; `Err` says why it failed.
pub async fn check(cri: &Cri, probe: &Probe, target: &CheckTarget) -> Result<(), String> {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    if let Some(action) = &probe.exec {
        return exec(cri, action.command.clone().unwrap_or_default(), target, timeout).await;
    }
    let ip = target.ip.ok_or("pod has no address yet")?;
    if let Some(action) = &probe.http_get {
        let port = resolve_port(&action.port, &target.container)?;
        let check = HttpCheck::new(action, ip, port, "kube-probe/1.37");
        let (status, _) = http_get(&check, timeout).await?;
        if (200..400).contains(&status.as_u16()) {
            return Ok(());
        }
        return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()));
    }
    if let Some(action) = &probe.tcp_socket {
        let port = resolve_port(&action.port, &target.container)?;
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string());
        let dial = TcpStream::connect((host.as_str(), port));
        return match tokio::time::timeout(timeout, dial).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: {error}")),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| format!("invalid port number: {}", action.port))?;
        let service = action.service.clone().unwrap_or_default();
        return match tokio::time::timeout(timeout, grpc(ip, port, service)).await {
            Ok(result) => result,
            Err(_) => Err(format!("timeout: failed to connect service \"{ip}:{port}\" within {timeout:?}")),
        };
    }
    Err("missing probe handler".to_owned())
}

async fn exec(cri: &Cri, command: Vec<String>, target: &CheckTarget, timeout: Duration) -> Result<(), String> {
    match cri.exec_sync(&target.container_id, command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Ok(()),
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            output.truncate(crate::limits::PROBE_BODY_BYTES_MAX);
            Err(String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) if error.is_timeout() => Err(format!("command timed out after {timeout:?}")),
        Err(error) => Err(error.message()),
    }
}

async fn grpc(ip: IpAddr, port: u16, service: String) -> Result<(), String> {
    let uri = match ip {
        IpAddr::V4(ip) => format!("http://{ip}:{port}"),
        IpAddr::V6(ip) => format!("http://[{ip}]:{port}"),
    };
    let endpoint = tonic::transport::Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    let channel =
        endpoint.connect().await.map_err(|error| format!("failed to connect service \"{ip}:{port}\": {error}"))?;
    let mut client = health::health_client::HealthClient::new(channel);
    let answer = client.check(health::HealthCheckRequest { service }).await;
    let answer = answer.map_err(|status| format!("health rpc failed: {}", status.message()))?.into_inner();
    match answer.status() {
        health::health_check_response::ServingStatus::Serving => Ok(()),
        other => Err(format!("service unhealthy (responded with \"{}\")", other.as_str_name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use health::health_check_response::ServingStatus;

    struct Health;

    #[tonic::async_trait]
    impl health::health_server::Health for Health {
        async fn check(
            &self,
            request: tonic::Request<health::HealthCheckRequest>,
        ) -> Result<tonic::Response<health::HealthCheckResponse>, tonic::Status> {
            let status = match request.into_inner().service.as_str() {
                "" => ServingStatus::Serving,
                "down" => ServingStatus::NotServing,
                _ => return Err(tonic::Status::not_found("unknown service")),
            };
            Ok(tonic::Response::new(health::HealthCheckResponse { status: status as i32 }))
        }
    }

    #[tokio::test]
    async fn grpc_health_is_asked_per_service() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = health::health_server::HealthServer::new(Health);
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        tokio::spawn(server);
        let ask = |service: &str| grpc(address.ip(), address.port(), service.to_owned());
        assert_eq!(ask("").await, Ok(()));
        assert!(ask("down").await.unwrap_err().contains("NOT_SERVING"));
        assert!(ask("other").await.unwrap_err().contains("unknown service"));
    }

    #[test]
    fn ports_are_found_by_number_and_name() {
        let container: Container =
            serde_json::from_value(serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 80}]}))
                .unwrap();
        assert_eq!(resolve_port(&IntOrString::Int(8080), &container), Ok(8080));
        assert_eq!(resolve_port(&IntOrString::String("web".into()), &container), Ok(80));
        assert_eq!(resolve_port(&IntOrString::String("9".into()), &container), Ok(9));
        assert!(resolve_port(&IntOrString::String("no".into()), &container).is_err());
        assert!(resolve_port(&IntOrString::Int(70000), &container).is_err());
    }
}
