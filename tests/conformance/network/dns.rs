//! Names of the cluster.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{client, service, succeeds};
use crate::{
    api::core,
    context::Context,
    pods::{netexec, pod, shell, with},
};

crate::rows! { "network";
    "DNS" {
        "should provide DNS for ExternalName services" => dns_external_name,
        "should provide DNS for pods for Hostname" => |c| dns_pod(c, false),
        "should provide DNS for pods for Subdomain" => |c| dns_pod(c, true),
        "should provide DNS for services" => dns_services,
        "should provide DNS for the cluster" => dns_cluster,
        "should provide /etc/hosts entries for the cluster" => dns_hosts,
        "should resolve DNS of partial qualified names for services" => dns_partial,
        "should support configurable pod DNS nameservers" => dns_config,
    }
}

/// The address that a name must resolve to, over UDP.
async fn resolves(context: &Context, namespace: &str, host: &str, wanted: &str) -> Result<()> {
    succeeds(context, namespace, &format!("nslookup -type=a {host}"), wanted).await.map(drop)
}

async fn dns_cluster(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    let service = context.get(&format!("{}/kubernetes", core("default", "services"))).await?;
    let address = service["spec"]["clusterIP"].as_str().context("no clusterIP")?;
    resolves(&context, &namespace, "kubernetes.default.svc.cluster.local", address).await
}

async fn dns_hosts(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let object = with(
        pod("client", &[shell(&context, "sleep 1000")]),
        json!({"spec": {"hostname": "dns-querier", "subdomain": "sub"}}),
    );
    context.start_pod(&namespace, &object).await?;
    let full = format!("dns-querier.sub.{namespace}.svc.cluster.local");
    succeeds(&context, &namespace, "cat /etc/hosts", &full).await?;
    let text = succeeds(&context, &namespace, "cat /etc/hosts", "dns-querier").await?;
    ensure!(text.split_whitespace().any(|word| word == "dns-querier"), "{text}");
    Ok(())
}

async fn dns_services(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    let server = context.start_pod(&namespace, &pod("server", &[netexec(&context)])).await?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
    service(
        &context,
        &namespace,
        "headless",
        json!({"clusterIP": "None", "selector": {"name": "server"}, "ports": ports}),
    )
    .await?;
    let regular =
        service(&context, &namespace, "regular", json!({"selector": {"name": "server"}, "ports": ports})).await?;
    let (pod_ip, cluster_ip) = (&server["status"]["podIP"], &regular["spec"]["clusterIP"]);
    let domain = format!("{namespace}.svc.cluster.local");
    for (service, address) in [("headless", pod_ip), ("regular", cluster_ip)] {
        resolves(&context, &namespace, &format!("{service}.{domain}"), address.as_str().unwrap_or_default()).await?;
        let query = format!("nslookup -type=srv _http._tcp.{service}.{domain}");
        succeeds(&context, &namespace, &query, &format!("{service}.{domain}")).await?;
    }
    let address = cluster_ip.as_str().unwrap_or_default();
    succeeds(&context, &namespace, &format!("nslookup {address}"), &format!("regular.{domain}")).await.map(drop)
}

async fn dns_partial(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    context.start_pod(&namespace, &pod("server", &[netexec(&context)])).await?;
    service(
        &context,
        &namespace,
        "partial",
        json!({"selector": {"name": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    )
    .await?;
    // As programs do it, by the search list of resolv.conf.
    for host in ["partial".to_owned(), format!("partial.{namespace}"), format!("partial.{namespace}.svc")] {
        succeeds(&context, &namespace, &format!("timeout 5 wget -q -O - http://{host}/hostname"), "server").await?;
    }
    Ok(())
}

async fn dns_pod(context: Context, subdomain: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    service(&context, &namespace, "sub", json!({"clusterIP": "None", "selector": {"name": "server"}, "ports": ports}))
        .await?;
    let object = with(pod("server", &[netexec(&context)]), json!({"spec": {"hostname": "named", "subdomain": "sub"}}));
    let server = context.start_pod(&namespace, &object).await?;
    let address = server["status"]["podIP"].as_str().context("no address")?;
    let host = if subdomain { "sub" } else { "named.sub" };
    resolves(&context, &namespace, &format!("{host}.{namespace}.svc.cluster.local"), address).await
}

async fn dns_external_name(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    service(&context, &namespace, "outside", json!({"type": "ExternalName", "externalName": "foo.example.com"}))
        .await?;
    let path = format!("{}/outside", core(&namespace, "services"));
    let host = format!("outside.{namespace}.svc.cluster.local");
    let query = format!("nslookup -type=cname {host} || true");
    succeeds(&context, &namespace, &query, "foo.example.com").await?;
    context.modify(&path, |service| service["spec"]["externalName"] = "bar.example.com".into()).await?;
    succeeds(&context, &namespace, &query, "bar.example.com").await?;
    let spec = json!({"type": "ClusterIP", "externalName": null, "ports": [{"port": 80, "name": "http"}]});
    let changed = context.merge(&path, json!({"spec": spec})).await?;
    resolves(&context, &namespace, &host, changed["spec"]["clusterIP"].as_str().context("no clusterIP")?).await
}

async fn dns_config(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let config = json!({"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"]}}});
    let object = with(pod("client", &[shell(&context, "cat /etc/resolv.conf")]), config);
    context.expect_output(&namespace, &object, &["nameserver 1.1.1.1", "search resolv.conf.local"]).await
}
