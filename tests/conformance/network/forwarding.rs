//! Hand-made slices, host ports, proxies over TLS, and how fast endpoints follow.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{address, client, service, succeeds};
use crate::{
    api::{core, group, name},
    context::{Context, LIMIT, eventually},
    pods::{netexec, pod, with},
};

crate::rows! { "network";
    "EndpointSlice" {
        "should support a Service with multiple endpoint IPs specified in multiple EndpointSlices" => |c| slices(c, false),
        "should support a Service with multiple ports specified in multiple EndpointSlices" => |c| slices(c, true),
    }
    "HostPort" {
        "validates that there is no conflict between pods with same hostPort but different hostIP and protocol" => host_ports,
    }
    "Proxy version v1" {
        "should proxy through a service and a pod" => proxies,
    }
    "Service endpoints latency" {
        "should not be very high" => latency,
    }
}

/// A slice that somebody else than the controller keeps.
async fn slice(context: &Context, namespace: &str, number: usize, port: Value, address: &str) -> Result<()> {
    let body = json!({"metadata": {"name": format!("custom-{number}"),
        "labels": {"kubernetes.io/service-name": "custom"}},
        "addressType": "IPv4", "ports": [port],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]});
    context.create(&group("discovery.k8s.io/v1", namespace, "endpointslices"), &body).await.map(drop)
}

async fn slices(context: Context, many_ports: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    let mut servers = Vec::new();
    for name in ["one", "two"] {
        servers.push(context.start_pod(&namespace, &pod(name, &[netexec(&context)])).await?);
    }
    let port = |name: &str, port: u32| json!({"name": name, "port": port, "protocol": "TCP"});
    let ports = if many_ports { json!([port("first", 80), port("second", 81)]) } else { json!([port("first", 80)]) };
    service(&context, &namespace, "custom", json!({"ports": ports})).await?;
    for (number, server) in servers.iter().enumerate() {
        let port_name = if many_ports && number == 1 { "second" } else { "first" };
        slice(&context, &namespace, number, port(port_name, 8080), &address(server)).await?;
    }
    let ask = |port: u32| format!("timeout 5 wget -q -O - http://custom:{port}/hostname");
    let second = if many_ports { 81 } else { 80 };
    succeeds(&context, &namespace, &ask(80), "one").await?;
    succeeds(&context, &namespace, &ask(second), "two").await?;
    if many_ports {
        // Each port leads to its own slice only.
        for (port, wanted) in [(80, "one"), (81, "two")] {
            for _ in 0..5 {
                let answer = context.exec(&namespace, "client", "main", &ask(port)).await?;
                ensure!(answer.trim() == wanted, "port {port} leads to {answer:?}");
            }
        }
    }
    Ok(())
}

async fn host_ports(context: Context) -> Result<()> {
    const PORT: u32 = 54323;
    let namespace = context.namespace().await?;
    let node = context.nodes().await?.swap_remove(0);
    let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let node_address = addresses
        .iter()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str())
        .context("the node has no address")?;
    let on_node = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": name(&node)}}});
    for (pod_name, host_ip, protocol) in
        [("pod1", "127.0.0.1", "TCP"), ("pod2", node_address, "TCP"), ("pod3", node_address, "UDP")]
    {
        let inner = if protocol == "TCP" { 8080 } else { 8081 };
        let port = json!({"containerPort": inner, "hostPort": PORT, "protocol": protocol, "hostIP": host_ip});
        let object = with(pod(pod_name, &[with(netexec(&context), json!({"ports": [port]}))]), on_node.clone());
        context.start_pod(&namespace, &object).await?;
    }
    // The test server on the host's own network asks over UDP, too.
    let own = json!({"args": ["netexec", "--http-port", "54380", "--udp-port", "54381"]});
    let host = with(pod("client", &[with(netexec(&context), own)]), on_node);
    context.start_pod(&namespace, &with(host, json!({"spec": {"hostNetwork": true}}))).await?;
    let http = |address: &str| format!("timeout 5 wget -q -O - http://{address}:{PORT}/hostname");
    succeeds(&context, &namespace, &http("127.0.0.1"), "pod1").await?;
    succeeds(&context, &namespace, &http(node_address), "pod2").await?;
    let query = format!("protocol=udp&request=hostname&tries=1&host={node_address}&port={PORT}");
    let udp = format!("timeout 10 wget -q -O - 'http://127.0.0.1:54380/dial?{query}'");
    succeeds(&context, &namespace, &udp, "pod3").await.map(drop)
}

