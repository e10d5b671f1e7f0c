//! The overlay between two hosts: namespaces joined by a cable, each running
//! the whole component against one small API; pods by the real CNI plugin.

mod support;

use std::{sync::Arc, thread::JoinHandle};

use serde_json::{Value, json};
use skiff_client::Store;
use skiff_host::{netlink::Netlink, netns::Netns};
use skiff_network::{
    cni::{config::Environment, plugin},
    flannel::{Backend, NetworkConfig, node_files::CNI_CONF_FILE, run},
};
use support::{FakeApi, ask, cable, client, eventually, host, node_snapshot, serve_tcp};
use tokio_util::sync::CancellationToken;

const NET_CONF: &str = r#"{"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan"}}"#;

fn node(name: &str, number: u8) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "resourceVersion": "1"},
        "spec": {"podCIDR": format!("10.42.{number}.0/24"), "podCIDRs": [format!("10.42.{number}.0/24")]}})
}

/// A host that runs the overlay until stopped.
struct Machine {
    netns: Arc<Netns>,
    dir: tempfile::TempDir,
    name: &'static str,
    ip: &'static str,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Machine {
    fn new(name: &'static str, ip: &'static str) -> Machine {
        Machine { netns: Arc::new(host()), dir: tempfile::tempdir().unwrap(), name, ip, running: None }
    }

    fn start(&mut self, api: &Arc<FakeApi>, store: &Store) {
        self.start_with(Backend::default(), api, store);
    }

    /// Host-gw comes from a file of the user's, everything else from the cluster.
    fn start_with(&mut self, backend: Backend, api: &Arc<FakeApi>, store: &Store) {
        let config = NetworkConfig {
            node_name: self.name.into(),
            node_ips: vec![self.ip.parse().unwrap()],
            interface: None,
            cluster_cidrs: vec![],
            backend: Backend::default(),
            net_conf_file: (backend == Backend::HostGw).then(|| {
                let file = self.dir.path().join("net-conf.json");
                std::fs::write(&file, r#"{"Network": "10.42.0.0/16", "Backend": {"Type": "host-gw"}}"#).unwrap();
                file
            }),
            cni_conf_dir: self.dir.path().join("net.d"),
            cni_data_dir: self.dir.path().join("cni"),
            subnet_file: self.dir.path().join("subnet.env"),
            bridge: "cni0".into(),
            nft: Default::default(),
            table_suffix: String::new(),
        };
        let token = CancellationToken::new();
        let (netns, client, snapshot, stop) =
            (Arc::clone(&self.netns), client(api), node_snapshot(store), token.clone());
        let thread = std::thread::spawn(move || {
            netns
                .run(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(run(config, client, snapshot, stop));
                })
                .unwrap();
        });
        self.running = Some((token, thread));
    }

    fn stop(&mut self) {
        if let Some((token, thread)) = self.running.take() {
            token.cancel();
            thread.join().unwrap();
        }
    }

    /// Connects a pod with the configuration the component wrote.
    fn add_pod(&self, id: &str) -> (Netns, String) {
        let path = self.dir.path().join("net.d").join(CNI_CONF_FILE);
        let list: Value = eventually("CNI configuration", || serde_json::from_slice(&std::fs::read(&path).ok()?).ok());
        let mut conf = list["plugins"][0].clone();
        (conf["name"], conf["cniVersion"]) = (list["name"].clone(), list["cniVersion"].clone());
        let pod = Netns::create().unwrap();
        let environment =
            Environment { command: "ADD".into(), container_id: id.into(), netns: pod.path(), interface: "eth0".into() };
        let result = self.netns.run(|| plugin::execute(&environment, conf.to_string().as_bytes()).unwrap()).unwrap();
        let result: Value = serde_json::from_str(&result).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap().split_once('/').unwrap().0.to_owned();
        (pod, address)
    }

    fn route_count(&self) -> usize {
        let routes = self.netns.run(|| Netlink::route().unwrap().routes().unwrap()).unwrap();
        routes.iter().filter(|route| route.destination.to_string().starts_with("10.42.") && route.onlink).count()
    }

