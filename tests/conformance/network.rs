//! Rows of the area network.

mod forwarding;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    api::{core, group, merge, name},
    context::{Context, LIMIT, eventually},
    operations::{Operations, contains, three, unique},
    pods::{netexec, pod, shell, with},
};

mod table {
    use super::*;

    crate::rows! { "network";
        "API Server" {
            "should have Endpoints and EndpointSlices pointing to API Server" => api_server_endpoints,
            "should provide secure master service" => master_service,
        }
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
        "EndpointSlice" {
            "should create Endpoints and EndpointSlices for Pods matching a Service" => endpoints_of_pods,
            "should create and delete EndpointSlices for a Service with a selector that matches no pods" => |c| empty_service(c, true),
            "should support creating EndpointSlice API operations" => slice_operations,
        }
        "EndpointSliceMirroring" {
            "should mirror a custom Endpoints resource through create update and delete" => mirroring,
        }
        "Endpoints" {
            "should test the lifecycle of an Endpoint" => endpoint_lifecycle,
        }
        "EndpointsController" {
            "should create Endpoints for Pods matching a Service" => endpoints_of_pods,
            "should create and delete Endpoints for a Service with a selector that matches no pods" => |c| empty_service(c, false),
        }
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
    [table::tests(), forwarding::tests()].into_iter().flatten().collect()
}

async fn master_service(context: Context) -> Result<()> {
    let service = context.get(&format!("{}/kubernetes", core("default", "services"))).await?;
    contains(&service["spec"]["ports"], &json!([{"name": "https", "port": 443, "protocol": "TCP"}]))
}

async fn api_server_endpoints(context: Context) -> Result<()> {
    let endpoints = context.get(&format!("{}/kubernetes", core("default", "endpoints"))).await?;
    let addresses = endpoints["subsets"][0]["addresses"].as_array().cloned().unwrap_or_default();
    ensure!(!addresses.is_empty(), "{endpoints}");
    let slices = context
        .list(&format!(
            "{}?labelSelector=kubernetes.io/service-name=kubernetes",
            group("discovery.k8s.io/v1", "default", "endpointslices")
        ))
        .await?;
    let listed: Vec<&Value> = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten().collect();
    for address in &addresses {
        ensure!(listed.iter().any(|endpoint| endpoint["addresses"][0] == address["ip"]), "{address} is in no slice");
    }
    Ok(())
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

async fn service(context: &Context, namespace: &str, name: &str, spec: Value) -> Result<Value> {
    context.create(&core(namespace, "services"), &json!({"metadata": {"name": name}, "spec": spec})).await
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

async fn endpoints_of_pods(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let first = context
        .start_pod(
            &namespace,
            &with(pod("one", &[netexec(&context)]), json!({"metadata": {"labels": {"app": "both"}}})),
        )
        .await?;
    let second = context
        .start_pod(
            &namespace,
            &with(pod("two", &[netexec(&context)]), json!({"metadata": {"labels": {"app": "both"}}})),
        )
        .await?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "udp", "port": 81, "targetPort": 8081, "protocol": "UDP"}]);
    service(&context, &namespace, "single", json!({"selector": {"name": "one"}, "ports": ports})).await?;
    service(&context, &namespace, "both", json!({"selector": {"app": "both"}, "ports": ports})).await?;
    told(&context, &namespace, "single", vec![address(&first)]).await?;
    told(&context, &namespace, "both", vec![address(&first), address(&second)]).await
}

async fn empty_service(context: Context, slices: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    service(&context, &namespace, "empty", json!({"selector": {"no": "pod"}, "ports": [{"port": 80}]})).await?;
    told(&context, &namespace, "empty", Vec::new()).await?;
    context.delete(&format!("{}/empty", core(&namespace, "services"))).await?;
    let path = format!(
        "{}?labelSelector=kubernetes.io/service-name=empty",
        group("discovery.k8s.io/v1", &namespace, "endpointslices")
    );
    if !slices {
        return context.until_gone(&format!("{}/empty", core(&namespace, "endpoints"))).await;
    }
    eventually("the slices are gone", LIMIT, || async {
        let left = context.list(&path).await?;
        ensure!(left.is_empty(), "{} slices", left.len());
        Ok(())
    })
    .await
}

async fn slice_operations(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(
        &json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"name": "http", "port": 80}]}),
    );
    let (version, kind, plural) = ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn endpoint_lifecycle(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects =
        three(&json!({"subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80}]}]}));
    let (version, kind, plural) = ("v1", "Endpoints", "endpoints");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn mirroring(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    service(&context, &namespace, "custom", json!({"ports": [{"name": "http", "port": 80}]})).await?;
    let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": 80}]}]);
    let path = core(&namespace, "endpoints");
    context.create(&path, &json!({"metadata": {"name": "custom"}, "subsets": subsets("10.1.2.3")})).await?;
    told(&context, &namespace, "custom", vec!["10.1.2.3".to_owned()]).await?;
    let selected = format!(
        "{}?labelSelector=kubernetes.io/service-name=custom",
        group("discovery.k8s.io/v1", &namespace, "endpointslices")
    );
    let slices = context.list(&selected).await?;
    let by = &slices[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    ensure!(by == "endpointslicemirroring-controller.k8s.io", "managed by {by}");
    context.modify(&format!("{path}/custom"), |endpoints| endpoints["subsets"] = subsets("10.2.3.4")).await?;
    told(&context, &namespace, "custom", vec!["10.2.3.4".to_owned()]).await?;
    context.delete(&format!("{path}/custom")).await?;
    eventually("no slice is left", LIMIT, || async {
        let left = context.list(&selected).await?;
        ensure!(left.is_empty(), "{} slices", left.len());
        Ok(())
    })
    .await
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
