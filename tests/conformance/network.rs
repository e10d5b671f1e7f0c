//! Rows of the area network.

mod dns;
mod endpoints;
mod forwarding;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    api::{core, group, merge, name},
    context::{Context, LIMIT, eventually},
    operations::{Operations, three, unique},
    pods::{netexec, pod, shell, with},
};

mod table {
    use super::*;

    crate::rows! { "network";
        "Ingress API" {
            "should support creating Ingress API operations" => ingress,
        }
        "IngressClass API" {
            "should support creating IngressClass API operations" => ingress_class,
        }
        "Networking Granular Checks: Pods" {
            "should function for intra-pod communication: http" => |c| granular(c, "http", false),
            "should function for intra-pod communication: udp" => |c| granular(c, "udp", false),
            "should function for node-pod communication: http" => |c| granular(c, "http", true),
            "should function for node-pod communication: udp" => |c| granular(c, "udp", true),
        }
        "Services" {
            "should be able to change the type from ClusterIP to ExternalName" => |c| to_external(c, "ClusterIP"),
            "should be able to change the type from ExternalName to ClusterIP" => |c| from_external(c, "ClusterIP"),
            "should be able to change the type from ExternalName to NodePort" => |c| from_external(c, "NodePort"),
            "should be able to change the type from NodePort to ExternalName" => |c| to_external(c, "NodePort"),
            "should be able to create a functioning NodePort service" => node_port,
            "should be able to switch session affinity for NodePort service" => |c| affinity(c, true, true),
            "should be able to switch session affinity for service with type clusterIP" => |c| affinity(c, false, true),
            "should complete a service status lifecycle" => service_status,
            "should delete a collection of services" => service_collection,
            "should find a service from listing all namespaces" => service_list,
            "should have session affinity work for NodePort service" => |c| affinity(c, true, false),
            "should have session affinity work for service with type clusterIP" => |c| affinity(c, false, false),
            "should serve a basic endpoint from pods" => basic_endpoint,
            "should serve endpoints on same port and different protocols" => two_protocols,
            "should serve multiport endpoints from pods" => multiport,
        }
        "ServiceCIDR and IPAddress API" {
            "should support IPAddress API operations" => ip_addresses,
            "should support ServiceCIDR API operations" => service_cidrs,
        }
        "Proxy version v1" {
            "A set of valid responses are returned for both pod and service Proxy" => |c| proxy(c, ""),
            "A set of valid responses are returned for both pod and service ProxyWithPath" => |c| proxy(c, "some/path/with/PUT"),
        }
    }
}

pub fn tests() -> Vec<Test> {
    [table::tests(), dns::tests(), endpoints::tests(), forwarding::tests()].into_iter().flatten().collect()
}

/// Runs a script in a client pod until it succeeds.
async fn client(context: &Context, namespace: &str) -> Result<()> {
    context.start_pod(namespace, &pod("client", &[shell(context, "sleep 10000")])).await.map(drop)
}

async fn succeeds(context: &Context, namespace: &str, script: &str, wanted: &str) -> Result<String> {
    eventually(&format!("{script:?} says {wanted:?}"), LIMIT, || async {
        let text = context.exec(namespace, "client", "main", script).await?;
        if text.contains(wanted) { Ok(text) } else { bail!("{text:?}") }
    })
    .await
}

async fn service(context: &Context, namespace: &str, name: &str, spec: Value) -> Result<Value> {
    context.create(&core(namespace, "services"), &json!({"metadata": {"name": name}, "spec": spec})).await
}

