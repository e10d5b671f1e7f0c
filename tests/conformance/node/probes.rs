//! Probes restart containers or keep traffic away, and only when they fail.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::{Context, brief, consistently},
    pods::{container, is_ready, netexec, pod, shell, with},
};

/// How long a healthy container is watched.
const OBSERVED: Duration = Duration::from_secs(30);
const RESTART_LIMIT: Duration = Duration::from_secs(240);

crate::rows! { "node";
    "Probing container" {
        "should *not* be restarted with a /healthz http liveness probe" => |c| stays(c, Kind::Http),
        "should *not* be restarted with a GRPC liveness probe" => |c| stays(c, Kind::Grpc),
        "should *not* be restarted with a exec \"cat /tmp/health\" liveness probe" => |c| stays(c, Kind::Exec),
        "should *not* be restarted with a tcp:8080 liveness probe" => |c| stays(c, Kind::Tcp),
        "should be restarted with a /healthz http liveness probe" => |c| restarts(c, Kind::Http),
        "should be restarted with a GRPC liveness probe" => |c| restarts(c, Kind::Grpc),
        "should be restarted with a exec \"cat /tmp/health\" liveness probe" => |c| restarts(c, Kind::Exec),
        "should have monotonically increasing restart count" => monotonic,
        "with readiness probe should not be ready before initial delay and never restart" => initial_delay,
        "with readiness probe that fails should never be ready and never restart" => never_ready,
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Grpc,
    Exec,
    Tcp,
}

fn probe(kind: Kind, healthy: bool) -> Value {
    match kind {
        Kind::Http => json!({"httpGet": {"path": "/healthz", "port": 8080}}),
        // Nothing listens on the other port.
        Kind::Grpc => json!({"grpc": {"port": if healthy { 5000 } else { 2333 }}}),
        Kind::Exec => json!({"exec": {"command": ["cat", "/tmp/health"]}}),
        Kind::Tcp => json!({"tcpSocket": {"port": 8080}}),
    }
}

/// A container that stays healthy or stops being it.
fn probed(context: &Context, kind: Kind, healthy: bool) -> Value {
    let probe = with(
        probe(kind, healthy),
        json!({"initialDelaySeconds": 5, "periodSeconds": 2, "failureThreshold": 1, "timeoutSeconds": 5}),
    );
    let server = match (kind, healthy) {
        (Kind::Exec, true) => shell(context, "echo ok >/tmp/health; sleep 1000"),
        (Kind::Exec, false) => shell(context, "echo ok >/tmp/health; sleep 8; rm /tmp/health; sleep 1000"),
        (Kind::Grpc, _) => with(netexec(context), json!({"args": ["grpc-health-checking"]})),
        (_, true) => netexec(context),
        (_, false) => with(netexec(context), json!({"args": ["netexec", "--fail-after", "8"]})),
    };
    let container = with(server, json!({"livenessProbe": probe}));
    with(pod("probed", &[container]), json!({"spec": {"restartPolicy": "Always"}}))
}

fn restarts_of(pod: &Value) -> u64 {
    container(pod, "main")["restartCount"].as_u64().unwrap_or_default()
}

async fn stays(context: Context, kind: Kind) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &probed(&context, kind, true)).await?;
    let path = format!("{}/probed", core(&namespace, "pods"));
    consistently("the container is not restarted", OBSERVED, || async {
        let pod = context.get(&path).await?;
        ensure!(restarts_of(&pod) == 0, "{}", brief(&pod));
        Ok(())
    })
    .await
}

async fn restarts(context: Context, kind: Kind) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create_pod(&namespace, &probed(&context, kind, false)).await?;
    let path = format!("{}/probed", core(&namespace, "pods"));
    context.until_within(&path, "is restarted", RESTART_LIMIT, |pod| restarts_of(pod) > 0).await.map(drop)
}

async fn monotonic(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create_pod(&namespace, &probed(&context, Kind::Http, false)).await?;
    let path = format!("{}/probed", core(&namespace, "pods"));
    let (highest, fell) = (AtomicU64::new(0), AtomicBool::new(false));
    context
        .until_within(&path, "is restarted five times", Duration::from_secs(500), |pod| {
            let count = restarts_of(pod);
            if highest.fetch_max(count, Ordering::Relaxed) > count {
                fell.store(true, Ordering::Relaxed);
            }
            count >= 5
        })
        .await?;
    ensure!(!fell.into_inner(), "the count fell");
    Ok(())
}

async fn initial_delay(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    const DELAY: i64 = 15;
    let readiness = with(probe(Kind::Http, true), json!({"initialDelaySeconds": DELAY, "periodSeconds": 2}));
    let delayed = pod("delayed", &[with(netexec(&context), json!({"readinessProbe": readiness}))]);
    let ready = context.start_pod(&namespace, &delayed).await?;
    ensure!(restarts_of(&ready) == 0, "{}", brief(&ready));
    let seconds = |text: &Value| text.as_str().unwrap_or_default().parse::<k8s_openapi::jiff::Timestamp>();
    let started = seconds(&container(&ready, "main")["state"]["running"]["startedAt"])?;
    let became = seconds(&crate::pods::condition(&ready, "Ready")["lastTransitionTime"])?;
    let took = became.as_second() - started.as_second();
    ensure!(took >= DELAY - 1, "ready after {took} s");
    Ok(())
}

async fn never_ready(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let readiness = json!({"exec": {"command": ["false"]}, "initialDelaySeconds": 1, "periodSeconds": 1});
    let unready = pod("unready", &[with(shell(&context, "sleep 1000"), json!({"readinessProbe": readiness}))]);
    context.create_pod(&namespace, &unready).await?;
    let running = |pod: &Value| container(pod, "main")["state"]["running"].is_object();
    context.wait_pod(&namespace, "unready", "is running", running).await?;
    let path = format!("{}/unready", core(&namespace, "pods"));
    consistently("the pod is not ready", OBSERVED, || async {
        let pod = context.get(&path).await?;
        ensure!(!is_ready(&pod) && restarts_of(&pod) == 0, "{}", brief(&pod));
        Ok(())
    })
    .await
}