    fn tunnel_index(&self) -> u32 {
        self.netns.run(|| Netlink::route().unwrap().link("flannel.1").unwrap().unwrap().index).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_nodes_come_and_go() {
    let (api, store) = FakeApi::new(&[node("n1", 1), node("n2", 2)]);
    api.add(
        "/api/v1/namespaces/kube-system/configmaps/kube-flannel-cfg",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-flannel-cfg"},
            "data": {"net-conf.json": NET_CONF}}),
    );
    let (mut first, mut second) = (Machine::new("n1", "192.0.2.1"), Machine::new("n2", "192.0.2.2"));
    cable(&first.netns, "eth0", "192.0.2.1/24", &second.netns, "eth0", "192.0.2.2/24");
    first.start(&api, &store);
    second.start(&api, &store);
    let (pod_a, address_a) = first.add_pod("aaa");
    let (pod_b, address_b) = second.add_pod("bbb");
    assert_eq!((address_a.as_str(), address_b.as_str()), ("10.42.1.2", "10.42.2.2"));
    eventually("routes to both nodes", || (first.route_count() == 1 && second.route_count() == 1).then_some(()));

    serve_tcp(&pod_b, "10.42.2.2:80", "b");
    assert_eq!(ask(&pod_a, "10.42.2.2:80").unwrap(), "b 10.42.1.2", "pods see each other's addresses");
    assert_eq!(ask(&first.netns, "10.42.2.2:80").unwrap(), "b 10.42.1.0", "a node is seen by its tunnel address");
    serve_tcp(&second.netns, "192.0.2.2:81", "host");
    assert_eq!(ask(&pod_a, "192.0.2.2:81").unwrap(), "host 192.0.2.1", "outside the cluster network: masqueraded");

    let annotations = store.get("", "n1").unwrap().meta.annotations.clone();
    assert_eq!(annotations["flannel.alpha.coreos.com/public-ip"], "192.0.2.1");
    assert_eq!(annotations["flannel.alpha.coreos.com/backend-type"], "vxlan");

    // A restart keeps the device; a third node appears and goes.
    let index = first.tunnel_index();
    first.stop();
    let mut third = node("n3", 3);
    third["metadata"]["annotations"] = json!({
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/public-ip": "192.0.2.3",
        "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:03\"}",
    });
    api.apply(third);
    first.start(&api, &store);
    eventually("route to the third node", || (first.route_count() == 2).then_some(()));
    assert_eq!(first.tunnel_index(), index);
    api.delete("n3");
    eventually("no route to the third node", || (first.route_count() == 1).then_some(()));
    assert_eq!(ask(&pod_a, "10.42.2.2:80").unwrap(), "b 10.42.1.2");
    let patches = api.requests.lock().iter().filter(|request| request.starts_with("PATCH")).count();
    assert_eq!(patches, 2, "each node announces itself once");
}

#[test]
fn host_gw_uses_plain_routes_and_the_full_mtu() {
    let (api, store) = FakeApi::new(&[node("n1", 1), node("n2", 2)]);
    let (mut first, mut second) = (Machine::new("n1", "192.0.2.1"), Machine::new("n2", "192.0.2.2"));
    cable(&first.netns, "eth0", "192.0.2.1/24", &second.netns, "eth0", "192.0.2.2/24");
    first.start_with(Backend::HostGw, &api, &store);
    second.start_with(Backend::HostGw, &api, &store);
    let (pod_a, _) = first.add_pod("aaa");
    let (pod_b, _) = second.add_pod("bbb");
    serve_tcp(&pod_b, "10.42.2.2:80", "b");
    let answer = eventually("an answer from the other node", || ask(&pod_a, "10.42.2.2:80").ok());
    assert_eq!(answer, "b 10.42.1.2");
    let links = first.netns.run(|| Netlink::route().unwrap().links().unwrap()).unwrap();
    assert!(links.iter().all(|link| link.kind.as_deref() != Some("vxlan")), "{links:?}");
    assert_eq!(links.iter().find(|link| link.name == "cni0").unwrap().mtu, 1500);
}