/// Addresses with ports that Endpoints and slices of a service tell must be these.
async fn told(context: &Context, namespace: &str, service: &str, addresses: Vec<String>) -> Result<()> {
    let mut wanted = addresses;
    wanted.sort();
    eventually(&format!("endpoints of {service} are {wanted:?}"), LIMIT, || async {
        let endpoints = context.get(&format!("{}/{service}", core(namespace, "endpoints"))).await?;
        let subsets = endpoints["subsets"].as_array().cloned().unwrap_or_default();
        let mut found: Vec<String> = subsets
            .iter()
            .filter_map(|subset| subset["addresses"].as_array())
            .flatten()
            .filter_map(|address| address["ip"].as_str().map(str::to_owned))
            .collect();
        found.sort();
        found.dedup();
        ensure!(found == wanted, "Endpoints tell {found:?}");
        let path = format!(
            "{}?labelSelector=kubernetes.io/service-name={service}",
            group("discovery.k8s.io/v1", namespace, "endpointslices")
        );
        let slices = context.list(&path).await?;
        let mut found: Vec<String> = slices
            .iter()
            .filter_map(|slice| slice["endpoints"].as_array())
            .flatten()
            .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
            .collect();
        found.sort();
        found.dedup();
        ensure!(found == wanted && !slices.is_empty(), "slices tell {found:?}");
        Ok(())
    })
    .await
}

fn address(pod: &Value) -> String {
    pod["status"]["podIP"].as_str().unwrap_or_default().to_owned()
}

async fn ingress(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let backend = json!({"service": {"name": "default-backend", "port": {"number": 80}}});
    let objects = three(&json!({"spec": {"defaultBackend": backend, "rules": [{"host": "foo.bar.com",
        "http": {"paths": [{"path": "/", "pathType": "ImplementationSpecific", "backend": backend}]}}]}}));
    let status = Some(json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}));
    let (version, kind, plural) = ("networking.k8s.io/v1", "Ingress", "ingresses");
    Operations { version, kind, plural, namespace, objects, status }.run(&context).await
}

async fn ingress_class(context: Context) -> Result<()> {
    let objects = three(&json!({"spec": {"controller": "example.com/controller"}}));
    let (version, kind, plural) = ("networking.k8s.io/v1", "IngressClass", "ingressclasses");
    Operations { version, kind, plural, namespace: None, objects, status: None }.run(&context).await
}

async fn service_cidrs(context: Context) -> Result<()> {
    let fixed = context.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await?;
    ensure!(fixed["spec"]["cidrs"].as_array().is_some_and(|cidrs| !cidrs.is_empty()), "{fixed}");
    let mut objects = three(&json!({}));
    for (at, object) in objects.iter_mut().enumerate() {
        merge(object, &json!({"spec": {"cidrs": [format!("10.15{at}.0.0/24")]}}));
    }
    let (version, kind, plural) = ("networking.k8s.io/v1", "ServiceCIDR", "servicecidrs");
    Operations { version, kind, plural, namespace: None, objects, status: None }.run(&context).await
}

