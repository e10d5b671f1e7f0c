//! The service proxy on a real kernel: connections through cluster addresses,
//! node ports and external addresses, and what happens when endpoints change.

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use skiff_api::{GroupResource, Object, Revision};
use skiff_client::{Snapshot, StoreWriter};
use skiff_host::{netlink::Netlink, netns::Netns, nftables::Nft, route::Route};
use skiff_network::{
    cni::{config::Environment, plugin},
    proxy::{ProxyConfig, run},
};
use support::{ask, cable, eventually, host, serve_tcp, serve_udp};
use tokio_util::sync::CancellationToken;

/// A node with two pods, a machine outside, and a running proxy.
struct Cluster {
    host: Arc<Netns>,
    outside: Netns,
    /// At 10.42.0.2, 10.42.0.3 and 10.42.0.4.
    pods: Vec<Netns>,
    services: StoreWriter,
    slices: StoreWriter,
    revision: u64,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        let (host, outside) = (Arc::new(host()), host_outside());
        cable(&host, "eth0", "192.0.2.1/24", &outside, "eth0", "192.0.2.2/24");
        host.run(|| {
            let mut netlink = Netlink::route().unwrap();
            let link = netlink.link("eth0").unwrap().unwrap().index;
            let default = Route::new("0.0.0.0/0".parse().unwrap(), Some("192.0.2.2".parse().unwrap()), link);
            netlink.replace_route(&default).unwrap();
        })
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "skiff-cni", "subnets": ["10.42.0.0/24"],
            "mtu": 1400, "dataDir": dir.path()});
        let pods = ["a", "b", "c"].map(|id| {
            let pod = Netns::create().unwrap();
            let environment = Environment {
                command: "ADD".into(),
                container_id: id.into(),
                netns: pod.path(),
                interface: "eth0".into(),
            };
            host.run(|| plugin::execute(&environment, conf.to_string().as_bytes()).unwrap()).unwrap();
            pod
        });
        let (services, service_store) = skiff_client::store::store(&[]);
        let (slices, slice_store) = skiff_client::store::store(&[]);
        let (nodes, node_store) = skiff_client::store::store(&[]);
        services.replace(vec![], Revision(1));
        slices.replace(vec![], Revision(1));
        nodes.replace(vec![], Revision(1));
        let snapshot = Snapshot::new();
        snapshot.insert(GroupResource::of::<Service>(), service_store);
        snapshot.insert(GroupResource::of::<EndpointSlice>(), slice_store);
        snapshot.insert(GroupResource::of::<Node>(), node_store);
        let config = ProxyConfig {
            node_name: "n1".into(),
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            nft: Nft::default(),
            table_suffix: String::new(),
            localhost_node_ports: true,
        };
        let stop = CancellationToken::new();
        let (token, netns) = (stop.clone(), Arc::clone(&host));
        let thread = std::thread::spawn(move || {
            netns
                .run(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(run(config, snapshot, token));
                })
                .unwrap();
        });
        let cluster = Cluster {
            host,
            outside,
            pods: pods.into(),
            services,
            slices,
            revision: 1,
            stop,
            thread: Some(thread),
            _dir: dir,
        };
        cluster.wait_for("the table", "chain prerouting");
        cluster
    }

    fn object(&mut self, mut value: Value) -> Arc<Object> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        Arc::new(Object::from_value(&value).unwrap())
    }

    /// A service `default/<name>` with one port named `p`.
    fn service(&mut self, name: &str, mut spec: Value) {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
        let object = self.object(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}));
        self.services.apply(object);
    }

    /// The endpoints of a service: address and node, all on one port.
    fn endpoints(&mut self, name: &str, protocol: &str, port: u16, endpoints: &[(&str, &str)]) {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, node)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
            .collect();
        let object = self.object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-1"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "p", "port": port, "protocol": protocol}],
            "endpoints": endpoints}));
        self.slices.apply(object);
    }

    fn ruleset(&self) -> String {
        self.host.run(|| Nft::default().output(&["list", "ruleset"]).unwrap()).unwrap()
    }

    fn wait_for(&self, what: &str, text: &str) {
        eventually(what, || self.ruleset().contains(text).then_some(()));
    }

    fn wait_until_gone(&self, text: &str) {
        eventually(text, || (!self.ruleset().contains(text)).then_some(()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn host_outside() -> Netns {
    host()
}

fn port(protocol: &str, port: u16, node_port: Option<u16>) -> Value {
    let mut port = json!({"name": "p", "protocol": protocol, "port": port});
    if let Some(number) = node_port {
        port["nodePort"] = number.into();
    }
    json!([port])
}

fn refused(result: std::io::Result<String>) {
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_service_answers_on_every_address_it_has_and_follows_its_endpoints() {
    let mut cluster = Cluster::new();
    serve_tcp(&cluster.pods[0], "0.0.0.0:8080", "a");
    serve_tcp(&cluster.pods[1], "0.0.0.0:8080", "b");
    let ports = port("TCP", 80, Some(30080));
    cluster.service(
        "web",
        json!({"clusterIP": "10.43.0.10", "type": "NodePort", "ports": ports,
        "externalIPs": ["198.51.100.7"]}),
    );
    cluster.wait_for("the service's address", "10.43.0.10");
    refused(ask(&cluster.host, "10.43.0.10:80"));
    refused(ask(&cluster.pods[2], "10.43.0.10:80"));
    refused(ask(&cluster.outside, "192.0.2.1:30080"));

    cluster.endpoints("web", "TCP", 8080, &[("10.42.0.2", "n1"), ("10.42.0.3", "n1")]);
    cluster.wait_for("endpoints", "numgen random mod 2");
    assert!(ask(&cluster.host, "10.43.0.10:80").is_ok(), "from the host");
    assert_eq!(
        ask(&cluster.pods[2], "10.43.0.10:80").unwrap().split(' ').nth(1),
        Some("10.42.0.4"),
        "pods keep theirs"
    );
    assert!(ask(&cluster.outside, "192.0.2.1:30080").unwrap().ends_with("10.42.0.1"), "outside is masqueraded");
    assert!(ask(&cluster.host, "127.0.0.1:30080").is_ok(), "node port on loopback");
    assert!(ask(&cluster.host, "198.51.100.7:80").is_ok(), "external address");
    refused(ask(&cluster.pods[2], "10.43.0.10:81"));
    let seen: std::collections::BTreeSet<String> =
        (0..64).map(|_| ask(&cluster.pods[2], "10.43.0.10:80").unwrap()).collect();
    assert_eq!(seen.len(), 2, "both endpoints are used: {seen:?}");
    let hairpins: Vec<String> = (0..32).map(|_| ask(&cluster.pods[0], "10.43.0.10:80").unwrap()).collect();
    assert!(hairpins.iter().any(|answer| answer == "a 10.42.0.1"), "a pod reaches itself: {hairpins:?}");

    cluster.endpoints("web", "TCP", 8080, &[("10.42.0.3", "n1")]);
    cluster.wait_until_gone("dnat ip to 10.42.0.2:8080");
    assert!((0..8).all(|_| ask(&cluster.pods[2], "10.43.0.10:80").unwrap().starts_with('b')));
    let service = cluster.services.reader().get("default", "web").unwrap();
    cluster.services.delete(service);
    cluster.wait_until_gone("10.43.0.10");
    assert!(!cluster.ruleset().contains("svc4"), "nothing of the service is left");
}

#[test]
fn local_policies_keep_the_source_and_never_leave_the_node() {
    let mut cluster = Cluster::new();
    serve_tcp(&cluster.pods[0], "0.0.0.0:8080", "a");
    let ports = port("TCP", 80, Some(30080));
    cluster.service(
        "web",
        json!({"clusterIP": "10.43.0.10", "type": "NodePort", "ports": ports,
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}),
    );
    cluster.endpoints("web", "TCP", 8080, &[("10.42.0.2", "n1"), ("10.42.9.9", "n2")]);
    cluster.wait_for("local endpoint", "loc4/default/web");
    assert_eq!(ask(&cluster.outside, "192.0.2.1:30080").unwrap(), "a 192.0.2.2");
    assert!((0..16).all(|_| ask(&cluster.pods[2], "10.43.0.10:80").unwrap().starts_with('a')));
    cluster.endpoints("web", "TCP", 8080, &[("10.42.9.9", "n2")]);
    cluster.wait_for("drop verdict", "tcp . 30080 : drop");
    cluster.wait_for("drop verdict", "10.43.0.10 . tcp . 80 : drop");
}

#[test]
fn clients_stick_to_their_endpoint_when_asked_to() {
    let mut cluster = Cluster::new();
    serve_tcp(&cluster.pods[0], "0.0.0.0:8080", "a");
    serve_tcp(&cluster.pods[1], "0.0.0.0:8080", "b");
    let both = [("10.42.0.2", "n1"), ("10.42.0.3", "n1")];
    let spec = |affinity: &str| json!({"clusterIP": "10.43.0.10", "ports": port("TCP", 80, None), "sessionAffinity": affinity});
    cluster.service("web", spec("ClientIP"));
    cluster.endpoints("web", "TCP", 8080, &both);
    cluster.wait_for("sticky rules", "update @aff4");
    let first = ask(&cluster.pods[2], "10.43.0.10:80").unwrap();
    assert!((0..24).all(|_| ask(&cluster.pods[2], "10.43.0.10:80").unwrap() == first));
    cluster.service("web", spec("None"));
    cluster.wait_until_gone("aff4");
    let seen: std::collections::BTreeSet<String> =
        (0..64).map(|_| ask(&cluster.pods[2], "10.43.0.10:80").unwrap()).collect();
    assert_eq!(seen.len(), 2);
    cluster.service("web", spec("ClientIP"));
    cluster.wait_for("sticky rules again", "update @aff4");
}

#[test]
fn a_udp_client_is_moved_when_its_endpoint_goes() {
    let mut cluster = Cluster::new();
    serve_udp(&cluster.pods[0], "0.0.0.0:5353", "a");
    serve_udp(&cluster.pods[1], "0.0.0.0:5353", "b");
    cluster.service("dns", json!({"clusterIP": "10.43.0.10", "ports": port("UDP", 53, None)}));
    cluster.wait_for("the service's address", "10.43.0.10");
    let client = cluster.pods[2].run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let target: SocketAddr = "10.43.0.10:53".parse().unwrap();
    // Not "connected": an answer of "unreachable" must not end the client.
    let ask = |expected: &str| {
        eventually(expected, || {
            client.send_to(b"?", target).unwrap();
            let mut buffer = [0; 8];
            let (length, _) = client.recv_from(&mut buffer).ok()?;
            (&buffer[..length] == expected.as_bytes()).then_some(())
        });
    };
    client.send_to(b"?", target).unwrap();
    cluster.endpoints("dns", "UDP", 5353, &[("10.42.0.2", "n1")]);
    ask("a");
    cluster.endpoints("dns", "UDP", 5353, &[("10.42.0.3", "n1")]);
    ask("b");
}

#[test]
fn a_lost_table_is_made_anew_and_foreign_tables_stay() {
    let mut cluster = Cluster::new();
    let foreign = "table inet foreign {\n chain c {\n }\n}\n";
    cluster.host.run(|| Nft::default().apply(&format!("{foreign}delete table inet skiff\n")).unwrap()).unwrap();
    cluster.service("web", json!({"clusterIP": "10.43.0.10", "ports": port("TCP", 80, None)}));
    cluster.wait_for("the table again", "10.43.0.10");
    assert!(cluster.ruleset().contains("table inet foreign"));
}