/// A certificate for the test server, in a secret.
async fn certificate(context: &Context, namespace: &str) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["server".to_owned()])?;
    let data = json!({"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()});
    let secret = json!({"metadata": {"name": "tls"}, "type": "kubernetes.io/tls", "stringData": data});
    context.create(&core(namespace, "secrets"), &secret).await.map(drop)
}

async fn proxies(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    certificate(&context, &namespace).await?;
    let server = json!({"args": ["netexec", "--http-port", "8080,8090", "--udp-port", "8081", "--tls-port", "8443",
            "--tls-cert", "/tls/tls.crt", "--tls-key", "/tls/tls.key"],
        "ports": [{"name": "dest1", "containerPort": 8080}, {"name": "dest2", "containerPort": 8090},
            {"name": "tlsdest1", "containerPort": 8443}],
        "volumeMounts": [{"name": "tls", "mountPath": "/tls"}]});
    let object = with(
        pod("server", &[with(netexec(&context), server)]),
        json!({"spec": {"volumes": [{"name": "tls", "secret": {"secretName": "tls"}}]}}),
    );
    context.start_pod(&namespace, &object).await?;
    let port = |name: &str, port: u32, target: &str| json!({"name": name, "port": port, "targetPort": target});
    let ports =
        json!([port("portname1", 80, "dest1"), port("portname2", 81, "dest2"), port("tlsportname1", 443, "tlsdest1")]);
    service(&context, &namespace, "server", json!({"selector": {"name": "server"}, "ports": ports})).await?;
    let mut paths = Vec::new();
    for prefix in ["", "http:"] {
        for suffix in ["portname1", "portname2", "80", "81"] {
            paths.push(format!("{}/{prefix}server:{suffix}/proxy/", core(&namespace, "services")));
        }
        for suffix in ["8080", "8090"] {
            paths.push(format!("{}/{prefix}server:{suffix}/proxy/", core(&namespace, "pods")));
        }
    }
    for suffix in ["tlsportname1", "443"] {
        paths.push(format!("{}/https:server:{suffix}/proxy/", core(&namespace, "services")));
    }
    paths.push(format!("{}/https:server:8443/proxy/", core(&namespace, "pods")));
    for path in &paths {
        eventually(&format!("{path} answers"), LIMIT, || async {
            let answer = context.call("GET", &format!("{path}hostname"), None).await?.expect(200)?;
            ensure!(answer.text() == "server", "{:?}", answer.text());
            Ok(())
        })
        .await?;
    }
    // Once the way is there, nothing fails: every path, many times, side by side.
    let mut asked = JoinSet::new();
    for worker in 0..20 {
        let (context, paths) = (context.clone(), paths.clone());
        asked.spawn(async move {
            for path in paths.iter().cycle().skip(worker).take(paths.len()) {
                let answer = context.call("GET", &format!("{path}echo?msg=foo"), None).await?;
                if answer.code != 200 || answer.text() != "foo" {
                    bail!("{path}: {}: {}", answer.code, answer.text());
                }
            }
            Ok(())
        });
    }
    while let Some(done) = asked.join_next().await {
        done??;
    }
    Ok(())
}

async fn latency(context: Context) -> Result<()> {
    const SERVICES: usize = 100;
    const CREATORS: usize = 20;
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("server", &[netexec(&context)])).await?;
    let path = core(&namespace, "endpoints");
    let version = context.get(&path).await?;
    let mut watch = context.watch(&format!("{path}?resourceVersion={}", crate::api::version(&version))).await?;
    let mut creating = JoinSet::new();
    for worker in 0..CREATORS {
        let (context, namespace) = (context.clone(), namespace.clone());
        creating.spawn(async move {
            let mut begun = Vec::new();
            for number in (worker..SERVICES).step_by(CREATORS) {
                let spec = json!({"selector": {"name": "server"}, "ports": [{"port": 80, "targetPort": 8080}]});
                let (name, at) = (format!("latency-{number}"), Instant::now());
                service(&context, &namespace, &name, spec).await?;
                begun.push((name, at));
            }
            anyhow::Ok(begun)
        });
    }
    let mut seen = BTreeMap::new();
    while seen.len() < SERVICES {
        let event = watch.next(LIMIT).await?;
        let object = &event["object"];
        if !object["subsets"][0]["addresses"].as_array().is_none_or(Vec::is_empty) {
            seen.entry(name(object).to_owned()).or_insert_with(Instant::now);
        }
    }
    let mut begun = Vec::new();
    while let Some(done) = creating.join_next().await {
        begun.extend(done??);
    }
    let mut times: Vec<Duration> = begun
        .iter()
        .map(|(name, begun)| seen.get(name).map(|at| at.duration_since(*begun)).with_context(|| name.clone()))
        .collect::<Result<_>>()?;
    times.sort();
    let [half, most, nearly_all] = [50, 90, 99].map(|percent| times[SERVICES * percent / 100]);
    println!("    endpoints after {half:?} (p50), {most:?} (p90), {nearly_all:?} (p99)");
    ensure!(half < Duration::from_secs(20) && most < Duration::from_secs(50), "p50 {half:?}, p90 {most:?}");
    Ok(())
}