async fn ip_addresses(context: Context) -> Result<()> {
    let objects = ["a", "b", "c"].map(|letter| {
        let number = 10 + letter.as_bytes()[0] % 200;
        json!({"metadata": {"name": format!("192.168.77.{number}"), "labels": {"ipaddress.kubernetes.io/managed-by": "e2e"}},
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": format!("svc-{letter}")}}})
    });
    let (version, kind, plural) = ("networking.k8s.io/v1", "IPAddress", "ipaddresses");
    Operations { version, kind, plural, namespace: None, objects, status: None }.run(&context).await
}

/// Every pod is reached from a pod, or from a node, by its own address.
async fn granular(context: Context, protocol: &str, from_node: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let nodes = context.nodes().await?;
    let mut servers = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let object = with(
            pod(&format!("netserver-{number}"), &[netexec(&context)]),
            json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": name(node)}}}),
        );
        servers.push(context.start_pod(&namespace, &object).await?);
    }
    // Rows run side by side and share the ports of nodes.
    let (http, udp) = if protocol == "udp" { ("18082", "18083") } else { ("18080", "18081") };
    let args = json!({"args": ["netexec", "--http-port", http, "--udp-port", udp]});
    let mut asker = pod("client", &[with(netexec(&context), args)]);
    if from_node {
        asker["spec"]["hostNetwork"] = true.into();
    }
    context.start_pod(&namespace, &asker).await?;
    let port = if protocol == "udp" { 8081 } else { 8080 };
    for server in &servers {
        let query = format!("/dial?request=hostname&protocol={protocol}&host={}&port={port}&tries=3", address(server));
        let script = format!("timeout 20 wget -q -O - 'http://127.0.0.1:{http}{query}'");
        succeeds(&context, &namespace, &script, &format!("answers={}\n", name(server))).await?;
    }
    Ok(())
}

async fn basic_endpoint(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    service(&context, &namespace, "basic", json!({"selector": {"app": "basic"}, "ports": ports})).await?;
    told(&context, &namespace, "basic", Vec::new()).await?;
    client(&context, &namespace).await?;
    let labels = json!({"metadata": {"labels": {"app": "basic"}}});
    let first = context.start_pod(&namespace, &with(pod("one", &[netexec(&context)]), labels.clone())).await?;
    told(&context, &namespace, "basic", vec![address(&first)]).await?;
    let ask = "timeout 3 wget -q -O - http://basic/hostname";
    succeeds(&context, &namespace, ask, "one").await?;
    let second = context.start_pod(&namespace, &with(pod("two", &[netexec(&context)]), labels)).await?;
    told(&context, &namespace, "basic", vec![address(&first), address(&second)]).await?;
    succeeds(&context, &namespace, ask, "two").await?;
    context.delete(&format!("{}/one", core(&namespace, "pods"))).await?;
    told(&context, &namespace, "basic", vec![address(&second)]).await?;
    succeeds(&context, &namespace, ask, "two").await?;
    context.delete(&format!("{}/two", core(&namespace, "pods"))).await?;
    told(&context, &namespace, "basic", Vec::new()).await
}

async fn multiport(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    let ports = json!([{"name": "one", "port": 80, "targetPort": "portname1"}, {"name": "two", "port": 81, "targetPort": "portname2"}]);
    service(&context, &namespace, "multi", json!({"selector": {"app": "multi"}, "ports": ports})).await?;
    let mut addresses = Vec::new();
    for (pod_name, port_name, number) in [("pod1", "portname1", "100"), ("pod2", "portname2", "101")] {
        let over = json!({"args": ["netexec", "--http-port", number], "ports": [{"name": port_name, "containerPort": number.parse::<u16>()?}]});
        let object =
            with(pod(pod_name, &[with(netexec(&context), over)]), json!({"metadata": {"labels": {"app": "multi"}}}));
        addresses.push(address(&context.start_pod(&namespace, &object).await?));
        told(&context, &namespace, "multi", addresses.clone()).await?;
    }
    succeeds(&context, &namespace, "timeout 3 wget -q -O - http://multi:80/hostname", "pod1").await?;
    succeeds(&context, &namespace, "timeout 3 wget -q -O - http://multi:81/hostname", "pod2").await?;
    for pod in ["pod1", "pod2"] {
        context.delete(&format!("{}/{pod}", core(&namespace, "pods"))).await?;
    }
    told(&context, &namespace, "multi", Vec::new()).await
}

async fn two_protocols(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("client", &[netexec(&context)])).await?;
    context
        .start_pod(
            &namespace,
            &pod(
                "server",
                &[with(netexec(&context), json!({"args": ["netexec", "--http-port", "80", "--udp-port", "80"]}))],
            ),
        )
        .await?;
    let tcp = json!({"name": "tcp-port", "port": 80, "protocol": "TCP"});
    let udp = json!({"name": "udp-port", "port": 80, "protocol": "UDP"});
    let made =
        service(&context, &namespace, "both", json!({"selector": {"name": "server"}, "ports": [tcp, udp]})).await?;
    let cluster = made["spec"]["clusterIP"].as_str().context("no clusterIP")?.to_owned();
    let ask = |protocol: &str| {
        format!(
            "timeout 20 wget -q -O - 'http://127.0.0.1:8080/dial?request=hostname&protocol={protocol}&host={cluster}&port=80&tries=1'"
        )
    };
    for protocol in ["http", "udp"] {
        succeeds(&context, &namespace, &ask(protocol), "answers=server\n").await?;
    }
    let path = format!("{}/both", core(&namespace, "services"));
    context.modify(&path, |service| service["spec"]["ports"] = json!([tcp])).await?;
    succeeds(&context, &namespace, &ask("http"), "answers=server\n").await?;
    succeeds(&context, &namespace, &ask("udp"), "answers=\n").await.map(drop)
}

