//! Lifecycle hooks: what runs right after a container started and before it is stopped.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;
use tokio::net::TcpStream;

use crate::{
    cri::Cri,
    probes::{CheckTarget, HttpCheck, http_get, resolve_port},
};

/// Runs a hook to its end or until `timeout`; `Err` says why it failed.
pub async fn run(cri: &Cri, handler: &LifecycleHandler, target: &CheckTarget, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, run_inner(cri, handler, target, timeout)).await {
        Ok(result) => result,
        Err(_) => Err(format!("not finished within {} s", timeout.as_secs())),
    }
}

async fn run_inner(
    cri: &Cri,
    handler: &LifecycleHandler,
    target: &CheckTarget,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let answer = cri.exec_sync(&target.container_id, command, timeout).await.map_err(|error| error.message())?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&answer.stderr).into_owned() + &String::from_utf8_lossy(&answer.stdout);
        return Err(format!("command '{shown}' exited with {}: {}", answer.exit_code, output.trim()));
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(action.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    let ip = target.ip.ok_or("failed to find networking container")?;
    if let Some(action) = &handler.http_get {
        let port = match &action.port {
            k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(text) if text.is_empty() => 80,
            port => resolve_port(port, &target.container)?,
        };
        let check = HttpCheck::new(action, ip, port, "kube-lifecycle/1.37");
        let (status, body) = http_get(&check, timeout).await?;
        // Upstream looks only at whether there was an answer below 400.
        return if status.as_u16() < 400 { Ok(()) } else { Err(format!("status {status}: {body}")) };
    }
    if let Some(action) = &handler.tcp_socket {
        let port = resolve_port(&action.port, &target.container)?;
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string());
        return TcpStream::connect((host.as_str(), port)).await.map(drop).map_err(|error| error.to_string());
    }
    Err("invalid handler: nothing to run".to_owned())
}