/// A deployment of two servers behind a service.
async fn servers(context: &Context, namespace: &str) -> Result<()> {
    for number in 1..=2 {
        let object = with(
            pod(&format!("server-{number}"), &[netexec(context)]),
            json!({"metadata": {"labels": {"app": "server"}}}),
        );
        context.start_pod(namespace, &object).await?;
    }
    Ok(())
}

async fn node_addresses(context: &Context) -> Result<Vec<String>> {
    let nodes = context.nodes().await?;
    let internal = |node: &Value| {
        let addresses = node["status"]["addresses"].as_array()?;
        addresses.iter().find(|address| address["type"] == "InternalIP")?["address"].as_str().map(str::to_owned)
    };
    Ok(nodes.iter().filter_map(internal).collect())
}

async fn node_port(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    servers(&context, &namespace).await?;
    let spec = json!({"type": "NodePort", "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]});
    let made = service(&context, &namespace, "outer", spec).await?;
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    succeeds(&context, &namespace, "timeout 3 wget -q -O - http://outer/hostname", "server-").await?;
    for node in node_addresses(&context).await? {
        succeeds(&context, &namespace, &format!("timeout 3 wget -q -O - http://{node}:{port}/hostname"), "server-")
            .await?;
    }
    Ok(())
}

async fn from_external(context: Context, kind: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    service(&context, &namespace, "changing", json!({"type": "ExternalName", "externalName": "foo.example.com"}))
        .await?;
    client(&context, &namespace).await?;
    servers(&context, &namespace).await?;
    let spec = json!({"type": kind, "externalName": null, "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]});
    let changed = context.merge(&format!("{}/changing", core(&namespace, "services")), json!({"spec": spec})).await?;
    succeeds(&context, &namespace, "timeout 3 wget -q -O - http://changing/hostname", "server-").await?;
    if kind == "NodePort" {
        let port = changed["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
        for node in node_addresses(&context).await? {
            succeeds(&context, &namespace, &format!("timeout 3 wget -q -O - http://{node}:{port}/hostname"), "server-")
                .await?;
        }
    }
    Ok(())
}

async fn to_external(context: Context, kind: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    service(&context, &namespace, "changing", json!({"type": kind, "ports": [{"port": 80}]})).await?;
    client(&context, &namespace).await?;
    servers(&context, &namespace).await?;
    service(
        &context,
        &namespace,
        "target",
        json!({"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    )
    .await?;
    let external = format!("target.{namespace}.svc.cluster.local");
    let spec = json!({"type": "ExternalName", "externalName": external, "clusterIP": null, "clusterIPs": null});
    let changed = context.merge(&format!("{}/changing", core(&namespace, "services")), json!({"spec": spec})).await?;
    ensure!(
        changed["spec"]["clusterIP"].as_str().is_none_or(str::is_empty),
        "it keeps {}",
        changed["spec"]["clusterIP"]
    );
    succeeds(&context, &namespace, "timeout 3 wget -q -O - http://changing/hostname", "server-").await.map(drop)
}

async fn affinity(context: Context, node: bool, switch: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    client(&context, &namespace).await?;
    servers(&context, &namespace).await?;
    let kind = if node { "NodePort" } else { "ClusterIP" };
    let first = if switch { "None" } else { "ClientIP" };
    let spec = json!({"type": kind, "sessionAffinity": first, "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]});
    let made = service(&context, &namespace, "sticky", spec).await?;
    let host = if node {
        let port = made["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
        format!("{}:{port}", node_addresses(&context).await?.first().context("no node")?)
    } else {
        made["spec"]["clusterIP"].as_str().context("no clusterIP")?.to_owned()
    };
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do timeout 3 wget -q -O - http://{host}/hostname; echo; done"
    );
    let sticks = |wanted: bool| {
        let (context, namespace, script) = (context.clone(), namespace.clone(), script.clone());
        async move {
            eventually(&format!("answers come from one server: {wanted}"), LIMIT, || async {
                let text = context.exec(&namespace, "client", "main", &script).await?;
                let answers: std::collections::BTreeSet<&str> = text.lines().filter(|line| !line.is_empty()).collect();
                ensure!((answers.len() == 1) == wanted, "{answers:?}");
                Ok(())
            })
            .await
        }
    };
    sticks(!switch).await?;
    if switch {
        let path = format!("{}/sticky", core(&namespace, "services"));
        context.modify(&path, |service| service["spec"]["sessionAffinity"] = "ClientIP".into()).await?;
        sticks(true).await?;
        context
            .modify(&path, |service| {
                service["spec"]["sessionAffinity"] = "None".into();
                service["spec"]["sessionAffinityConfig"] = Value::Null;
            })
            .await?;
        sticks(false).await?;
    }
    Ok(())
}

async fn service_status(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(
        &json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/none", "ports": [{"name": "http", "port": 80}]}}),
    );
    let status = Some(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}));
    let (version, kind, plural) = ("v1", "Service", "services");
    Operations { version, kind, plural, namespace, objects, status }.run(&context).await
}

async fn service_collection(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let label = unique();
    for number in 0..3 {
        let marked = if number < 2 { "delete" } else { "keep" };
        let body = json!({"metadata": {"name": format!("s-{number}"), "labels": {"run": label, "mark": marked}}, "spec": {"ports": [{"port": 80}]}});
        context.create(&core(&namespace, "services"), &body).await?;
    }
    context.delete(&format!("{}?labelSelector=run={label},mark=delete", core(&namespace, "services"))).await?;
    let left = context.list(&format!("{}?labelSelector=run={label}", core(&namespace, "services"))).await?;
    ensure!(left.len() == 1 && name(&left[0]) == "s-2", "{} left", left.len());
    Ok(())
}

async fn service_list(context: Context) -> Result<()> {
    let all = context.list("/api/v1/services").await?;
    ensure!(
        all.iter().any(|service| name(service) == "kubernetes" && service["metadata"]["namespace"] == "default"),
        "not found"
    );
    Ok(())
}

async fn proxy(context: Context, path: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    context.start_pod(&namespace, &pod("server", &[netexec(&context)])).await?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    service(&context, &namespace, "server", json!({"selector": {"name": "server"}, "ports": ports})).await?;
    let targets = [
        format!("{}/server:8080/proxy", core(&namespace, "pods")),
        format!("{}/server:http/proxy", core(&namespace, "services")),
    ];
    for target in targets {
        eventually(&format!("{target} answers"), LIMIT, || async {
            context.call("GET", &format!("{target}/hostname"), None).await?.expect(200).map(drop)
        })
        .await?;
        for method in ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] {
            let answer = context.send(method, &format!("{target}/{path}"), &[], Vec::new()).await?.expect(200)?;
            let wanted = format!("method={method} path=/{path}");
            ensure!(method == "HEAD" || answer.text() == wanted, "{method} {target}: {}", answer.text());
        }
    }
    Ok(())
}
